"""Times functions in interleaved turns: ratios of medians, with the spread of the pairs."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from benchmarks.limit import Limit


class Ratio(NamedTuple):
    """Peer over gradflow: medians of interleaved runs, and the middle half of the paired ratios."""

    ratio: float
    low: float
    high: float
    seconds: float  # gradflow's median, for orientation only


FEWEST = 4  # turns, even for slow functions


def turns(
    functions: Sequence[Callable[[], Any]],
    runs: int,
    budget: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Returns the seconds of each function in each turn, after a warm-up; the order changes every turn.

    There are `runs` turns, or `FEWEST` and those that begin within `budget` seconds. `time.process_time`
    counts the seconds of all threads, in which other programs on the machine have no part.
    """
    for function in functions:
        jax.block_until_ready(function())
    times: list[list[float]] = [[] for _ in functions]
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    try:
        for turn in range(runs):
            if turn >= FEWEST and time.perf_counter() - began > budget:
                break
            for i in range(len(functions)):
                which = (i + turn) % len(functions)
                start = clock()
                jax.block_until_ready(functions[which]())
                times[which].append(clock() - start)
    finally:
        gc.enable()
    return times


def ratio_of(mine: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of two functions, from their seconds in the same turns."""
    paired = sorted(t / m for t, m in zip(theirs, mine, strict=True))
    quarter = len(paired) // 4
    middle = statistics.median(mine)
    return Ratio(statistics.median(theirs) / middle, paired[quarter], paired[-1 - quarter], middle)


def interleaved(ours: Callable[[], Any], peer: Callable[[], Any], runs: int) -> Ratio:
    """Times two functions in turns."""
    return ratio_of(*turns([ours, peer], runs))


def against_limits(
    ours: Callable[[], Any],
    peers: Sequence[Callable[[], Any]],
    limits: Sequence[Limit],
    runs: int,
    budget: float = math.inf,
) -> tuple[list[Ratio], dict[str, float]]:
    """Times all in the same turns: the ratio of each peer, and ours as a multiple of each limit."""
    mine, *others = turns([ours, *peers, *(limit.run for limit in limits)], runs, budget)
    ratios = [ratio_of(mine, times) for times in others[: len(peers)]]
    middle = statistics.median(mine)
    found = zip(limits, others[len(peers) :], strict=True)
    return ratios, {limit.name: middle / (statistics.median(t) * limit.scale) for limit, t in found}


def repeated(function: Callable[[], Any], times: int) -> Callable[[], Any]:
    """Calls a function several times per run, for functions that are too short for the clock."""

    def run() -> Any:
        result = None
        for _ in range(times):
            result = function()
        return result

    return run
