"""Signatures print as their source reads, and stay types for those who compare them."""

import copy
import importlib.util
import inspect
import pickle
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import cloudpickle
import jax
import pytest

import gradflow as gf
from gradflow._expressions._arguments import Interval
from gradflow._expressions._registry import OWN_FACTORIES
from gradflow.typing import Decay, Rate, ScalarOrSchedule

ROOT = Path(__file__).parents[2]
Halves = Annotated[ScalarOrSchedule, Interval(0.0, 0.5)]
Rule = Callable[[jax.Array], jax.Array]


@gf.transformation
def halved(share: Halves, start: Halves | None = None, rule: Rule | None = None, *, on: bool = True) -> Any:
    """A factory with a kind of its own."""
    return gf.scale(share)


def annotation(function: Callable[..., Any], name: str) -> Any:
    return inspect.signature(function).parameters[name].annotation


def test_adamw_reads_like_its_source() -> None:
    assert str(inspect.signature(gf.adamw)) == (
        "(learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-08, "
        "eps_root: NonNegative = 0.0, mu_dtype: Any = None, weight_decay: NonNegative = 0.0001, "
        "mask: MaskOrFn | None = None, *, nesterov: bool = False) -> GradientTransformation"
    )


def test_kinds_and_aliases_of_a_users_module_print_by_their_names() -> None:
    assert str(inspect.signature(halved)) == (
        "(share: Halves, start: Halves | None = None, rule: Rule | None = None, *, on: bool = True) "
        "-> GradientTransformation"
    )


def test_a_kind_without_a_name_prints_as_its_type() -> None:
    @gf.transformation
    def local(share: Annotated[ScalarOrSchedule, Interval(0.0, 0.25)] = 0.1) -> Any:
        return gf.scale(share)

    assert str(inspect.signature(local)) == "(share: ScalarOrSchedule = 0.1) -> GradientTransformation"
    with pytest.raises(ValueError, match=r"argument 'share' must be a number in \[0, 0.25\]"):
        local(0.5)


@pytest.mark.parametrize("name", sorted(OWN_FACTORIES))
def test_every_factory_says_what_it_takes_and_returns(name: str) -> None:
    factory = OWN_FACTORIES[name]
    signature = inspect.signature(factory.function)
    text = str(signature)
    for word in ("Annotated", "Interval", "typing.", "gradflow.", "_jax", "collections", "~"):
        assert word not in text, text
    result = {
        "transformation": "GradientTransformation",
        "schedule": "Schedule",
        "selector": "Selector",
        "penalty": "Penalty",
    }
    assert text.endswith(f"-> {result.get(factory.kind, 'Choose')}")
    assert signature == pickle.loads(pickle.dumps(signature))
    assert signature == copy.deepcopy(signature)
    # What tools that build pages read beside the signature.
    hints = typing.get_type_hints(factory.function)
    assert {k: repr(v) for k, v in hints.items()} == {
        k: repr(v) for k, v in factory.function.__annotations__.items()
    }


def test_a_rate_equals_the_type_of_rates() -> None:
    rate = annotation(gf.adamw, "learning_rate")
    assert rate == gf.ScalarOrSchedule
    assert gf.ScalarOrSchedule == rate
    assert rate == Rate
    assert hash(rate) == hash(gf.ScalarOrSchedule)
    assert rate == annotation(gf.sgd, "learning_rate")
    assert rate != annotation(gf.adamw, "b1")
    assert rate != Decay
    assert annotation(gf.adamw, "nesterov") is bool
    assert annotation(gf.adadelta, "learning_rate") == gf.ScalarOrSchedule | None
    assert annotation(gf.lbfgs, "linesearch") == gf.GradientTransformation | None
    assert annotation(gf.masked, "inner") == gf.GradientTransformation


def test_a_pickled_annotation_is_the_same_type() -> None:
    for function, name in [(gf.adamw, "learning_rate"), (gf.adopt, "clip_value_fn"), (halved, "rule")]:
        before = annotation(function, name)
        after = pickle.loads(pickle.dumps(before))
        assert repr(after) == repr(before)
        assert after.type == before.type
    assert pickle.loads(pickle.dumps(annotation(gf.adamw, "learning_rate"))) == gf.ScalarOrSchedule


def test_a_users_factory_keeps_its_signature_through_cloudpickle() -> None:
    @gf.transformation
    def local(share: Halves = 0.1) -> Any:
        return gf.scale(share)

    copied = cloudpickle.loads(cloudpickle.dumps(local))
    assert str(inspect.signature(copied)) == "(share: Halves = 0.1) -> GradientTransformation"
    with pytest.raises(ValueError, match="argument 'share' must be"):
        copied(0.75)


@pytest.mark.parametrize("room", ["_api", "tree", "typing", "packed", "checkpoint", "interop", "linalg"])
def test_no_public_signature_spells_out_a_kind(room: str) -> None:
    module: ModuleType = __import__(f"gradflow.{room}", fromlist=["_"])
    functions = [f for f in vars(module).values() if inspect.isfunction(f)]
    for function in functions:
        assert "Annotated" not in str(inspect.signature(function)), function


def test_the_program_that_type_checkers_read_runs() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"]
    assert "tests/typed_program.py" in settings["files"]
    spec = importlib.util.spec_from_file_location("typed_program", ROOT / "tests" / "typed_program.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    with jax.numpy_rank_promotion("allow"):
        assert isinstance(program.train(), program.Model)
        assert program.describe() == "adamw(0.001) converged"
