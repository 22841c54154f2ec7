"""Writers of metrics: CSV and TensorBoard."""

import csv
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf
from gradflow import lab

PARAMS = {"w": jnp.ones(3)}


def steps(count: int) -> list[dict[str, jax.Array]]:
    tx = gf.with_metrics(gf.chain(gf.clip_by_global_norm(1.0), gf.sgd(0.1)))
    state, seen = tx.init(PARAMS), []
    for _ in range(count):
        _, state = tx.update(PARAMS, state, PARAMS)
        seen.append(gf.metrics(state))
    return seen


def test_csv_has_a_column_for_each_metric_and_continues_a_run(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "first.csv"
    history = steps(3)
    with lab.CsvWriter(path) as log:
        log.write(0, history[0])
        log.write(1, history[1])
        assert len(path.read_text().splitlines()) == 3, "rows are on disk at once"
    with lab.CsvWriter(path) as log:
        log.write(2, history[2])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert float(rows[2]["gradient_norm"]) == pytest.approx(math.sqrt(3))
    assert float(rows[0]["clip_by_global_norm.factor"]) == pytest.approx(1 / math.sqrt(3))


def test_other_metrics_and_arrays_are_refused(tmp_path: Path) -> None:
    with lab.CsvWriter(tmp_path / "a.csv") as log:
        log.write(0, {"loss": 1.0})
        with pytest.raises(ValueError, match=r"the columns of .*a\.csv; got a difference in accuracy, loss"):
            log.write(1, {"accuracy": 1.0})
        with pytest.raises(ValueError, match=r"CsvWriter: .* must hold scalars; got 'loss' of shape \(2,\)"):
            log.write(1, {"loss": jnp.ones(2)})


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    with lab.TensorBoardWriter(tmp_path) as log:
        for step, metrics in enumerate(steps(2)):
            log.write(step, {**metrics, "stage.not_run": jnp.float32(jnp.nan)})
    found: dict[str, list[float]] = {}
    (path,) = tmp_path.glob("events.out.tfevents.*")
    for event in _events(path):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(value.simple_value)
    assert found["gradient_norm"] == pytest.approx([math.sqrt(3)] * 2)
    assert "clip_by_global_norm/factor" in found
    assert "stage/not_run" not in found


def _events(path: Path) -> Any:
    """The records of an event file: length, its checksum, the bytes, their checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    data, at = path.read_bytes(), 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        yield event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        at += 12 + length + 4


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r'pip install "gradflow-jax\[tensorboard\]"'):
        lab.TensorBoardWriter(tmp_path)
