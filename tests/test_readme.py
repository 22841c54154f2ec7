"""The README's code runs, and its commands are those of the continuous integration."""

import contextlib
import io
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

import gradflow as gf

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def printed() -> str:
    """What the code prints, block by block in one namespace."""
    namespace: dict[str, object] = {"__name__": "readme"}
    output = io.StringIO()
    # As a reader has it: without the strict modes of these tests.
    with (
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        contextlib.redirect_stdout(output),
    ):
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), namespace)
    return output.getvalue()


def results(block: str) -> Iterator[str]:
    """The outputs that a block shows: comments in the lines after a print, and values beside one."""
    after_print = ""
    for line in [*block.splitlines(), ""]:
        beside = re.match(r"print\(.*\)  # ((?:\w+\(|\[|True|False).*)", line)
        if beside:
            yield beside.group(1)
        if line.startswith("# ") and after_print:
            after_print += line[1:]
            continue
        if len(after_print) > 1:
            yield after_print
        after_print = "\n" if line.startswith("print(") else ""


def test_what_the_code_is_said_to_print_is_what_it_prints(printed: str) -> None:
    shown = [text for block in blocks("python") for text in results(block)]
    assert len(shown) >= 8
    squeezed = re.sub(r"\s", "", printed)
    for text in shown:
        for part in re.sub(r"\s", "", text).split("..."):
            assert part in squeezed, text


def test_code_lines_are_short() -> None:
    assert not [line for block in blocks("python") for line in block.splitlines() if len(line) > 88]


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
            assert any(hasattr(room, name) for room in (gf, gf.losses, gf.tree, gf.assignment)), name
