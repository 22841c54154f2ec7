"""Steps of both libraries, compiled, and what they cost."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax

import gradflow as gf
from benchmarks.aot.cases import GROUPS, NAMED_ONLY, SKIPPED, lowered, pair
from benchmarks.aot.platforms import Compiler
from benchmarks.exact import nbytes, scratch
from benchmarks.hlo import Cost, cost, held


@dataclass(frozen=True)
class Figures:
    """What a compiled step costs."""

    scratch: int
    cost: Cost
    seconds: float


@dataclass(frozen=True)
class Row:
    """One step of gradflow and of the peer, in bytes; `least` is what a step must read and write."""

    group: str
    name: str
    model: int
    largest_leaf: int
    least: int
    ours: Figures
    peer: Figures


class Failed(NamedTuple):
    """A row that is not compiled, and why."""

    group: str
    name: str
    why: str


def figures(compiler: Compiler, lowered: Any) -> Figures:
    """Compiles a step, and reads what it costs."""
    start = time.perf_counter()
    program = compiler.compile(lowered)
    seconds = time.perf_counter() - start
    text = program.as_text()
    # A TPU's compiler adds the tables of its reads ahead, which do not grow with the model.
    memory = held(text) if compiler.platform == "v5e" else scratch(program) or 0
    return Figures(memory, cost(text), seconds)


# A peer's figures by group and name, from an earlier run of the same versions.
Peers = Mapping[tuple[str, str], Figures]


def start_row(
    compiler: Compiler, group_name: str, name: str, pool: Executor, peers: Peers
) -> Callable[[], Row | Failed]:
    """Traces a row in this thread and compiles it in the pool's; the result waits for that."""
    if why := SKIPPED.get((compiler.platform, name)):
        return lambda: Failed(group_name, name, why)
    group = GROUPS[group_name]
    like = group.like()
    ours, peer = pair(name)
    known = peers.get((group_name, name))
    libraries = [("gradflow", ours, gf.apply_updates)]
    if known is None:
        libraries.append(("Optax", peer, optax.apply_updates))
    started = []
    for library, tx, apply in libraries:
        try:
            step = lowered(compiler, group, tx, apply, name)
        except NotImplementedError as error:
            failed = _failed(group_name, name, library, error)
            return lambda: failed
        started.append((library, pool.submit(figures, compiler, step)))
    state = jax.eval_shape(ours.init, like)
    least = nbytes(like) + 2 * (nbytes(like) + nbytes(state))
    largest = max(nbytes(leaf) for leaf in jax.tree.leaves(like))

    def finish() -> Row | Failed:
        found = []
        for library, future in started:
            try:
                found.append(future.result())
            except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
                return _failed(group_name, name, library, error)
        mine, theirs = (*found, known) if known else found
        return Row(group_name, name, nbytes(like), largest, least, mine, theirs)

    return finish


def _failed(group_name: str, name: str, library: str, error: Exception) -> Failed:
    return Failed(group_name, name, f"{library}: {str(error).strip().splitlines()[0][:160]}")


def measured(compiler: Compiler, group_name: str, name: str, peers: Peers) -> Row | Failed:
    """A row of both libraries; what `peers` has is not compiled again."""
    with ThreadPoolExecutor(2) as pool:
        return start_row(compiler, group_name, name, pool, peers)()


def rows_of(compiler: Compiler, only: Sequence[str], peers: Peers) -> Iterator[Row | Failed]:
    """The rows of groups or of names; without any, those of all groups that need not be named."""
    wanted = [
        (group_name, name)
        for group_name, group in GROUPS.items()
        for name in group.names()
        if group_name in only or (group_name not in NAMED_ONLY and (not only or name in only))
    ]
    started: deque[Callable[[], Row | Failed]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for group_name, name in wanted:
            started.append(start_row(compiler, group_name, name, pool, peers))
            if len(started) > 2 * (os.cpu_count() or 1):  # programs that wait take memory
                yield started.popleft()()
        while started:
            yield started.popleft()()
