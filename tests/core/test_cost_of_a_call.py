"""What a call costs in Python: functions entered by a trace, and memory kept by caches."""

import collections
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf

ROOT = str(Path(gf.__file__).parent) + os.sep
PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}


def entered(make: Callable[[], Any]) -> tuple[int, int]:
    """gradflow's functions that one traced update enters: before the first arithmetic, and in all."""
    tx = make()
    state = tx.init(PARAMS)
    jax.jit(tx.update).trace(PARAMS, state, PARAMS)  # rules are traced once per type of leaf
    tx = make()
    counts: collections.Counter[str] = collections.Counter()

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event != "call":
            return
        file = frame.f_code.co_filename
        if file.startswith(ROOT):
            counts["all"] += 1
        elif "before" not in counts and file.endswith(("lax/lax.py", "numpy/ufuncs.py", "array_methods.py")):
            counts["before"] = counts["all"]

    def update(*operands: Any) -> Any:
        sys.setprofile(profile)
        try:
            return tx.update(*operands)
        finally:
            sys.setprofile(None)

    jax.jit(update).trace(PARAMS, state, PARAMS)
    return counts["before"], counts["all"]


def test_few_functions_are_entered_by_a_traced_update() -> None:
    before, _ = entered(lambda: gf.adam(1e-3))
    assert 0 < before <= 95  # three for each array, of which is_on_cpus asks whether it is on several
    _, whole = entered(lambda: gf.adamw(1e-3))
    # A rule that is traced once enters a few for each leaf, and none of jax.numpy, which took twice the time.
    assert 60 < whole <= 410


def step(tx: Any) -> None:
    state = tx.init(PARAMS)
    updates, state = tx.update(PARAMS, state, PARAMS)
    tx.update(updates, state, PARAMS)


WITH_A_TRACED_NUMBER = {
    "a number": lambda x: gf.sgd(x),
    "a schedule": lambda x: gf.sgd(gf.cosine_decay_schedule(x, 10)),
    "a joined schedule": lambda x: gf.sgd(gf.join_schedules([gf.constant_schedule(x)] * 2, [3])),
    "a partition": lambda x: gf.partition({"w": gf.adam(x), "**": gf.sgd(0.1)}),
    "a mask": lambda x: gf.masked(gf.scale(x), gf.paths("w")),
    "a nested wrapper": lambda x: gf.MultiSteps(
        gf.apply_if_finite(gf.chain(gf.clip(1.0), gf.adamw(x)), 3), 2
    ),
    "a replaced number": lambda x: gf.replace(gf.sgd(gf.cosine_decay_schedule(0.1, 10)), {"init_value": x}),
    "a tunable": lambda x: gf.tunable(gf.sgd(x)),
}


@pytest.mark.parametrize("name", WITH_A_TRACED_NUMBER)
def test_no_tracer_is_kept(name: str) -> None:
    """Neither for traced operands nor for concrete ones beside a traced number."""

    def concrete(x: Any) -> Any:
        step(WITH_A_TRACED_NUMBER[name](x))
        return x

    def traced(x: Any, params: Any) -> Any:
        tx = WITH_A_TRACED_NUMBER[name](x)
        return tx.update(params, tx.init(params), params)[0]

    with jax.checking_leaks():
        jax.jit(concrete)(0.1)
        jax.jit(traced)(0.1, PARAMS)


def test_module_level_caches_hold_no_arrays() -> None:
    rate = jnp.float32(0.5)
    tx = gf.chain(gf.clip(jnp.float32(2.0)), gf.sgd(gf.linear_schedule(rate, 0.0, 3)))
    step(tx)
    before = len(gc.get_referrers(rate))
    del tx
    gc.collect()
    assert len(gc.get_referrers(rate)) < before
    assert not [r for r in gc.get_referrers(rate) if type(r).__module__.startswith("gradflow")]


def test_ten_thousand_transformations_leave_memory_flat() -> None:
    """Each is another value with another number; caches are bounded and keyed without numbers."""
    params = {"w": jnp.ones(2)}

    def build_and_step(first: int, count: int) -> None:
        for i in range(first, first + count):
            tx = gf.chain(gf.clip(1.0 + i), gf.sgd(1e-3 + 1e-7 * i))
            tx.update(params, tx.init(params), params)
        gc.collect()

    build_and_step(0, 1000)
    before = sys.getallocatedblocks()
    build_and_step(1000, 9000)
    assert sys.getallocatedblocks() - before < 9000, "less than one object for each"


def test_defaults_are_valid_arguments() -> None:
    """They are not checked again by calls."""
    from gradflow._expressions._registry import OWN_FACTORIES

    checked = 0
    for factory in OWN_FACTORIES.values():
        for name, argument in factory.checked.items():
            default = factory.parameters[name].default
            if default is not factory.parameters[name].empty:
                argument.check(factory.name, name, default)
                checked += 1
    assert checked > 200
