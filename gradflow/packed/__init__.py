"""Parameters in one buffer for each dtype, for models of very many leaves.

    params = gradflow.packed.pack(params)
    state = tx.init(params)                                     # the state is packed too

    def step(params, state, batch):
        grads = jax.grad(lambda p: loss(gradflow.packed.unpack(p), batch))(params)
        updates, state = tx.update(grads, state, params)        # a few large arrays
        return gradflow.apply_updates(params, updates), state

Every leaf costs a step its share of dispatch and of kernels, however small it is; a packed tree has one leaf
for each dtype. Patterns of paths, masks, labels and layer-wise rules mean the leaves of the tree that was
packed, and the numbers are those of that tree. A stage that works on whole leaves, such as Muon on matrices,
unpacks what it gets and packs what it gives.

The loss cuts its leaves out of the buffer, and their gradient is joined: both are moved once more. So packing
pays where leaves are many and small, and least where a few large ones hold most of the numbers.

Buffers have blocks of 128 numbers and each leaf begins one, so very small leaves grow. On a mesh a buffer has
one sharding: whole on each device, or cut evenly along automatic axes. Leaves that are sharded by their own
axes are better left unpacked.
"""

from gradflow.packed._pack import Packed as Packed
from gradflow.packed._pack import pack as pack
from gradflow.packed._pack import unpack as unpack

__all__ = [
    "Packed",
    "pack",
    "unpack",
]
