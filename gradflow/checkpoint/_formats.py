"""Mappings of named arrays as bytes, in two formats that other programs read: npz and safetensors."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

Arrays = Mapping[str, np.ndarray]

_SAFETENSORS = {
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64",
}  # fmt: skip
_NAME_OF = {dtype: name for name, dtype in _SAFETENSORS.items()}


class Format(NamedTuple):
    """How a file begins, and its two directions; `read` raises ValueError for bytes of another form."""

    start: Callable[[bytes], bool]
    write: Callable[[Arrays, str], bytes]
    read: Callable[[bytes], tuple[dict[str, np.ndarray], str | None]]


MANIFEST = "gradflow_checksums"


def _write_npz(arrays: Arrays, manifest: str) -> bytes:
    out = io.BytesIO()
    everything = {**arrays, MANIFEST: np.frombuffer(manifest.encode(), np.uint8)}
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in everything.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return out.getvalue()


def _read_npz(data: bytes) -> tuple[dict[str, np.ndarray], str | None]:
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"the entry '{info.filename}' is compressed")
                name = info.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"the entry '{name}' is there twice")
                with archive.open(info) as entry:
                    arrays[name] = np.lib.format.read_array(entry, allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, SyntaxError) as error:
        raise ValueError(str(error)) from error
    manifest = arrays.pop(MANIFEST, None)
    return arrays, None if manifest is None else manifest.tobytes().decode()


def _write_safetensors(arrays: Arrays, manifest: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {MANIFEST: manifest}}
    begin = 0
    for name, array in arrays.items():
        if array.dtype.name not in _NAME_OF:
            raise TypeError(f"save: safetensors has no dtype {array.dtype} for '{name}'. Use a name in .npz")
        end = begin + array.nbytes
        header[name] = {
            "dtype": _NAME_OF[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in arrays.values())])


def _read_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], str | None]:
    size = int.from_bytes(data[:8], "little")
    if size > len(data) - 8:
        raise ValueError("its header is cut off")
    header = json.loads(data[8 : 8 + size], object_pairs_hook=_once)
    body = memoryview(data)[8 + size :]
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = jnp.dtype(_SAFETENSORS[entry["dtype"]])
        if not 0 <= begin <= end <= len(body):
            raise ValueError(f"the entry '{name}' is cut off")
        arrays[name] = np.frombuffer(body[begin:end], dtype).reshape(entry["shape"])
    return arrays, metadata.get(MANIFEST)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # other programs may read the first of two, and this one the last
        raise ValueError("a name in its header is there twice")
    return found


FORMATS = {
    ".npz": Format(lambda data: data[:2] == b"PK", _write_npz, _read_npz),
    ".safetensors": Format(lambda data: data[8:9] == b"{", _write_safetensors, _read_safetensors),
}
