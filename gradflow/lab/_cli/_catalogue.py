"""Text for `list` and `describe`: a line for each optimizer and wrapper; the details of an expression."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import optimizers as room
from gradflow import wrappers
from gradflow._expressions._addresses import addresses
from gradflow._expressions._keys import expression_of
from gradflow._expressions._printing import shorten, show
from gradflow._inspection._summary import summary
from gradflow._tables import aligned
from gradflow.lab._candidates._parse import factory_named, parse
from gradflow.lab._candidates._recipes import RECIPES

# One layer of a network; the state per parameter depends little on its size.
REFERENCE = {
    "kernel": jax.ShapeDtypeStruct((256, 256), jnp.float32),
    "bias": jax.ShapeDtypeStruct((256,), jnp.float32),
}
_ARGUMENTS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "l2_norm_clip": 1.0,
    "noise_multiplier": 1.0,
    "num_examples": 1000,
    "key": 0,
}


_STAGES = ("scale_by_", "shrink_by_", "hutchinson_", "add_decayed_", "step_by_", "orthogonalize")


class Listed(NamedTuple):
    """An optimizer, its description, and the bytes of state per parameter of a layer of 256 x 256."""

    name: str
    line: str
    state_bytes_per_parameter: float | None


def catalogue(pattern: str = "") -> list[Listed]:
    """The named optimizers whose name or line contains `pattern`; all of them without one."""
    found = []
    for name, factory in sorted(_factories().items()):
        line = first_line(factory)
        if pattern.lower() in f"{name} {line}".lower():
            found.append(Listed(name, line, _state_bytes(factory)))
    return found


def _factories() -> dict[str, Any]:
    """The factories of whole optimizers, without those of their stages."""
    found = {}
    for name, value in vars(room).items():
        factory = getattr(value, "__gradflow__", None)
        is_stage = name.startswith(_STAGES)
        if factory is not None and not is_stage and not _wraps(factory):
            found[name] = value
    return found


def _wraps(factory: Any) -> bool:
    """Whether a factory needs a transformation, so that it is not a whole optimizer."""
    return any(factory.parameters[name].default is inspect.Parameter.empty for name in factory.inner)


def _wrappers(pattern: str) -> list[tuple[str, str]]:
    """Name and line of each wrapper of a transformation, where one contains `pattern`."""
    found = []
    for name, value in sorted(vars(wrappers).items(), key=lambda item: item[0].lower()):
        factory = getattr(value, "__gradflow__", None)
        takes_one = factory is not None and (factory.inner or name in ("partition", "multi_transform"))
        if takes_one and pattern.lower() in f"{name} {first_line(value)}".lower():
            found.append((name, first_line(value)))
    return found


def first_line(factory: Any) -> str:
    """The first sentence of a factory's docstring, as one line."""
    text = inspect.getdoc(factory) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". Arguments")[0].removesuffix(".")


def _state_bytes(factory: Any) -> float | None:
    parameters = factory.__gradflow__.parameters
    needed = [name for name, p in parameters.items() if p.default is p.empty or name == "key"]
    if not all(name in _ARGUMENTS for name in needed):
        return None
    report = summary(factory(**{name: _ARGUMENTS[name] for name in needed}), REFERENCE)
    return report.state_bytes / report.parameters


def listing(pattern: str = "", width: int | None = None) -> str:
    """Returns the catalogue as text, in lines of at most `width` if possible."""
    found, around = catalogue(pattern), _wrappers(pattern)
    if not found and not around:
        return f"no optimizer or wrapper has {pattern!r} in its name or its line"
    others = [("wrapper", "what it does"), *((name, line) for name, line in around)]
    below = [""] * bool(found) + aligned(others, left=(0, 1), width=width) if around else []
    if not found:
        return "\n".join(below)
    rows = [("optimizer", "state B/param", "what it is")]
    for entry in found:
        size = "-" if entry.state_bytes_per_parameter is None else f"{entry.state_bytes_per_parameter:.2f}"
        rows.append((entry.name, size, entry.line))
    note = "State in bytes for each float32 parameter of a layer of 256 x 256 and its bias."
    return "\n".join([*aligned(rows, left=(0, 2), width=width), "", note, *below])


def description(text: str) -> str:
    """Describes an expression or a factory: its parts or arguments, its docstring, its state."""
    if "(" in text:
        return _of_value(parse(text))
    if text.strip() in RECIPES and RECIPES[text.strip()].factory != text.strip():
        recipe = RECIPES[text.strip()]
        named = ", ".join(f"{name}={value!r}" for name, value in recipe.arguments.items())
        return f"{text.strip()}: {recipe.factory}(learning_rate, {named})\n\n" + _of_factory(
            factory_named(recipe.factory)
        )
    return _of_factory(factory_named(text.strip()))


def _of_factory(factory: Any) -> str:
    record = factory.__gradflow__
    written = []
    for name, p in record.parameters.items():
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        written.append(f"{star}{name}" + ("" if p.default is p.empty else f"={show(p.default)}"))
    return f"{record.name}({', '.join(written)})\n\n{inspect.getdoc(factory) or ''}"


def _of_value(value: Any) -> str:
    expression = expression_of(value)
    assert expression is not None
    lines = [show(value), "", first_line(expression.maker.function), "", "parts, by address:"]
    parts = {address: part for address, part in addresses(value).items() if "." in address}
    width = max(map(len, parts), default=0)
    lines += [f"  {address.ljust(width)}  {shorten(show(part), 100)}" for address, part in parts.items()]
    if expression.maker.kind == "transformation":
        try:
            report = str(summary(value, REFERENCE))
        except (TypeError, ValueError) as error:  # a transformation that needs other trees
            report = f"not for a kernel and a bias: {error}"
        lines += [
            "",
            "state for a layer of 256 x 256 and its bias:",
            *("  " + x for x in report.splitlines()),
        ]
    return "\n".join(lines)
