"""Several processes: one that is killed ends all of them, and the same command continues."""

import dataclasses
import errno
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradflow as gf
from gradflow.lab._distributed import _parent
from gradflow.lab._distributed._run import PEER_LOST, Run
from gradflow.lab._distributed._worker import Training, last_line
from gradflow.lab.distributed import main

# Nine saves are left when the first process is killed: the run does not end before.
RUN = Run(2, "text", "adamw(1e-2)", True, steps=60, every=6, batch_size=128, seed=0, out="")
OPTIONS = [
    "--processes", "2", "--task", RUN.task, "--optimizer", RUN.optimizer, "--zero", "--steps", "60",
    "--every", "6",
]  # fmt: skip


def start(out: Path) -> Any:
    return subprocess.Popen(
        [sys.executable, "-m", "gradflow.lab.distributed", *OPTIONS, "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def trained_here(out: Path) -> Any:
    """The parameters of the run on the eight devices of this process, from its last checkpoint if any."""
    Training(dataclasses.replace(RUN, every=20, out=str(out)), sys.stdout).finish()
    return gf.checkpoint.load(out / "params.npz")


def assert_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_the_same_command_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path / "run")
    pids = [int(re.findall(r"pid (\d+)", run.stdout.readline())[0]) for _ in range(2)]
    while "step 6:" not in run.stdout.readline():
        assert run.poll() is None, run.stderr.read()
    assert all(os.getpriority(os.PRIO_PROCESS, pid) >= 10 for pid in pids)
    killed = time.monotonic()
    os.kill(pids[1], signal.SIGKILL)
    error = run.communicate(timeout=300)[1]
    assert time.monotonic() - killed < 30  # seconds; the heartbeat of jax is 100
    assert run.returncode == 1
    assert "process 1 was ended by SIGKILL" in error
    assert not any(map(is_alive, pids))

    shutil.copytree(tmp_path / "run", tmp_path / "eight")
    expected = trained_here(tmp_path / "alone")
    assert_same(trained_here(tmp_path / "eight"), expected)  # two pieces of the state are restored as eight
    assert "continues after step" in capsys.readouterr().out

    again = start(tmp_path / "run")
    output, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert re.search(r"continues after step \d+\n", output)
    assert "step 60:" in output
    assert_same(gf.checkpoint.load(tmp_path / "run" / "params.npz"), expected)


KILLED, FAILED, LOST, ABORTED = -signal.SIGKILL, 1, PEER_LOST, -signal.SIGABRT


@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        ([KILLED, LOST], 0),
        ([LOST, KILLED], 1),
        ([ABORTED, LOST, KILLED], 2),
        ([LOST, ABORTED, FAILED], 2),
        ([FAILED, KILLED], 1),
        ([0, LOST, FAILED], 2),
        ([ABORTED, LOST], 0),
    ],
)
def test_the_process_that_ended_by_itself_is_named_in_any_order(
    codes: list[int], cause: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_parent, "_CAUSE_WITHIN", 0.01)
    ended: queue.Queue[tuple[int, int]] = queue.Queue()
    for end in enumerate(codes[1:], 1):
        ended.put(end)
    assert _parent._first_dead((0, codes[0]), ended) == (cause, codes[cause])


def test_an_end_is_described_by_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "process_3.log").write_text("Traceback\nValueError: too many\n")
    described = _parent._describe_end(dataclasses.replace(RUN, out=str(tmp_path)), 3, 1)
    assert "process 3 ended with exit code 1. Its last line: ValueError: too many" in described


def test_an_error_without_a_message_is_a_line_too() -> None:
    assert last_line(AssertionError()) == "AssertionError"
    assert last_line(ValueError("too many\nof them")) == "ValueError: too many"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0"], "argument '--processes' must be at least 1; got 0"),
        (["--processes", "5"], "must divide the batch of 32 examples; got 5. Pass --batch-size 35"),
        (["--steps", "0"], "argument '--steps' must be at least 1"),
        (["--every", "-1"], "argument '--every' must be at least 1"),
        (["--batch-size", "100000"], "argument '--batch-size' must be at most the 353 examples"),
        (["--task", "digit"], "Did you mean 'digits'"),
        (["--task", "ode"], "'--task' must be one whose batches can be shared out"),
        (["--optimizer", "adm(1e-3)"], "Did you mean 'adam"),
        (["--optimizer", "constant_schedule(0.1)"], "argument '--optimizer'"),
        (["--seed", "-1"], "argument '--seed' must be at least 0"),
        (["--out", __file__], "argument '--out': cannot write"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--task", "diabetes", "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_system_is_not_one_of_an_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_process(*_: Any) -> Any:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(_parent, "_start", no_process)
    assert main(["--task", "diabetes", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.endswith(f"distributed: error: [Errno {errno.EAGAIN}] Resource temporarily unavailable\n")


def test_another_run_in_the_directory_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Run(2, "diabetes", "adamw(1e-2)", False, steps=4, every=2, batch_size=64, seed=0, out="")
    _parent.remember(dataclasses.replace(before, out=str(tmp_path)))
    _parent.remember(dataclasses.replace(before, out=str(tmp_path), processes=4, steps=8, every=1))
    assert main(["--task", "diabetes", "--optimizer", "lion(1e-3)", "--out", str(tmp_path)]) == 2
    assert "argument '--optimizer' must be 'adamw(1e-2)', as in the run" in capsys.readouterr().err
    (tmp_path / "run.json").write_text("{")
    assert main(["--task", "diabetes", "--out", str(tmp_path)]) == 2
    assert "run.json is damaged" in capsys.readouterr().err


def test_orbax_is_asked_for_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    assert main(["--task", "diabetes", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "orbax-checkpoint, which is not installed" in error
    assert 'pip install "gradflow-jax[distributed]"' in error
