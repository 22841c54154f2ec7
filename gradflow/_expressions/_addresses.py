"""Addresses of the parts of a value, and the value with some parts replaced."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from gradflow._errors import describe
from gradflow._expressions._expression import Expression, children
from gradflow._expressions._keys import expression_of

V = TypeVar("V")


class _Part(NamedTuple):
    address: str
    slot: tuple[Any, ...]
    value: Any


def _walk(expression: Expression, prefix: str, slot: tuple[Any, ...]) -> Iterator[_Part]:
    inner = children(expression.arguments)
    stages = {child.slot for child in inner if child.value.expression.maker.kind == "transformation"}
    for name, value in expression.arguments.items():
        if name != expression.maker.variadic and (name,) not in stages:
            yield _Part(f"{prefix}.{name}", (*slot, name), value)
    for child in inner:
        address = f"{prefix}.{child.label}"
        yield _Part(address, (*slot, *child.slot), child.value)
        yield from _walk(child.value.expression, address, (*slot, *child.slot))


def _parts(value: Any) -> dict[str, _Part]:
    expression = expression_of(value)
    if expression is None:
        raise TypeError(
            f"only a transformation or a schedule made by a factory has addresses; got {describe(value)}"
        )
    root = _Part(expression.name, (), value)
    return {part.address: part for part in (root, *_walk(expression, expression.name, ()))}


def addresses(value: Any) -> dict[str, Any]:
    """Every part of a transformation or a schedule, by address.

    An address is the path of factory names down to an argument, `chain.adamw.learning_rate`; containers add
    their labels, `partition.encoder.adamw.b1`; equal siblings are numbered, `chain.scale[0].step_size`.

    >>> import gradflow
    >>> list(addresses(gradflow.chain(gradflow.scale(2.0), gradflow.scale(3.0))))[1:]
    ['chain.scale[0]', 'chain.scale[0].step_size', 'chain.scale[1]', 'chain.scale[1].step_size']
    """
    return {address: part.value for address, part in _parts(value).items()}


def _resolve(parts: Mapping[str, _Part], address: str) -> _Part:
    if address in parts:
        return parts[address]
    matches = [full for full in parts if full.endswith("." + address)]
    if len(matches) == 1:
        return parts[matches[0]]
    if matches:
        raise ValueError(f"the address '{address}' is ambiguous: it is the end of {', '.join(matches)}")
    last = address.split(".")[-1]
    near = difflib.get_close_matches(address, parts, n=5, cutoff=0.5)
    near += [full for full in parts if full.split(".")[-1] == last and full not in near]
    shown = near or list(parts)
    raise ValueError(f"no part has the address '{address}'; {'near' if near else 'all'}: {', '.join(shown)}")


def replace(value: V, changes: Mapping[str, Any]) -> V:
    """A transformation or schedule like `value`, with the parts at some addresses replaced.

    `replace(tx, {"adamw.learning_rate": 3e-4})`. Any unique end of an address will do. A part is an
    argument or a whole transformation or schedule; new arguments are checked as the first
    ones were, and may be traced.

    >>> import gradflow
    >>> replace(gradflow.chain(gradflow.scale(2.0), gradflow.clip(1.0)), {"step_size": 3.0})
    chain(scale(3.0), clip(1.0))

    Raises ValueError for an address that is unknown (near ones are listed) or ambiguous (all are listed).
    """
    parts = _parts(value)
    edits: dict[tuple[Any, ...], Any] = {}
    for address, new in changes.items():
        slot = _resolve(parts, address).slot
        if slot in edits:
            raise ValueError(f"the address '{address}' names a part that is replaced already")
        edits[slot] = new
    for slot in edits:
        if any(slot[:n] in edits for n in range(len(slot))):
            raise ValueError("a part is replaced as a whole and in part; replace it in two steps")
    return _edit(value, edits)


def _edit(value: Any, edits: Mapping[tuple[Any, ...], Any]) -> Any:
    if () in edits:
        return edits[()]
    inner: dict[Any, dict[tuple[Any, ...], Any]] = {}
    for slot, new in edits.items():
        inner.setdefault(slot[0], {})[slot[1:]] = new
    expression = expression_of(value)
    if expression is not None:
        arguments = expression.arguments
        return expression.rebuild({name: _edit(arguments[name], some) for name, some in inner.items()})
    if isinstance(value, dict):
        return {key: _edit(item, inner[key]) if key in inner else item for key, item in value.items()}
    return tuple(_edit(item, inner[i]) if i in inner else item for i, item in enumerate(value))
