"""The command: `python -m benchmarks.aot --platform h100|v5e`."""

import argparse
import time
from pathlib import Path

import jax

from benchmarks import aot, matrices
from benchmarks.aot import results, states, table
from benchmarks.aot.cases import GROUPS, names
from benchmarks.aot.platforms import PLATFORMS, Compiler, missing
from benchmarks.aot.rows import Failed, Row, rows_of


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aot", description=aot.__doc__)
    parser.add_argument("--platform", required=True, metavar="|".join(PLATFORMS))
    parser.add_argument(
        "--only",
        default="",
        help=f"groups ({', '.join(GROUPS)}) or names of rows, split by ';'; or states or matrices, alone",
    )
    parser.add_argument("--json", metavar="FILE", help="write the rows as data")
    parser.add_argument("--table", metavar="FILE", help="write them as Markdown")
    parser.add_argument(
        "--fresh", action="store_true",
        help="compile the peer, too; else its figures are the stored ones, if the same versions made them",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    if why := missing(given.platform):
        parser.error(why)
    only = [name.strip() for name in given.only.split(";") if name.strip()]
    if only == ["states"]:
        _show_states(given.platform)
        return
    if only == ["matrices"]:
        _show_matrices(given.platform)
        return
    known = [*GROUPS, *names()]
    for name in only:
        if name not in known:
            parser.error(
                f"no group or row is called '{name}'; there are {'; '.join(known)}; or states or matrices, "
                "alone"
            )
    _show_rows(given, only)


def _show_states(platform: str) -> None:
    print(states.line(None))
    for row in states.state_rows(Compiler(platform)):
        print(states.line(row), flush=True)


def _show_matrices(platform: str) -> None:
    print(matrices.line(None))
    for row in matrices.rows(Compiler(platform)):
        print(matrices.line(row), flush=True)


def _show_rows(given: argparse.Namespace, only: list[str]) -> None:
    start, started = time.perf_counter(), time.process_time()
    facts = results.about(given.platform)
    print(f"{facts['platform']}, {facts['evidence']}; {facts['versions']}\n\n{table.line(None)}", flush=True)
    found: list[Row | Failed] = []
    peers = {} if given.fresh else results.stored_peers(given.platform)
    if peers:
        print("Optax's figures are stored ones of the same versions; --fresh compiles them again.")
    for row in rows_of(Compiler(given.platform), only, peers):
        if not found or row.group != found[-1].group:
            print(f"-- {row.group}", flush=True)
        found.append(row)
        print(table.line(row), flush=True)
        if given.json:  # after each row: a run that is stopped leaves its rows
            results.write_json(given.json, found, facts)
    spent = f"{time.perf_counter() - start:.0f} s, {time.process_time() - started:.0f} s of the processor"
    print(f"\n{table.means(found)}\n{spent}")
    if given.table:
        Path(given.table).write_text(table.markdown(found))


if __name__ == "__main__":
    # The described device compiles; everything else is the host's.
    jax.config.update("jax_platforms", "cpu")
    main()
