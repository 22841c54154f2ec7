"""Measures gradflow against Optax and torch.optim, side by side in one process.

Every row is a ratio of medians of interleaved runs, the peer's time over gradflow's, with the middle half
of the pairs. It also has exact figures that need no clock, and gradflow's time as a multiple of the machine's
limit.
"""

import argparse
import gc
import importlib.metadata
import importlib.util
import os
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax

import gradflow
from benchmarks import lbfgs, limit, losses, muon, packed, pytorch, rows, small, steps, training
from benchmarks.rows import Row, Skipped

GROUPS: dict[str, Callable[[bool, bool], Iterator[Row | Skipped]]] = {
    "steps": steps.steps,
    "optimizers": steps.every_optimizer,
    "leaves": steps.many_leaves,
    "packed": packed.packed,
    "tracing": small.tracing,
    "dispatch": small.dispatch,
    "init": small.init,
    "eager": small.eager,
    "import": small.importing,
    "muon": muon.muon,
    "lbfgs": lambda quick, every: lbfgs.lbfgs(quick),
    "losses": losses.losses,
    "training": training.training,
    "torch": pytorch.pytorch,
}


def about(quick: bool) -> dict[str, Any]:
    """Returns the versions and the machine on which the rows are measured."""
    versions = {"gradflow": gradflow.__version__, "optax": optax.__version__, "jax": jax.__version__}
    if importlib.util.find_spec("torch"):
        versions["torch"] = importlib.metadata.version("torch")
    return {
        "versions": versions,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "limit": limit.compiled()[1],
        "quick": quick,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def title(facts: dict[str, Any]) -> str:
    """Returns these facts in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    load = f", load {facts['load'][0]}" if facts["load"] else ""
    return f"{versions}, Python {facts['python']}; {facts['processor']}, {facts['cores']} cores{load}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller trees, fewer runs: under 2 minutes")
    parser.add_argument("--all", action="store_true", help="every optimizer at 1000 leaves: half an hour")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups of rows: {', '.join(GROUPS)}")
    parser.add_argument("--json", metavar="FILE", help="write the rows as data")
    parser.add_argument("--table", metavar="FILE", help="write the rows as Markdown")
    parser.add_argument("--chart", metavar="FILE", help="draw the ratios (needs matplotlib)")
    given = parser.parse_args(arguments)
    chosen = given.only.split(",")
    for group in chosen:
        if group not in GROUPS:
            parser.error(
                f"argument '--only' must name groups of rows; got '{group}'. There are {', '.join(GROUPS)}"
            )
    facts = about(given.quick)
    print(f"{title(facts)}\nlimit: {facts['limit']}\n\n{rows.line(None)}", flush=True)
    measured: list[Row | Skipped] = []
    for group in chosen:
        start, processor = time.perf_counter(), time.process_time()
        for row in GROUPS[group](given.quick, given.all):
            measured.append(row._replace(group=group))
            print(rows.line(row), flush=True)
        jax.clear_caches()
        gc.collect()
        took, used = time.perf_counter() - start, time.process_time() - processor
        print(f"-- {group}: {took:.0f} s, {used:.0f} s of processor time", flush=True)
    if given.json:
        rows.write_json(given.json, measured, facts)
    if given.table:
        with open(given.table, "w") as file:
            file.write(f"{title(facts)}; limit: {facts['limit']}.\n\n{rows.markdown(measured)}")
    if given.chart:
        rows.write_chart(given.chart, measured, title(facts))


if __name__ == "__main__":
    main()
