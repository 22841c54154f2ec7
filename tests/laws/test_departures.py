"""Why 200 steps in float32 are not those in float64, for each case that `FLOAT64_DEPARTURES` lists.

Float64 with nothing of float32 but what the reason names departs as well; with float32's draws it does not.
It compiles three programs per case, so the plain run leaves it out: `python -m pytest -m departures`.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import FLOAT64_REASONS, build

from laws.arithmetic import RANGE, ROUNDING, draws_of_float32, narrowed, of_float32
from laws.support import assert_finite
from laws.test_spikes import BY_SIZE, REFERENCES, departs, held_parameters, steps_of, with_short_memory

pytestmark = pytest.mark.departures

BITS = {"range": RANGE, "rounding": ROUNDING}


def updates(case: str, gradients: Any, dtype: Any, bits: Any = None) -> Any:
    """The updates of all steps, by each of several trees of gradients."""
    run = steps_of(with_short_memory(build(case)))
    run = jax.jit(run if bits is None else narrowed(run, bits))
    params = held_parameters(dtype)
    found = (run(params, {name: jnp.asarray(g, dtype) for name, g in tree.items()})[0] for tree in gradients)
    return [jax.tree.map(np.asarray, u) for u in found]


def references(sizes: list[str]) -> list[Any]:
    """What float32 may take each of these gradients for."""
    return [
        {name: change(np.float64(g)) for name, g in BY_SIZE[size].items()}
        for size in sizes
        for change in REFERENCES.values()
    ]


@pytest.mark.parametrize(("case", "part"), sorted(FLOAT64_REASONS))
def test_the_reason_alone_departs(case: str, part: str) -> None:
    sizes = sorted(FLOAT64_REASONS[case, part])
    taken = [{name: REFERENCES["zero"](g) for name, g in BY_SIZE[size].items()} for size in sizes]
    with jax.enable_x64(True), draws_of_float32() if part == "draws" else contextlib.nullcontext():
        exact = updates(case, references(sizes), np.float64)
    if part in BITS:
        with jax.enable_x64(True), of_float32(BITS[part]):
            found = updates(case, taken, np.float64, BITS[part])
    else:
        found = updates(case, taken, np.float32)
    count = len(REFERENCES)
    for place, size in enumerate(sizes):
        trajectories = exact[count * place : count * (place + 1)]
        if part == "parameters":
            assert any(is_below_rounding(found[place], each) for each in trajectories), size
        else:
            # What departs are numbers: NaN would prove nothing.
            assert_finite(found[place])
            assert departs(found[place], trajectories, size) == (part in BITS), size


def is_below_rounding(found: Any, exact: Any) -> bool:
    """Whether updates differ by half a rounding of the leaf's largest parameter at most."""
    half = {name: 2.0**-24 * np.abs(p).max() for name, p in held_parameters(np.float32).items()}
    return all(np.abs(found[name] - exact[name]).max() <= most for name, most in half.items())
