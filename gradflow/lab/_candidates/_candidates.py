"""The optimizers of a comparison: from names, factories and transformations, each with its rates."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gradflow import optimizers as room
from gradflow._checked import is_real_number
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe, unknown
from gradflow._expressions._addresses import addresses, replace
from gradflow._expressions._keys import expression_of
from gradflow._expressions._printing import show
from gradflow.lab._candidates._parse import parse
from gradflow.lab._candidates._recipes import (
    DEFAULTS,
    RATES_BELOW,
    RECIPES,
    WITHOUT_RATE,
    Recipe,
    default_grid,
    optimizer_names,
)


class Candidate(NamedTuple):
    """A name, the transformation for a rate (a number or a tracer), and the rates to try.

    The single rate None means that the transformation runs unchanged.
    """

    name: str
    build: Callable[[Any], GradientTransformation]
    rates: tuple[float | None, ...]


def _named(name: str, rates: tuple[float, ...] | None) -> Candidate:
    if name not in optimizer_names():
        raise unknown("optimizer", name, optimizer_names())
    recipe = RECIPES.get(name, Recipe(name, {}, 1e-2))
    factory = getattr(room, recipe.factory)
    if name in WITHOUT_RATE:
        whole = factory()
        return Candidate(name, lambda rate: whole, (None,))

    def build(rate: Any) -> GradientTransformation:
        made: GradientTransformation = factory(learning_rate=rate, **recipe.arguments)
        return made

    return Candidate(name, build, rates or default_grid(recipe.middle))


def _given(name: str, value: Any, rates: tuple[float, ...] | None, caller: str) -> Candidate:
    if isinstance(value, str) and "(" not in value:
        return _named(value, rates)._replace(name=name)
    if isinstance(value, str):
        value = parse(value)
    if not isinstance(value, tuple):
        if not callable(value):
            raise TypeError(
                f"{caller}: argument 'optimizers' must hold names, transformations, or functions of "
                f"learning_rate; got {describe(value)} for '{name}'"
            )
        return Candidate(
            name,
            lambda rate: as_transformation(_call_factory(value, rate), caller, f"the optimizer '{name}'"),
            rates or default_grid(1e-2),
        )
    whole = as_transformation(value, caller, f"the optimizer '{name}'")
    parts = addresses(whole) if expression_of(whole) is not None else {}
    # Addresses of named optimizers end at their own arguments, so inner stages are not counted.
    places = [address for address in parts if address.split(".")[-1] == "learning_rate"]
    if caller == "trajectory" or len(places) != 1 or callable(parts[places[0]]):
        return Candidate(name, lambda rate: whole, (None,))
    return Candidate(
        name, lambda rate: replace(whole, {places[0]: rate}), rates or _own_grid(parts[places[0]])
    )


def _call_factory(factory: Callable[..., Any], rate: Any) -> Any:
    """A factory's value at a rate: its argument `learning_rate`, or else its first one."""
    try:
        is_named = "learning_rate" in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        is_named = True
    return factory(learning_rate=rate) if is_named else factory(rate)


def _name_of(value: Any) -> str:
    """The name of an optimizer in a list: its own, or that of the factory that made it."""
    expression = expression_of(value)
    if isinstance(value, str):
        return value
    return str(getattr(value, "__name__", repr(value)) if expression is None else expression.name)


def one_optimizer(value: Any, caller: str) -> GradientTransformation:
    """Returns one optimizer: from a name, at its usual rate, an expression as text, or a transformation."""
    if isinstance(value, str) and "(" in value:
        value = parse(value)
    elif isinstance(value, str):
        candidate = _named(value, None)
        rates = candidate.rates
        return candidate.build(rates[RATES_BELOW] if len(rates) > RATES_BELOW else rates[0])
    return as_transformation(value, caller, "the optimizer")


def rate_builder(value: Any, caller: str) -> tuple[str, Callable[[Any], GradientTransformation]]:
    """Returns the name of an optimizer, and a function that sets its learning rate."""
    if isinstance(value, str) and "(" not in value:
        candidate = _named(value, None)
        if candidate.rates == (None,):
            raise ValueError(
                f"{caller}: argument 'optimizer' must have one learning_rate; got '{value}', "
                "which chooses its learning rate itself"
            )
        return value, candidate.build
    whole = one_optimizer(value, caller)
    found = [] if expression_of(whole) is None else list(addresses(whole))
    places = [address for address in found if address.split(".")[-1] == "learning_rate"]
    if len(places) != 1:
        raise ValueError(f"{caller}: argument 'optimizer' must have one learning_rate; got {len(places)}")
    return show(whole), lambda rate: replace(whole, {places[0]: rate})


def _own_grid(rate: Any) -> tuple[float, ...]:
    """The grid around a transformation's own rate, where that is a positive number."""
    return default_grid(float(rate) if is_real_number(rate) and rate > 0 else 1e-2)


def check_rates(caller: str, rates: Iterable[float] | None) -> tuple[float, ...] | None:
    """Returns the learning rates in rising order; raises ValueError unless all are positive and finite."""
    if rates is None:
        return None
    found = tuple(sorted({float(rate) for rate in rates}))
    if not found or not all(math.isfinite(rate) and rate > 0 for rate in found):
        shown = ", ".join(f"{rate:g}" for rate in found) or "none"
        raise ValueError(
            f"{caller}: argument 'learning_rates' must be positive and finite, and at least one; got {shown}"
        )
    return found


def candidates(
    optimizers: Any, learning_rates: Iterable[float] | None, caller: str = "compare"
) -> list[Candidate]:
    """Returns the candidates of `compare`; for `trajectory`, whole transformations run unchanged."""
    rates = check_rates(caller, learning_rates)
    if optimizers is None:
        known = optimizer_names()
        optimizers = [name for name in DEFAULTS if name in known]
    if isinstance(optimizers, str) or hasattr(optimizers, "_fields"):
        optimizers = [optimizers]
    if isinstance(optimizers, Mapping):
        found = [_given(str(name), value, rates, caller) for name, value in optimizers.items()]
    elif isinstance(optimizers, Sequence):
        found = [_given(_name_of(value), value, rates, caller) for value in optimizers]
    else:
        raise TypeError(
            f"{caller}: argument 'optimizers' must be names, or a dict from a name to a transformation or a "
            f"function of learning_rate; got {describe(optimizers)}"
        )
    names = [candidate.name for candidate in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{caller}: argument 'optimizers' must have a different name for each; "
            f"got {', '.join(twice)} twice. Use a dict to name them"
        )
    if not found:
        raise ValueError(f"{caller}: argument 'optimizers' must have at least one optimizer; got none")
    return found
