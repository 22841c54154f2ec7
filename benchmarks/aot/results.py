"""Rows as data, and the peer's figures from an earlier run."""

import importlib.metadata
import json
import platform as python_platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradflow as gf
from benchmarks.aot.platforms import PLATFORMS
from benchmarks.aot.rows import Failed, Figures, Peers, Row
from benchmarks.hlo import Cost

FOLDER = Path(__file__).parents[1] / "results"


def about(platform: str) -> dict[str, Any]:
    """For what the rows are compiled, and by what."""
    wheels = ("jax", "jaxlib", "optax", *PLATFORMS[platform].modules.values())
    versions = {"gradflow": gf.__version__, **{wheel: importlib.metadata.version(wheel) for wheel in wheels}}
    return {
        "platform": PLATFORMS[platform].title,
        "evidence": "compiled ahead of time; nothing ran",
        "versions": versions,
        "python": python_platform.python_version(),
    }


def write_json(path: str, rows: Sequence[Row | Failed], facts: Mapping[str, Any]) -> None:
    """All rows as data."""
    plain = [asdict(row) if isinstance(row, Row) else row._asdict() for row in rows]
    for row in plain:
        for side in ("ours", "peer"):
            if side in row:
                row[side]["seconds"] = round(row[side]["seconds"], 2)
    lines = ",\n  ".join(json.dumps(row) for row in plain)
    Path(path).write_text(f'{{"about": {json.dumps(dict(facts))},\n "rows": [\n  {lines}\n]}}\n')


def stored_peers(platform: str) -> Peers:
    """The peer's figures in the stored results, if the same compilers and the same peer made them."""
    now = about(platform)
    files = [plain for plain in _stored(platform) if _same_but_gradflow(plain["about"], now)]
    rows = [_row(plain) for each in files for plain in each["rows"]]
    return {(row.group, row.name): row.peer for row in rows if isinstance(row, Row)}


def stored_rows(platform: str) -> list[Row | Failed]:
    """The rows of the stored results."""
    return [_row(plain) for each in _stored(platform) for plain in each["rows"]]


def _stored(platform: str) -> list[Any]:
    """The stored results: those of most groups, and of the groups that are compiled when they are named."""
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"aot_{platform}*.json"))]


def _row(plain: Mapping[str, Any]) -> Row | Failed:
    if "peer" not in plain:
        return Failed(**plain)
    return Row(**{**plain, "ours": _figures(plain["ours"]), "peer": _figures(plain["peer"])})


def _same_but_gradflow(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    versions = [{k: v for k, v in each["versions"].items() if k != "gradflow"} for each in (a, b)]
    return versions[0] == versions[1] and a["platform"] == b["platform"]


def _figures(plain: Mapping[str, Any]) -> Figures:
    branches = tuple(map(tuple, plain["cost"]["branches"]))
    return Figures(plain["scratch"], Cost(**{**plain["cost"], "branches": branches}), plain["seconds"])
