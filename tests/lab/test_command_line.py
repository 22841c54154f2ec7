"""`python -m gradflow`: its commands, what they need, and what they leave alone."""

import argparse
import builtins
import gc
import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import gradflow as gf
from gradflow import lab
from gradflow.lab._cli._arguments import axis, memory
from gradflow.lab._cli._interruptions import interruptible
from gradflow.lab._cli._main import main
from gradflow.lab._experiments import _compare_run, _sweep_run
from gradflow.lab._experiments._compare_run import CompareRun
from gradflow.lab._experiments._progress_bar import ProgressBar

SMALL = ["--seeds", "1", "--steps", "3", "--learning-rates", "1e-2", "--optimizers", "adam"]
DIABETES = ["compare", *SMALL, "--task", "diabetes"]


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
    done = run("-m", "gradflow", "compare", *SMALL, "--task", "diabetes", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "adam" in done.stdout
    assert "100%" not in done.stderr, "no bar into a pipe"
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {entry["name"] for entry in data["entries"]} == {"adam"}
    assert (data["task"], data["steps"], data["seeds"]) == ("diabetes", 3, [0])


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
        (["--optimizers", "adm"], "Did you mean 'adam"),
        (["--task", "digit"], "Did you mean 'digits"),
        (["--steps", "0"], "argument 'steps' must be"),
        (["--learning-rates", "0"], "positive"),
        (["--seeds", "0"], "at least one seed"),
        (["--out", __file__], "cannot write into --out"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, capsys):
    assert main(["compare", *SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
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


def test_without_a_command_the_help_lists_them(capsys):
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(word in shown.err for word in ("compare", "sweep", "trajectory", "list", "describe"))


def test_without_tqdm_there_is_no_bar(monkeypatch, capsys):
    without(monkeypatch, "tqdm")
    bar = ProgressBar(True, 3)
    bar.describe("adam")
    bar.extend(2)
    bar.advance(1)
    bar.close()
    assert capsys.readouterr().err == ""


def test_the_bar_is_drawn_where_somebody_watches(monkeypatch):
    class Output(io.StringIO):
        def isatty(self):
            return True

    def drawn(output, shown=None):
        monkeypatch.setattr(sys, "stderr", output)
        return ProgressBar(shown, 3).bar is not None

    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    assert not drawn(io.StringIO())
    assert not drawn(None)
    assert drawn(Output())
    assert drawn(notebook())
    assert drawn(io.StringIO(), True)
    assert not drawn(Output(), False)


@pytest.mark.parametrize("imported", ["datetime", "gradflow.lab._cli._compare"])
def test_an_interruption_of_the_imports_ends_with_130(imported):
    """NumPy turns an exception in its import of datetime into an ImportError."""
    program = f"""
import signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == {imported!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from gradflow.__main__ import main
sys.exit(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, "list"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 130
    assert ended.stderr == "\nInterrupted.\n"


def test_an_interruption_that_the_garbage_collector_drops_is_raised_again():
    def interrupted(phase, _):
        gc.callbacks.remove(interrupted)
        raise KeyboardInterrupt

    def collect(wait):
        gc.callbacks.append(interrupted)
        gc.collect()
        while wait:
            time.sleep(0.02)

    with pytest.raises(KeyboardInterrupt), interruptible():
        collect(wait=True)
    with pytest.raises(KeyboardInterrupt), interruptible():
        collect(wait=False)  # the block ends first


def test_an_interruption_keeps_what_is_finished(tmp_path, capsys, monkeypatch):
    def interrupted(run, progress):
        plan = run.plan
        yield lab.Entry.of_losses(
            np.array([[[2.0, 1.0, 0.5, 0.4]]]), plan.evaluated_at, plan.target, name="sgd",
            learning_rates=[1e-2], score=[[0.5]], state_bytes_per_parameter=0.0, seconds=1.0,
            compile_seconds=1.0, describe=str,
        )  # fmt: skip
        raise KeyboardInterrupt

    monkeypatch.setattr(CompareRun, "entries", interrupted)
    assert main([*DIABETES, "--optimizers", "sgd,adam", "--out", str(tmp_path)]) == 130
    shown = capsys.readouterr().out
    assert "1 of 2 optimizers were finished" in shown
    assert " sgd " in shown
    assert [entry["name"] for entry in json.loads((tmp_path / "comparison.json").read_text())["entries"]] == [
        "sgd"
    ]


def test_an_interruption_at_once_writes_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(run, progress):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(CompareRun, "entries", interrupted)
    assert main([*DIABETES, "--out", str(tmp_path)]) == 130
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


def test_a_comparison_goes_on_from_its_file(tmp_path, capsys, monkeypatch):
    command = [*DIABETES, "--out", str(tmp_path), "--optimizers"]
    original, trained = _compare_run._train, []

    def train(plan, ready, *rest):
        if trained == ["sgd"]:
            raise KeyboardInterrupt
        trained.append(ready.candidate.name)
        return original(plan, ready, *rest)

    monkeypatch.setattr(_compare_run, "_train", train)
    assert main([*command, "sgd,adam"]) == 130
    assert "1 of 2 optimizers were finished. The same command continues from here." in capsys.readouterr().out
    first = json.loads((tmp_path / "comparison.json").read_text())["entries"][0]
    trained.append("interrupted")
    assert main([*command, "adam,sgd"]) == 0
    assert trained == ["sgd", "interrupted", "adam"], "what is finished is not trained again"
    assert "has 1 of 2 optimizers already" in capsys.readouterr().out
    entries = json.loads((tmp_path / "comparison.json").read_text())["entries"]
    again = next(entry for entry in entries if entry["name"] == "sgd")
    assert {**again, "rank": 1} == first
    with (tmp_path / "comparison.jsonl").open("a") as file:
        file.write('{"candidate": "cut by a power fail')
    assert main([*command, "adam"]) == 0
    assert len(trained) == 3


def test_a_folder_in_use_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    command = [*DIABETES, "--out", str(tmp_path)]
    assert main(command) == 0
    monkeypatch.setattr(CompareRun, "entries", None)
    assert main([*command, "--steps", "4"]) == 2
    error = capsys.readouterr().err
    assert "holds another comparison (steps: 3 there, 4 here)" in error
    assert len(error.splitlines()) == 1
    (tmp_path / "comparison.jsonl").write_text("notes\n")
    assert main(command) == 2
    assert "must be the file of a comparison" in capsys.readouterr().err


SWEEP = [
    "sweep",
    "adam(1e-3)",
    "learning_rate=1e-3..1e-1:3",
    "b1=0.8,0.9",
    "--task",
    "diabetes",
    "--steps",
    "4",
]


def test_a_sweep_writes_its_files_and_goes_on_from_them(tmp_path, capsys):
    assert main([*SWEEP, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "6 trials of adam(0.001), grid" in shown
    names = ("sweep.jsonl", "sweep.json", "sweep.png")
    assert all((tmp_path / name).stat().st_size for name in names)
    assert len((tmp_path / "sweep.jsonl").read_text().splitlines()) == 7
    assert main([*SWEEP, "--out", str(tmp_path)]) == 0
    assert "has 6 of 6 trials already" in capsys.readouterr().out
    assert main([*SWEEP, "--seeds", "2", "--out", str(tmp_path)]) == 2
    assert "holds another sweep" in capsys.readouterr().err


def test_ctrl_c_keeps_the_trials_that_are_finished(tmp_path, capsys, monkeypatch):
    original, done = _sweep_run.SweepRun._run_chunk, []

    def interrupted(self, chunk, *rest):
        if done:
            raise KeyboardInterrupt
        done.extend(chunk)
        return original(self, chunk, *rest)

    monkeypatch.setattr(_sweep_run.SweepRun, "_run_chunk", interrupted)
    assert main([*SWEEP, "--memory", "1k", "--out", str(tmp_path)]) == 130
    shown = capsys.readouterr().out
    assert "Interrupted. The same command continues from here." in shown
    assert "1 trial of" in shown
    assert all((tmp_path / name).exists() for name in ("sweep.jsonl", "sweep.json", "sweep.png"))


def test_trajectory_list_and_describe(tmp_path, capsys):
    arguments = ["trajectory", "saddle", "--optimizers", "sgd(0.1),adam(0.1, b1=0.5)", "--steps", "5"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert "adam(0.1, b1=0.5)" in capsys.readouterr().out
    assert (tmp_path / "trajectory.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "trajectory.json").read_text())
    assert [path["name"] for path in data["paths"]] == ["sgd(0.1)", "adam(0.1, b1=0.5)"]
    assert main(["list", "lion"]) == 0
    assert "4.00" in capsys.readouterr().out
    assert main(["list", "float16"]) == 0
    assert "master_params" in capsys.readouterr().out
    assert main(["describe", "adamw(1e-3)"]) == 0
    assert "adamw.weight_decay" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "__import__('os').system('false')"], "must call factories by name"),
        (["describe", "admw"], "Did you mean 'adamw"),
        (["trajectory", "bele"], "Did you mean 'beale"),
        (["trajectory", "--start", "1"], "two finite numbers"),
        (["trajectory", "--out", __file__], "cannot write into --out"),
        ([*SWEEP[:3], "b1=0.5", *SWEEP[3:]], "must name each address once"),
        ([*SWEEP[:3], "b3=0.5", *SWEEP[3:]], "b3"),
        ([*SWEEP, "--task", "digit"], "Did you mean 'digits"),
        ([*SWEEP, "--out", __file__], "cannot write into --out"),
        (["sweep", "adam(1e-3", "b1=0.5"], "never closed"),
    ],
)
def test_wrong_usage_of_the_others_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "5"], "Other options come after a command: compare, sweep"),
        (["--versoin"], "Did you mean '--version'?"),
        (["comapre"], "Did you mean 'compare'?"),
        (
            ["compare", "--epochs", "5"],
            "gradflow compare: error: no option is called '--epochs'. Did you mean '--steps'",
        ),
        (["compare", "--task", "digits", "--optimizers=adam", "--sedes", "3"], "Did you mean '--seeds'"),
        (["compare", "adam"], "there is no place for 'adam'"),
        (["describe"], "the following arguments are required"),
    ],
)
def test_an_unknown_word_is_one_line_with_a_near_name(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("b1=0.8,0.9", ("b1", [0.8, 0.9])),
        ("adam.b1 = 0.5", ("adam.b1", [0.5])),
        ("x=1e-4..1e-1", ("x", lab.Range(1e-4, 1e-1))),
        ("x=0.9..0.999:decay:3", ("x", lab.Range(0.9, 0.999, "decay", 3))),
        ("x=-1..1:9:linear", ("x", lab.Range(-1.0, 1.0, "linear", 9))),
        ("x=True,None,'bfloat16'", ("x", [True, None, "bfloat16"])),
        ("x=adam(1e-3, b1=0.5),sgd(0.1)", ("x", [gf.adam(1e-3, b1=0.5), gf.sgd(0.1)])),
    ],
)
def test_axes_of_a_sweep(text, found):
    assert axis(text) == found


@pytest.mark.parametrize("text", ["b1", "b1=", "=1", "b1=1..x", "b1=0.1..2:decay", "b1=[1", "b1=os"])
def test_axes_that_cannot_be_read(text, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", "adam(1e-3)", text])
    assert exit_.value.code == 2
    assert text in capsys.readouterr().err


def test_memory_is_read_with_its_unit():
    assert [memory(text) for text in ("512", "2k", "1.5M", "2GB", "1GiB")] == [
        512,
        2000,
        1500000,
        2 * 10**9,
        10**9,
    ]
    with pytest.raises(argparse.ArgumentTypeError):
        memory("much")
