"""`python -m gradflow compare`, what it needs, and what it leaves alone."""

import builtins
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from gradflow import lab
from gradflow.lab import _cli_compare
from gradflow.lab._cli import main

SMALL = ["--seeds", "1", "--steps", "3", "--learning-rates", "1e-2", "--optimizers", "adam"]


def run(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "XLA_FLAGS")}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**clean, **environment},
    )


def test_the_program_writes_both_files_without_a_display(tmp_path):
    done = run("-m", "gradflow", "compare", *SMALL, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "adam" in done.stdout
    assert "100%" in done.stderr  # the bar
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {entry["name"] for entry in data["entries"]} == {"adam"}
    assert (data["task"], data["steps"], data["seeds"]) == ("digits", 3, [0])


def test_the_library_imports_neither_the_lab_nor_its_packages():
    code = (
        "import sys, gradflow\n"
        "heavy = {'gradflow.lab', 'matplotlib', 'sklearn', 'tqdm'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "import gradflow.lab\n"
        "assert not heavy & set(sys.modules) - {'gradflow.lab'}"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizers", "adm"], "near ones: adam"),
        (["--task", "digit"], "near ones: digits"),
        (["--steps", "0"], "steps must be"),
        (["--learning-rates", "0"], "positive"),
        (["--seeds", "0"], "at least one seed"),
        (["--out", __file__], "cannot write into --out"),
    ],
)
def test_wrong_usage_is_told_in_a_line(arguments, message, capsys):
    assert main(["compare", *SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["compare", "--steps", "x"],
        ["compare", "--learning-rates", "a,b"],
        ["compare", "--seeds", "a"],
        ["x"],
    ],
)
def test_wrong_arguments_exit_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


def test_help_lists_tasks_and_optimizers(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["compare", "--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("digits", "breast_cancer", "diabetes", "text", "adamw", "--target"))


def test_an_interruption_keeps_what_is_finished(tmp_path, capsys, monkeypatch):
    def interrupted(plan):
        yield lab.Entry.of_losses(
            np.array([[[2.0, 1.0, 0.5, 0.4]]]), plan.evaluated_at, plan.target, name="sgd",
            learning_rates=[1e-2], score=[[0.5]], state_bytes_per_parameter=0.0, seconds=1.0,
            compile_seconds=1.0, describe=str,
        )  # fmt: skip
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli_compare, "run", interrupted)
    assert main(["compare", *SMALL, "--optimizers", "sgd,adam", "--out", str(tmp_path)]) == 130
    shown = capsys.readouterr().out
    assert "1 of 2 optimizers were finished" in shown
    assert " sgd " in shown
    assert [entry["name"] for entry in json.loads((tmp_path / "comparison.json").read_text())["entries"]] == [
        "sgd"
    ]


def test_an_interruption_at_once_writes_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(plan):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(_cli_compare, "run", interrupted)
    assert main(["compare", *SMALL, "--out", str(tmp_path)]) == 130
    assert "0 of 1" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def without(monkeypatch, package):
    original = builtins.__import__
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    return original


@pytest.mark.parametrize(
    ("package", "called", "act"),
    [
        ("sklearn", "scikit-learn", lambda: lab.compare("sgd", task="digits", progress=False)),
        ("tqdm", "tqdm", lambda: lab.compare("sgd", task="text", steps=1, seeds=1)),
        ("matplotlib", "matplotlib", lambda: lab.Comparison("t", None, 1, [0, 1], [0], None, []).plot()),
    ],
)
def test_a_missing_package_is_told_with_the_command(package, called, act, monkeypatch):
    without(monkeypatch, package)
    with pytest.raises(ImportError, match=rf'needs {called}, .*pip install "gradflow-jax\[lab\]"'):
        act()


def test_the_program_says_what_is_missing_before_it_trains(monkeypatch, capsys):
    without(monkeypatch, "matplotlib")
    assert main(["compare", *SMALL]) == 1
    assert 'pip install "gradflow-jax[lab]"' in capsys.readouterr().err
