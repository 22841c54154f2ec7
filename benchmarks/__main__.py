"""`python -m benchmarks [--quick] [--only steps,tracing] [--json FILE]`."""

import argparse
import json
import platform

import jax
import optax

import gradflow
from benchmarks.lbfgs import lbfgs
from benchmarks.muon import muon
from benchmarks.rows import ROWS as GENERAL
from benchmarks.rows import Row
from benchmarks.training import training

ROWS = {**GENERAL, "muon": muon, "lbfgs": lbfgs, "training": training}


def show(row: Row) -> str:
    """One line of the table: how many times gradflow is ahead, or the two exact figures."""
    left = f"{row.name:<24} {row.figure:<26}"
    if row.ratio is not None:
        return f"{left} {row.ratio.ratio:6.2f} x  [{row.ratio.low:.2f}, {row.ratio.high:.2f}]"
    return f"{left} {row.ours:g} against {row.peer:g}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller trees and fewer runs")
    parser.add_argument("--only", default=",".join(ROWS), help=f"groups of rows: {', '.join(ROWS)}")
    parser.add_argument("--json", help="write the rows to this file")
    arguments = parser.parse_args()
    print(
        f"gradflow {gradflow.__version__} against optax {optax.__version__}, jax {jax.__version__}, "
        f"{jax.devices()[0].device_kind}, Python {platform.python_version()}.\n"
        "Ratios of medians of interleaved runs, Optax over gradflow, with the middle half of the pairs."
    )
    rows = []
    for group in arguments.only.split(","):
        if group not in ROWS:
            parser.error(f"no group of rows is called '{group}'; there are {', '.join(ROWS)}")
        for row in ROWS[group](arguments.quick):
            print(show(row), flush=True)
            rows.append(row)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump([{**row._asdict(), "ratio": row.ratio and row.ratio._asdict()} for row in rows], file)


if __name__ == "__main__":
    main()
