"""Reads the file of an experiment: a line with its settings, then a line for each finished part."""

import json
from pathlib import Path
from typing import Any, NamedTuple


class FileKind(NamedTuple):
    """The function that writes a file, what the file holds, and the format in its first line."""

    owner: str
    noun: str
    format: str


SWEEP = FileKind("sweep", "sweep", "gradflow sweep 1")
COMPARISON = FileKind("compare", "comparison", "gradflow comparison 1")


def read_records(path: Path, kind: FileKind) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The settings in the first line, and the records in the others.

    An incomplete last line, as after a power failure, is ignored.
    """
    header: dict[str, Any] | None = None
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            data = json.loads(line)
        except json.JSONDecodeError:
            data = None
        if number > 0:
            records += [] if data is None else [data]
        elif isinstance(data, dict) and data.get("format") == kind.format:
            header = data
        else:
            raise ValueError(
                f"{kind.owner}: argument 'file' must be the file of a {kind.noun}; "
                f"got {path}, which is not one"
            )
    return header, records
