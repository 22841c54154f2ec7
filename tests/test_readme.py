"""The README's code runs, and its commands are those of the continuous integration."""

import contextlib
import io
import os
import pkgutil
import re
import subprocess
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf
from benchmarks.precision import memory
from gradflow.lab._cli._main import main as command_line

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
        warnings.catch_warnings(),
    ):
        # jax 0.8 announces that a mesh will have explicit axes; the block runs with either kind.
        warnings.filterwarnings("ignore", "The default axis_types", DeprecationWarning)
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), namespace)
    return output.getvalue()


def results(block: str) -> Iterator[str]:
    """The outputs that a block shows: comments in the lines after a print, and values beside one."""
    after_print = ""
    for line in [*block.splitlines(), ""]:
        beside = re.match(r"print\(.*\)  # ((?:\w+\(|\[|True|False|converged).*)", line)
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


def test_the_table_of_bytes_is_what_summary_says() -> None:
    rows = [f"| {' | '.join(row)} |" for row in memory()]
    assert len(rows) == 4
    assert "\n".join(rows) in README


def test_code_lines_are_short() -> None:
    assert not [line for block in blocks("python") for line in block.splitlines() if len(line) > 88]


def test_the_first_screen_is_short() -> None:
    first = blocks("python")[0]
    assert len([line for line in first.splitlines() if line and not line.startswith("assert")]) == 10
    before = README.partition("```")[0].strip().splitlines()
    assert len(before) <= 7, "a heading, an empty line and five lines"


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


def test_the_table_of_rooms_has_every_public_room() -> None:
    table = README.partition("## Rooms")[2].partition("##")[0]
    rooms = [module.name for module in pkgutil.iter_modules(gf.__path__) if not module.name.startswith("_")]
    assert len(rooms) > 20
    assert [room for room in rooms if not re.search(rf"`(gradflow\.)?{room}`", table)] == []
    homes = (gf, gf.packed, gf.proximals, gf.typing)
    for name in re.findall(r"`(\w+)`", table):
        assert any(hasattr(room, name) for room in homes), name


def test_the_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", gf.__version__)


def test_differences_name_public_things() -> None:
    table = (ROOT / ".github" / "DIFFERENCES.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10
    for row in rows:
        for name in re.findall(r"`([a-z_0-9]+)`", row.split("|")[1]):
            assert any(hasattr(room, name) for room in (gf, gf.losses, gf.tree, gf.assignment)), name


def _documents() -> list[Path]:
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    pages = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / ".github").glob("*.md"))]
    return [*pages, *notebooks]


def test_every_relative_link_and_picture_is_in_git() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    files = set(listed.stdout.splitlines())
    missing = []
    for document in _documents():
        for target in re.findall(r"\]\(([^)\s#]+\.\w+)[)#]", document.read_text()):
            if not re.match(r"\w+:", target):
                path = os.path.normpath(document.parent.relative_to(ROOT) / target)
                missing += [f"{document.name}: {target}"] if path not in files else []
    assert not missing


def test_the_repositorys_address_is_in_one_place() -> None:
    """A link to a repository that is not there misleads; links inside the repository are relative."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    for document in _documents():
        text = document.read_text()
        assert address not in text
        assert "github.com/gradflow" not in text
        assert "colab.research" not in text


def test_the_mistakes_in_the_readme_say_so() -> None:
    rows = re.findall(r"^\| `(gf\..*?)` \| `(.*?)` \|$", README, re.MULTILINE)
    assert len(rows) >= 4
    params = {"w": jnp.ones(2)}
    tx = gf.adam(1e-3)
    names = {"gf": gf, "tx": tx, "params": params, "grads": params, "state": tx.init(params)}
    for call, message in rows:
        with pytest.raises((TypeError, ValueError, AttributeError)) as caught:
            eval(call, names)
        assert message in str(caught.value)


def test_workflows_pin_actions_by_hash() -> None:
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert [path.name for path in workflows] == ["release.yml", "tests.yml"]
    text = "".join(path.read_text() for path in workflows)
    used = re.findall(r"uses: (.*)$", text, re.MULTILINE)
    assert len(used) >= 8
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", action) for action in used), used
    assert len(set(used)) == len({action.split("@")[0] for action in used}), "one version of each"


def test_the_version_is_released_and_printed() -> None:
    assert f"## [{gf.__version__}] - 20" in (ROOT / "CHANGELOG.md").read_text()
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as ended:
        command_line(["--version"])
    assert (printed.getvalue(), ended.value.code) == (f"gradflow {gf.__version__}\n", 0)
