"""Other libraries: conversions to and from Optax, and states in `jax.export`.

Most libraries accept a transformation unchanged, as a pair `(init, update)`: flax's TrainState and
nnx.Optimizer, equinox, haiku, optimistix, orbax. `to_optax` is for those that check its type.
"""

from gradflow.interop._export import register_for_export as register_for_export
from gradflow.interop._optax import from_optax as from_optax
from gradflow.interop._optax import to_optax as to_optax
from gradflow.interop._optax_state import from_optax_state as from_optax_state

__all__ = [
    "from_optax",
    "from_optax_state",
    "register_for_export",
    "to_optax",
]
