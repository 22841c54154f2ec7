"""Type checkers accept a user's program, and find the mistakes in a copy of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkers

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "tests/typed_program.py"
MISTAKES = """
wrong_rate = gf.adam("1e-3")
wrong_model: int = gf.apply_updates(train(), train())
wrong_method = gf.adam(1e-3).has_updated
wrong_name = lab.compaer
"""


@pytest.fixture
def wrong(tmp_path: Path) -> tuple[Path, set[int]]:
    """The program with mistakes at its end, and the numbers of their lines."""
    source = PROGRAM.read_text()
    path = tmp_path / "wrong_program.py"
    path.write_text(source + MISTAKES)
    first = source.count("\n") + 2
    return path, set(range(first, first + 4))


def _run(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    ).stdout


def test_mypy_strict(wrong: tuple[Path, set[int]]) -> None:
    path, lines = wrong
    output = _run("mypy", "--strict", "--no-error-summary", str(PROGRAM), str(path))
    errors = [line.split(":") for line in output.splitlines() if ": error:" in line]
    assert {(Path(file).name, int(line)) for file, line, *_ in errors} == {(path.name, n) for n in lines}, (
        output
    )


def test_pyright(wrong: tuple[Path, set[int]], tmp_path: Path) -> None:
    path, lines = wrong
    config = {
        "include": [str(PROGRAM), str(path)],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    output = _run("basedpyright", "--project", str(tmp_path), "--pythonpath", sys.executable, "--outputjson")
    result = json.loads(output)
    assert result["summary"]["filesAnalyzed"] == 2
    errors = {(Path(d["file"]).name, d["range"]["start"]["line"] + 1) for d in result["generalDiagnostics"]}
    assert errors == {(path.name, n) for n in lines}, output
