"""The README's code runs, and its commands are those of the continuous integration."""

import re
import tomllib
from pathlib import Path

import jax

import gradflow as gf

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_the_python_blocks_run_in_order() -> None:
    namespace: dict[str, object] = {"__name__": "readme"}
    found = blocks("python")
    assert len(found) >= 4
    # As a reader has it: without the strict modes of these tests.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in found:
            exec(compile(block, "README.md", "exec"), namespace)
    assert "slow(decay=0.95)" in repr(namespace["tx"])


def test_two_commands_do_all_the_set_up_in_one_line_each() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if "venv" in line]
    assert len(lines) == 2
    main, tests = lines
    assert main.endswith("python -m gradflow compare")
    assert tests.endswith("python -m pytest")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in lines:
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install")
        extra = re.search(r'"\.\[(\w+)\]"', line)
        assert extra is not None
        assert extra.group(1) in extras


def test_nothing_installs_another_project_of_the_same_name() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.rglob("gradflow/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]:
        assert not re.search(r"pip install (-q )?\"?gradflow(?!-jax)\b", path.read_text()), path


def test_the_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", gf.__version__)


def test_differences_name_public_things() -> None:
    table = README.split("## Differences from Optax")[1].split("## Design")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10
    for row in rows:
        for name in re.findall(r"`([a-z_0-9]+)`", row.split("|")[1]):
            assert hasattr(gf, name) or hasattr(gf.losses, name) or hasattr(gf.tree, name), name
