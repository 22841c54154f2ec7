"""Who takes part in a comparison: names, factories and whole transformations, each with its rates."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gradflow import optimizers as room
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import unknown
from gradflow._expressions._addresses import addresses, replace
from gradflow._expressions._keys import expression_of
from gradflow._expressions._printing import show
from gradflow.lab._candidates._parse import parse
from gradflow.lab._candidates._recipes import (
    _BELOW,
    DEFAULTS,
    RECIPES,
    WITHOUT_RATE,
    Recipe,
    _grid,
    optimizer_names,
)


class Contender(NamedTuple):
    """A name, the transformation for a rate (a number or a tracer), and the rates to try.

    The one rate None means that the transformation is run as it is.
    """

    name: str
    build: Callable[[Any], GradientTransformation]
    rates: tuple[float | None, ...]


def _named(name: str, rates: tuple[float, ...] | None) -> Contender:
    if name not in optimizer_names():
        raise unknown("optimizer", name, optimizer_names())
    recipe = RECIPES.get(name, Recipe(name, {}, 1e-2))
    factory = getattr(room, recipe.factory)
    if name in WITHOUT_RATE:
        whole = factory()
        return Contender(name, lambda rate: whole, (None,))

    def build(rate: Any) -> GradientTransformation:
        made: GradientTransformation = factory(learning_rate=rate, **recipe.arguments)
        return made

    return Contender(name, build, rates or _grid(recipe.middle))


def _given(name: str, value: Any, rates: tuple[float, ...] | None, caller: str) -> Contender:
    if isinstance(value, str) and "(" not in value:
        return _named(value, rates)._replace(name=name)
    if isinstance(value, str):
        value = parse(value)
    if not isinstance(value, tuple):
        if not callable(value):
            raise TypeError(
                f"{caller}: the optimizer '{name}' must be a name, a transformation, or a function of "
                f"learning_rate; got a {type(value).__name__}"
            )
        return Contender(
            name,
            lambda rate: as_transformation(value(learning_rate=rate), caller, name),
            rates or _grid(1e-2),
        )
    whole = as_transformation(value, caller, f"the optimizer '{name}'")
    parts = addresses(whole) if expression_of(whole) is not None else {}
    # The outermost one: a named optimizer is asked for its own argument.
    places = [address for address in parts if address.split(".")[-1] == "learning_rate"]
    if caller == "trajectory" or len(places) != 1 or callable(parts[places[0]]):
        return Contender(name, lambda rate: whole, (None,))
    return Contender(
        name, lambda rate: replace(whole, {places[0]: rate}), rates or _own_grid(parts[places[0]])
    )


def _name_of(value: Any) -> str:
    """A name for an optimizer in a list: its own, or that of the factory that made it."""
    expression = expression_of(value)
    return value if isinstance(value, str) else str(getattr(expression or value, "name", repr(value)))


def one_optimizer(value: Any, caller: str) -> GradientTransformation:
    """One optimizer, whole: a name at its usual rate, an expression as text, or a transformation."""
    if isinstance(value, str) and "(" in value:
        value = parse(value)
    elif isinstance(value, str):
        contender = _named(value, None)
        rates = contender.rates
        return contender.build(rates[_BELOW] if len(rates) > _BELOW else rates[0])
    return as_transformation(value, caller, "the optimizer")


def rate_builder(value: Any, caller: str) -> tuple[str, Callable[[Any], GradientTransformation]]:
    """A name, and the optimizer for a learning rate, in the place of the one that it has."""
    if isinstance(value, str) and "(" not in value:
        contender = _named(value, None)
        if contender.rates == (None,):
            raise ValueError(f"{caller}: '{value}' chooses its learning rate itself")
        return value, contender.build
    whole = one_optimizer(value, caller)
    found = [] if expression_of(whole) is None else list(addresses(whole))
    places = [address for address in found if address.split(".")[-1] == "learning_rate"]
    if len(places) != 1:
        raise ValueError(f"{caller}: the optimizer must have one learning_rate; it has {len(places)}")
    return show(whole), lambda rate: replace(whole, {places[0]: rate})


def _own_grid(rate: Any) -> tuple[float, ...]:
    """The grid around a transformation's own rate, where that is a positive number."""
    return _grid(float(rate) if isinstance(rate, int | float) and rate > 0 else 1e-2)


def check_rates(rates: Iterable[float] | None) -> tuple[float, ...] | None:
    """The learning rates in rising order; a ValueError for one that is no positive finite number."""
    if rates is None:
        return None
    found = tuple(sorted({float(rate) for rate in rates}))
    if not found or not all(math.isfinite(rate) and rate > 0 for rate in found):
        shown = ", ".join(f"{rate:g}" for rate in found) or "none"
        raise ValueError(f"learning rates must be positive and finite, and at least one; got {shown}")
    return found


def contenders(
    optimizers: Any, learning_rates: Iterable[float] | None, caller: str = "compare"
) -> list[Contender]:
    """The contenders for `compare`; for `trajectory`, whole transformations run as they are."""
    rates = check_rates(learning_rates)
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
            f"function of learning_rate; got a {type(optimizers).__name__}"
        )
    names = [contender.name for contender in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"each optimizer needs a name of its own (use a dict); twice: {', '.join(twice)}")
    if not found:
        raise ValueError("there is no optimizer to compare")
    return found
