"""Addresses of the parts of a value, and replacing parts by address."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from gradflow._checked import MAPPING, checked
from gradflow._errors import describe, names_hint
from gradflow._expressions._expression import Expression, children
from gradflow._expressions._keys import expression_of
from gradflow._tracebacks import one_frame

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
            "addresses: the value must be a transformation or schedule made by a factory; "
            f"got {describe(value)}"
        )
    root = _Part(expression.name, (), value)
    return {part.address: part for part in (root, *_walk(expression, expression.name, ()))}


def addresses(value: Any) -> dict[str, Any]:
    """Every part of a transformation or schedule, by address.

    An address is the path of factory names down to an argument, `chain.adamw.learning_rate`. Containers add
    their labels, `partition.encoder.adamw.b1`. Equal siblings are numbered, `chain.scale[0].step_size`.

    >>> import gradflow
    >>> list(addresses(gradflow.chain(gradflow.scale(2.0), gradflow.scale(3.0))))[1:]
    ['chain.scale[0]', 'chain.scale[0].step_size', 'chain.scale[1]', 'chain.scale[1].step_size']
    """
    return {address: part.value for address, part in _parts(value).items()}


def resolve_address(owner: str, what: str, address: str, known: Collection[str]) -> str:
    """The known address that is `address`, or the only one that ends in it; ValueError otherwise."""
    matches = addresses_ending_in(address, known)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"{owner}: '{address}' is ambiguous: it is the end of {', '.join(matches)}")
    hint = names_hint(address, known, len(known))
    raise ValueError(f"{owner}: no {what} has the address '{address}'. {hint}")


def addresses_ending_in(address: str, known: Collection[str]) -> list[str]:
    """`address` alone if it is known, else the known addresses of which it is the end."""
    return [address] if address in known else [full for full in known if full.endswith("." + address)]


@one_frame
@checked(changes=MAPPING)
def replace(value: V, changes: Mapping[str, Any]) -> V:
    """A copy of a transformation or schedule with the parts at some addresses replaced.

    `replace(tx, {"adamw.learning_rate": 3e-4})`. Any unique end of an address works. A part is an argument,
    or a whole transformation or schedule. New arguments are checked like those of a call, and may be traced.

    >>> import gradflow
    >>> replace(gradflow.chain(gradflow.scale(2.0), gradflow.clip(1.0)), {"step_size": 3.0})
    chain(scale(3.0), clip(1.0))

    Raises ValueError for an address that is unknown or ambiguous, with the near or the matching addresses.
    """
    parts = _parts(value)
    edits: dict[tuple[Any, ...], Any] = {}
    for address, new in changes.items():
        slot = parts[resolve_address("replace", "part", address, parts)].slot
        if slot in edits:
            raise ValueError(f"replace: the address '{address}' names a part that is replaced already")
        edits[slot] = new
    for slot in edits:
        if any(slot[:n] in edits for n in range(len(slot))):
            raise ValueError("replace: a part is changed both as a whole and in part. Use two calls")
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
        made = expression.rebuild({name: _edit(arguments[name], some) for name, some in inner.items()})
        is_pair_by_hand = type(made) is not type(value) and isinstance(made, type(value))
        return tuple.__new__(type(value), made) if is_pair_by_hand else made
    if isinstance(value, dict):
        return {key: _edit(item, inner[key]) if key in inner else item for key, item in value.items()}
    return tuple(_edit(item, inner[i]) if i in inner else item for i, item in enumerate(value))
