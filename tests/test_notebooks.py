"""Notebooks are stripped of outputs, linked to each other, and run, their figures drawn."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

FOLDED = {
    "cellView": "form",
    "jupyter": {"source_hidden": True},
    "tags": ["hide-input"],
}  # Colab, Jupyter, books


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_ends_in_an_exercise_with_a_folded_answer(path: Path) -> None:
    *lessons, exercise, answer = nbformat.read(path, as_version=4).cells
    assert exercise.cell_type == "markdown"
    assert exercise.source.startswith("## Exercise\n")
    assert answer.cell_type == "code"
    assert answer.metadata == FOLDED
    assert "assert" in answer.source, "so that running it proves it"
    assert not any(cell.source.startswith("## Exercise") for cell in lessons)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_stripped_and_linked(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    place = NOTEBOOKS.index(path)
    neighbors = [*NOTEBOOKS[max(0, place - 1) : place], *NOTEBOOKS[place + 1 : place + 2]]
    assert all(f"]({other.name})" in notebook.cells[0].source for other in neighbors)
    # Outputs are stripped, so this picture is what a page of the repository shows.
    assert f"](../.github/pictures/{path.stem}.png)" in notebook.cells[0].source
    for cell in notebook.cells:
        assert cell.metadata == (FOLDED if cell.source.startswith("# @title Answer") else {})
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
        if "%pip" in cell.source:
            assert 'if importlib.util.find_spec("gradflow") is None:' in cell.source
            assert "gradflow-jax" in cell.source


@pytest.mark.notebooks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised in the Jupyter client itself
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a browser: a figure that cannot be drawn is an error when it is shown.
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=180, kernel_name="python3").execute()
    printed = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    warned = [
        output.text for output in printed if output.get("name") == "stderr" and "Warning:" in output.text
    ]
    assert warned == []


def test_the_course_is_numbered_and_its_notebooks_are_alike() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{i:02}_" for i in range(len(NOTEBOOKS))]
    heads = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    assert len(heads) >= 10
    assert all(head.metadata == heads[0].metadata for head in heads)
    assert all(head.cells[1].source == heads[0].cells[1].source for head in heads)
