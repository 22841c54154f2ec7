"""Parameters in one buffer for each dtype, for models of very many leaves.

    params = gradflow.packed.pack(params)
    state = tx.init(params)                                     # the state is packed too

    def step(params, state, batch):
        grads = jax.grad(lambda p: loss(gradflow.packed.unpack(p), batch))(params)
        updates, state = tx.update(grads, state, params)        # a few large arrays
        return gradflow.apply_updates(params, updates), state

Every leaf, however small, adds dispatch and kernels to each step; a packed tree has one leaf for each dtype.
Patterns of paths, masks, labels and layer-wise rules refer to the leaves of the original tree, and results
are those of that tree. For a stage that needs whole leaves, such as Muon, trees are unpacked before the call
and packed again after it.

The loss splits the buffer into leaves, and their gradients are concatenated: both are copied once more. So
packing pays where leaves are many and small, and least where a few large leaves hold most of the numbers.

Buffers consist of blocks of 128 numbers, and each leaf starts a block, so very small leaves grow. On a mesh a
buffer has one sharding: replicated, or split evenly along automatic axes. Leaves that are sharded along their
own axes are better left unpacked.
"""

from gradflow.packed._pack import Packed as Packed
from gradflow.packed._pack import pack as pack
from gradflow.packed._pack import unpack as unpack

__all__ = [
    "Packed",
    "pack",
    "unpack",
]
