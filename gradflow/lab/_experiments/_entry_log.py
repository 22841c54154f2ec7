"""Keeps the entries that a comparison has finished, in a file from which it continues."""

import dataclasses
import os
from typing import Any

from gradflow.lab._candidates._candidates import Candidate
from gradflow.lab._experiments._record_log import RecordLog
from gradflow.lab._results._comparison import Entry
from gradflow.lab._results._record_file import COMPARISON


class EntryLog:
    """Finished entries by candidate: the same name, expression and rates are not trained again."""

    def __init__(self, path: str | os.PathLike[str] | None, header: dict[str, Any]) -> None:
        self._log = RecordLog(path, header, COMPARISON)
        self._entries = {record["candidate"]: Entry.of_dict(record["entry"]) for record in self._log.found}

    def get(self, candidate: Candidate) -> Entry | None:
        """The entry of a candidate that an earlier call has finished."""
        return self._entries.get(_key(candidate))

    def add(self, candidate: Candidate, entry: Entry) -> None:
        """Writes an entry to the file."""
        self._log.add({"candidate": _key(candidate), "entry": dataclasses.asdict(entry)})


def _key(candidate: Candidate) -> str:
    """What a candidate runs, as text. Functions without an expression are new in every process."""
    return f"{candidate.name}: {candidate.build(candidate.rates[0])!r} at {list(candidate.rates)}"
