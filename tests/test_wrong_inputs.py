"""Every row of the tables of wrong inputs: its error names the function and the argument.

A table stands beside the tests of its room, in `wrong_inputs.py`. Calls are evaluated without jit, and end in
an error before anything is compiled.
"""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest
from wrong_inputs_names import NAMES

HERE = Path(__file__).parent
README = (HERE.parent / "README.md").read_text()
TABLES = sorted([*HERE.glob("*/wrong_inputs.py"), *HERE.glob("wrong_inputs_[!n]*.py")])


def _rows(path: Path) -> list[tuple[str, type[Exception], str]]:
    spec = importlib.util.spec_from_file_location("table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows: list[tuple[str, type[Exception], str]] = module.ROWS
    return rows


@pytest.mark.parametrize("path", TABLES, ids=lambda path: str(path.relative_to(HERE)))
def test_wrong_inputs_are_named(path: Path) -> None:
    wrong = []
    for call, kind, words in _rows(path):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                eval(call, dict(NAMES))
        except kind as error:
            message = str(error.args[0])
            own = type(error) is kind or type(error).__module__.startswith("gradflow.")
            if not own or words not in message or len(message) > 700 or "Array(" in message:
                wrong.append(f"{call}: {message}")
        except Exception as error:
            wrong.append(f"{call}: {type(error).__name__}: {error}")
        else:
            wrong.append(f"{call}: accepted")
    assert not wrong, "\n".join(wrong)


def test_the_tables_are_large_enough() -> None:
    assert len(TABLES) == 9
    shown = re.search(r"over (\d+) \| `python -m pytest tests/test_wrong_inputs.py`", README)
    assert shown is not None
    assert sum(len(_rows(path)) for path in TABLES) > int(shown.group(1)) >= 1000
