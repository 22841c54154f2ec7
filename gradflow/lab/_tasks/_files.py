"""Tasks from files: a Python module, or a table of numbers as CSV or npz."""

import csv
import dataclasses
import importlib.util
import traceback
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from gradflow.lab._tasks._datasets import (
    binary_accuracy,
    binary_loss,
    class_accuracy,
    class_loss,
    r_squared,
    value_loss,
)
from gradflow.lab._tasks._networks import mlp_init
from gradflow.lab._tasks._own_task import OwnData, own_task
from gradflow.lab._tasks._task import Task

_MOST_CLASSES = 20  # whole numbers with more values than this are a quantity
_FEWEST_ROWS = 10
_DELIMITERS = ",;\t"


def task_of_module(file: Path, steps: int | None = None) -> Task:
    """The task of a Python file that defines `init`, `loss` and `batches`.

    `init` is a function from a PRNG key to parameters, or parameters. `batches` is as in `compare`. The names
    `batch_size`, `test` and `metric` may be defined too.
    """
    module = _module(file)
    missing = [name for name in ("init", "loss", "batches") if not hasattr(module, name)]
    if missing:
        raise ValueError(f"--module must define init, loss and batches; {file} has no {', '.join(missing)}")
    own = OwnData(*(getattr(module, name, None) for name in OwnData._fields))
    task = own_task(module.loss, module.init, module.batches, steps or 500, "compare", own)
    return dataclasses.replace(task, name=file.stem)


def _module(file: Path) -> Any:
    """Runs a Python file. An error in it is one line that names the file's own line."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file():
        raise ValueError(f"--module must be a file; there is none at {file}")
    if spec is None or spec.loader is None:
        raise ValueError(f"--module must be a Python file, whose name ends in .py; got {file}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        message: object = error
        if isinstance(error, SyntaxError):
            lines, message = [error.lineno], error.msg
        place = f"{file}, line {lines[-1]}" if lines else str(file)
        raise ValueError(f"--module: {place}: {type(error).__name__}: {message}") from error
    return module


def task_of_table(file: Path, column: str | None = None) -> Task:
    """The task of predicting one column of a table from the others, with a network of one hidden layer.

    A column of texts, or of at most 20 different whole numbers, is a class; other numbers are a quantity.
    Four fifths of the rows, drawn once, are for training, the rest for the score. Inputs are standardized.

    Args:
      file: a CSV file with a header and numeric columns, separated by commas, semicolons or tabs, or an npz
        file with the arrays `x` and `y`.
      column: the column to predict, the last by default. An npz file has no columns.
    """
    if file.suffix != ".npz":
        return _supervised(file.stem, *_read_csv(file, column))
    if column is not None:
        raise ValueError(f"--target must be left out for the arrays of {file}; got {column!r}")
    return _supervised(file.stem, *_read_npz(file))


def _read_npz(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        loaded = np.load(file)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with loaded:
            arrays = dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"--data must be a readable npz file; got {file}: {error}") from None
    if not {"x", "y"} <= set(arrays):
        raise ValueError(f"--data must hold the arrays x and y; {file} has {', '.join(sorted(arrays))}")
    x, y = arrays["x"], arrays["y"]
    if x.dtype.kind not in "biuf" or y.dtype.kind not in "biufU" or y.ndim != 1 or len(x) != len(y):
        raise ValueError(
            f"--data must hold numbers x of shape (rows, ...) and y of shape (rows,); got {x.dtype} of shape "
            f"{x.shape} and {y.dtype} of shape {y.shape}"
        )
    return x.reshape(len(x), -1).astype(np.float64), y


def _read_csv(file: Path, column: str | None) -> tuple[np.ndarray, np.ndarray]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(_DELIMITERS, key=head.count))
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"--data must be a readable CSV file; got {file}: {reason}") from None
    if len(rows) <= _FEWEST_ROWS:
        raise ValueError(
            f"--data must have a header and at least {_FEWEST_ROWS} rows; {file} has {len(rows)} lines"
        )
    names = [name.strip() for name in rows.pop(0)[1]]
    target = names[-1] if column is None else column
    if target not in names:
        raise ValueError(f"--target must be a column of {file}: {', '.join(names)}; got {target!r}")
    if len(names) < 2:
        raise ValueError(f"--data must have a column besides the target; {file} has only '{target}'")
    place = names.index(target)
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(f"{file}, line {line}: must have {len(names)} columns; got {len(row)}")
    inputs = [
        [_number(file, line, names[i], cell) for i, cell in enumerate(row) if i != place]
        for line, row in rows
    ]
    texts = [row[place].strip() for _, row in rows]
    return np.asarray(inputs), _targets(file, target, [line for line, _ in rows], texts)


def _targets(file: Path, column: str, lines: list[int], texts: list[str]) -> np.ndarray:
    """The cells of the target as numbers or, where they are texts that repeat, as classes."""
    place = f"column '{column}'"
    if "" in texts:
        raise ValueError(f"{file}, line {lines[texts.index('')]}, {place}: must not be empty")
    numbers = np.asarray([_float(text) for text in texts])
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if not len(wrong):
        return numbers
    first, distinct = wrong[0], len(set(texts))
    if len(wrong) < len(texts) / 2 < distinct or _is_word_for_not_finite(texts[first]):
        raise ValueError(
            f"{file}, line {lines[first]}, {place}: must be a finite number, as in other lines; "
            f"got {texts[first]!r}"
        )
    if distinct > len(texts) / 2:
        raise ValueError(
            f"--target must be a column of numbers or of classes; got '{column}', which has "
            f"{distinct} different texts in {len(texts)} rows"
        )
    return np.asarray(texts)


def _float(cell: str) -> float:
    """The number of a cell, NaN if it has none."""
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _is_word_for_not_finite(cell: str) -> bool:
    return cell.strip().lower().lstrip("+-") in ("nan", "inf", "infinity")


def _number(file: Path, line: int, column: str, cell: str) -> float:
    value = _float(cell)
    if not np.isfinite(value):
        hint = ". Leave the column out, or write its categories as numbers"
        if not cell.strip():
            hint = ". Fill the gap, or leave out the line or the column"
        elif _is_word_for_not_finite(cell):
            hint = ""
        raise ValueError(
            f"{file}, line {line}, column '{column}': must be a finite number; got {cell!r}{hint}"
        )
    return value


def _supervised(name: str, x: np.ndarray, y: np.ndarray) -> Task:
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    cut = len(x) * 4 // 5
    mean, std = x[:cut].mean(axis=0, keepdims=True), x[:cut].std(axis=0, keepdims=True)
    x = ((x - mean) / np.where(std > 0, std, 1.0)).astype(np.float32)
    classes = np.unique(y)
    loss, score, outputs, score_name = value_loss, r_squared, 1, "test R^2"
    if y.dtype.kind == "U" or (np.all(y == np.round(y)) and len(classes) <= _MOST_CLASSES):
        is_binary = len(classes) == 2
        labels = np.searchsorted(classes, y).astype(np.float32 if is_binary else np.int32)
        loss, score = (binary_loss, binary_accuracy) if is_binary else (class_loss, class_accuracy)
        outputs, score_name = 1 if is_binary else len(classes), "test accuracy"
    else:
        labels = ((y - y[:cut].mean()) / (y[:cut].std() or 1.0)).astype(np.float32)
    return Task(
        name, mlp_init(x.shape[1], 32, outputs), loss, (x[:cut], labels[:cut]), min(64, cut), None,
        (x[cut:], labels[cut:]), score, score_name,
    )  # fmt: skip
