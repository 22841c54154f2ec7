"""Files of named arrays that are whole or refused."""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradflow._checked import MAPPING, PATH, checked, is_number_or_array
from gradflow._errors import describe
from gradflow._expressions._printing import shorten
from gradflow.checkpoint._formats import FORMATS, MANIFEST, Format

PathLike = str | os.PathLike[str]
# What a header that was tampered with leads to: it may nest without end, or claim more than a memory holds.
_NOT_WHOLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError)


@checked(path=PATH, d=MAPPING)
def save(path: PathLike, d: Mapping[str, Any]) -> None:
    """Writes a mapping of named arrays to a file, which is then either whole or the one before.

        save("run.npz", {**state_dict(tx, state), "step": step})

    The bytes go to a temporary file in the same directory, are forced to the disk, and only then take the
    name. So a process that is killed at any time leaves the older file, and perhaps a hidden `.tmp` file.
    A checksum of every array is inside.

    Args:
      path: ends in `.npz` or `.safetensors`. Programs of these formats read the file too.
      d: from `state_dict`, and any further arrays or numbers, such as parameters by name.

    Raises TypeError for a value that is not an array of numbers, ValueError for another ending.
    """
    path = Path(path)
    form = _format_of("save", path)
    arrays = {}
    for name, value in d.items():
        if not isinstance(name, str) or name == MANIFEST or not is_number_or_array(value):
            raise TypeError(
                f"save: entry {describe(name)} must be an array of numbers by name; got {describe(value)}"
            )
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        # Files have the bytes of little-endian numbers.
        arrays[name] = array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array
    data = form.write(arrays, json.dumps({name: _checksum(array) for name, array in arrays.items()}))
    _replace(path, data)


@checked(path=PATH)
def load(path: PathLike) -> dict[str, np.ndarray]:
    """Reads a file that `save` wrote, for `load_state_dict`.

        state, report = load_state_dict(tx, params, load("run.npz"))

    Raises ValueError naming the file if it is cut off, changed, of another program, or of the other format;
    FileNotFoundError if there is none. Nothing in a file is executed.
    """
    path = Path(path)
    form = _format_of("load", path)
    data = path.read_bytes()
    if not form.start(data):
        raise ValueError(f"load: '{path}' must be a {path.suffix} file; its content is of another format")
    try:
        arrays, manifest = form.read(data)
        sums = None if manifest is None else json.loads(manifest)
    except _NOT_WHOLE as error:
        raise ValueError(
            f"load: '{path}' must be a whole {path.suffix} file; {shorten(str(error), 300)}"
        ) from None
    if not isinstance(sums, dict):
        raise ValueError(f"load: '{path}' must be written by gradflow.checkpoint.save; it has no checksums")
    for name in sums.keys() ^ arrays.keys():
        state = "is missing" if name in sums else "was added"
        raise ValueError(f"load: '{path}' must be as it was saved; the entry '{shorten(name, 300)}' {state}")
    for name, array in arrays.items():
        if sums[name] != _checksum(array):
            raise ValueError(
                f"load: '{path}' must be as it was saved; the entry '{shorten(name, 300)}' has changed"
            )
    return arrays


def _format_of(owner: str, path: Path) -> Format:
    if path.suffix not in FORMATS:
        raise ValueError(f"{owner}: argument 'path' must end in {' or '.join(FORMATS)}; got '{path.name}'")
    return FORMATS[path.suffix]


def _checksum(array: np.ndarray) -> str:
    # npz has no names for bfloat16 and narrower types: they come back as plain bytes, of kind V.
    kind = f"{array.dtype.kind}{array.dtype.itemsize}{array.shape}"
    return hashlib.sha256(kind.encode() + array.tobytes()).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Writes the bytes under another name, forces them to the disk, and renames."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # on POSIX the rename itself is forced too
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
