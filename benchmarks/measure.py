"""Interleaved timing, and the exact figures that need no clock."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Ratio(NamedTuple):
    """Peer over gradflow: medians of interleaved runs, and the spread of the paired ratios."""

    ratio: float
    low: float
    high: float
    seconds: float  # gradflow's median, for orientation only


def interleaved(ours: Callable[[], Any], peer: Callable[[], Any], runs: int) -> Ratio:
    """Times two functions in turns, ours first in one half of the turns and the peer in the other."""
    ours(), peer()
    mine: list[float] = []
    theirs: list[float] = []
    gc.collect()
    gc.disable()
    try:
        for turn in range(runs):
            order = ((ours, mine), (peer, theirs))
            for function, times in order if turn % 2 == 0 else order[::-1]:
                start = time.perf_counter()
                jax.block_until_ready(function())
                times.append(time.perf_counter() - start)
    finally:
        gc.enable()
    paired = sorted(t / m for t, m in zip(theirs, mine, strict=True))
    quarter = len(paired) // 4
    return Ratio(
        statistics.median(theirs) / statistics.median(mine),
        paired[quarter],
        paired[-1 - quarter],
        statistics.median(mine),
    )


def repeated(function: Callable[[], Any], times: int) -> Callable[[], Any]:
    """A function called several times as one run, for what is too short for the clock."""

    def run() -> Any:
        result = None
        for _ in range(times):
            result = function()
        return result

    return run


def equations(jaxpr: Any, seen: set[int] | None = None) -> int:
    """The equations of a program, those of an inner program that is shared counted once."""
    seen = set() if seen is None else seen
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns") and id(inner) not in seen:
                seen.add(id(inner))
                total += equations(inner, seen)
    return total
