"""States in 8 or 4 bits per number, for any optimizer."""

from typing import Any

import jax

from gradflow._coding._make import quantized_leaf
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Size
from gradflow._types import Pair
from gradflow.wrappers._coded_state import Coder, Field, check_real, check_rounding, coded_state


@transformation
def quantize_state(
    inner: GradientTransformation,
    bits: int = 8,
    block: Size = 256,
    min_size: Size = 4096,
    rounding: str = "stochastic",
) -> Pair:
    """Keeps the averages in the state of `inner` in 8 or 4 bits per number. The rules compute in float32.

        mean = sign(code) * (code / 127)^2 * scale        code from -127 to 127; / 7 with 4 bits
        square = (code / 255)^4 * scale                   code from 0 to 255, 0 for 0 alone

    Each block along an axis has one float32 `scale`, the largest absolute value in it. Codes have the
    parameter's shape, so they are sharded like it. Steps communicate where devices have parts of blocks: let
    `block` divide the length of each device's piece. With explicit axes each device updates its own.

    Args:
      bits: 8 or 4. With 4, means have 4 bits, and squares 8: fewer make them NaN or scatter steps.
      block: most numbers with one scale; even with 4 bits. 256 costs 1/64 byte per number.
      min_size: smaller arrays stay as they are, and those of symbolic size in an exported program.
      rounding: "stochastic" has no bias: a hash of seed, step and place decides. "nearest" loses what is
        smaller than half a step, so averages with a decay near 1 stand still.

    Sums and copies of parameters, which would lose small changes, stay as they are. A state keeps the form
    that it was made in. It saves memory, not time on a CPU, where a step takes 3 times as long. Elementwise
    rules update their blocks in place, on a GPU from Ampere on. Raises TypeError for a complex average.
    Source: Dettmers et al. 2021, arXiv:2110.02861, for blocks; codes by arithmetic instead of a table.

    >>> import gradflow as gf
    >>> print(gf.quantize_state(gf.adamw(1e-3), bits=4))
    quantize_state(adamw(0.001), bits=4)
    """
    if bits not in (4, 8) or isinstance(bits, bool):
        raise ValueError(f"quantize_state: argument 'bits' must be 4 or 8; got {describe(bits)}")
    if bits == 4 and (block % 2 or block < 4):
        raise ValueError(
            f"quantize_state: argument 'block' must be even and at least 4 with 4 bits; got {block}"
        )
    check_rounding("quantize_state", rounding)

    def coder_of(field: Field) -> Coder | None:
        if field.role not in ("mean", "square"):
            return None

        def code(leaf: jax.Array, seed: Any) -> Any:
            if not isinstance(leaf.size, int) or leaf.size < min_size:
                return leaf
            check_real(field, leaf)
            return quantized_leaf(leaf, seed, field.role, bits, block)

        return code

    return coded_state(inner, coder_of, rounding)
