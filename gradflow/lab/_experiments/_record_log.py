"""Writes the finished parts of an experiment to a file, from which the experiment continues."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from gradflow._expressions._printing import shorten
from gradflow.lab._results._record_file import FileKind, read_records
from gradflow.lab._results._result import plain


class RecordLog:
    """The records of one file, or of none. Each is written at once, and an existing file is read first."""

    def __init__(self, path: str | os.PathLike[str] | None, header: dict[str, Any], kind: FileKind) -> None:
        self.header = {"format": kind.format, **header}
        self.found: list[dict[str, Any]] = []
        self._path = None if path is None else Path(path)
        self._kind = kind
        self._is_new = True
        if self._path is not None and self._path.exists() and self._path.stat().st_size:
            header_found, self.found = read_records(self._path, kind)
            self._check(header_found or {})
            self._is_new = False

    def _check(self, found: dict[str, Any]) -> None:
        """Raises ValueError if the file belongs to another experiment."""
        wanted = json.loads(json.dumps(plain(self.header)))
        for name, value in wanted.items():
            old = found.get(name)
            if name == "first_losses":
                a, b = (np.asarray(v, float) for v in (value, old))  # machines round differently
                same = a.shape == b.shape and np.allclose(a, b, rtol=1e-3, equal_nan=True)
            else:
                same = value == old
            if not same:
                owner, noun, _ = self._kind
                theirs, ours = _difference(old, value)
                raise ValueError(
                    f"{owner}: argument 'file' must be new or of the same {noun}; got {self._path}, "
                    f"which holds another {noun} ({name.replace('_', ' ')}: {theirs} there, {ours} here). "
                    "Choose another file or folder, or remove this file"
                )

    def add(self, record: dict[str, Any]) -> None:
        """Writes a record to the file."""
        if self._path is None:
            return
        if self._is_new:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(_line(self.header), encoding="utf-8")
            self._is_new = False
        else:
            self._end_the_last_line(self._path)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(record))

    @staticmethod
    def _end_the_last_line(path: Path) -> None:
        """Prepares the file for another line, after one that may be incomplete."""
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _line(data: dict[str, Any]) -> str:
    return json.dumps(plain(data), allow_nan=False) + "\n"


def _difference(old: Any, new: Any) -> tuple[str, str]:
    """Two values for an error message; of two dicts the items that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return _difference(
            [[k, v] for k, v in old.items() if [k, v] not in [[*pair] for pair in new.items()]],
            [[k, v] for k, v in new.items() if [k, v] not in [[*pair] for pair in old.items()]],
        )
    return shorten(json.dumps(old), 80), shorten(json.dumps(new), 80)
