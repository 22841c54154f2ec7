"""The names of a state's leaves, read from the expression and the state.

No parameters are needed: a stage's state has the class with which its update is annotated, and a wrapper's
state contains the states of its inner stages.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax

from gradflow._core._call import UpdatePart
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._stage import Stage
from gradflow._core._transformation import GradientTransformation, stage_of
from gradflow._errors import describe
from gradflow._expressions._printing import show
from gradflow._expressions._registry import OWN_FACTORIES
from gradflow._types import OptState, ScheduledState
from gradflow.schedules import StatefulSchedule, WrappedSchedule
from gradflow.tree._paths import children, longest_prefix, path_string, segment
from gradflow.wrappers._inject import InjectStatefulHyperparamsState

Keys = tuple[Any, ...]
FOREIGN = "GradientTransformation"  # the rule of a transformation that was not made by a factory


class StatePath(NamedTuple):
    """The path of a leaf: the labels down to its stage, the stage's rule, a field, and the path below it."""

    stage: tuple[str, ...]
    rule: str
    field: str
    path: str

    @property
    def name(self) -> str:
        """The path as text."""
        whole = ".".join((*self.stage, self.field) if self.field else self.stage)
        return f"{whole}/{self.path}" if self.path else whole


class Owner(NamedTuple):
    """The labels down to a stage, its rule, and its state."""

    stage: tuple[str, ...]
    rule: str
    node: Any


class Located(NamedTuple):
    """A leaf and its path."""

    place: StatePath
    leaf: Any


class MisfitError(ValueError):
    """The state does not belong to the stage."""


def locate(tx: GradientTransformation, state: OptState, caller: str) -> tuple[dict[str, Located], Any]:
    """The leaves of a state by name, in order, and its structure; ValueError if `tx` has another state."""
    stage = cast(Stage, stage_of(tx))
    owners: dict[Keys, Owner] = {}
    try:
        _walk(stage, state, (), (stage.expression.name,), owners)
    except MisfitError as error:
        raise ValueError(f"{caller}: argument 'state' must be a state of {tx!r}: {error}") from None
    flat, structure = jax.tree_util.tree_flatten_with_path(state)
    found: dict[str, Located] = {}
    for keys, leaf in flat:
        owner = cast(Keys, longest_prefix(keys, owners))
        place = _place(owners[owner], keys[len(owner) :])
        name, same = place.name, 1
        while name in found:  # keys with the same text, such as 0 and "0", are numbered
            same += 1
            name = f"{place.name}~{same}"
        found[name] = Located(place, leaf)
    return found, structure


def _place(owner: Owner, keys: Keys) -> StatePath:
    """The path of the leaf at `keys` in an owner's state.

    A field is one key. It is several keys for states inside a state: in the tuple of a third-party chain,
    which is one stage here, and in fields whose names contain "state". The class of the inner state is then
    part of the rule.
    """
    stage, rule, node = owner
    end, inside = 0, True
    while inside and end < len(keys):
        if (end or owner.rule == FOREIGN) and hasattr(node, "_fields"):
            rule = f"{owner.rule}:{type(node).__name__}"
        is_state = type(node) is tuple or "state" in segment(keys[end])
        node = dict(children(node)[0])[keys[end]]
        inside = is_state and isinstance(node, tuple)
        end += 1
    return StatePath(stage, rule, ".".join(map(segment, keys[:end])), path_string(keys[end:]))


def _walk(stage: Stage, node: Any, keys: Keys, path: tuple[str, ...], owners: dict[Keys, Owner]) -> None:
    """Adds a stage and its inner stages to `owners`; `node` at `keys` is the state of the stage."""
    name = stage.expression.name
    if isinstance(stage.update, UpdatePart):  # a named composition
        inner = stage.update.stage
        return _walk(inner, node, keys, (*path, inner.label) if inner.label else path, owners)
    expected = stage.signature.state_type
    owners[keys] = Owner(path, name, node)
    if isinstance(node, ScheduledState) and expected is not ScheduledState and _is_scheduled(stage):
        keys, node = (*keys, jax.tree_util.GetAttrKey("inner_state")), node.inner_state
        owners[keys] = Owner(path, name, node)
    if expected is not None and not isinstance(node, expected):
        raise MisfitError(f"'{'.'.join(path)}' keeps a {expected.__name__}; got {describe(node)}")
    known = _states_inside(stage, node, path)
    if known is not None:
        for child, (below, part) in zip(stage.children, known, strict=True):
            _walk(child, part, (*keys, *below), (*path, str(child.label)), owners)
        return None
    inside = stage.children
    if expected is InjectStatefulHyperparamsState:
        inside = (_injected(stage.expression.arguments, node),)
    taken: list[Keys] = []
    for child in inside:
        taken += _find_inner_state(
            child, node, keys, (*path, child.label or child.expression.name), owners, taken, expected
        )
    return None


def _is_scheduled(stage: Stage) -> bool:
    maker: Any = stage.expression.maker
    return any(callable(stage.expression.arguments[name]) for name in maker.hyperparameters)


def _injected(arguments: Mapping[str, Any], state: InjectStatefulHyperparamsState) -> Stage:
    """The stage inside `inject_hyperparams`, which is built again at every step."""
    given = dict(arguments["arguments"])
    for name in state.hyperparams_states:
        own = given[name]
        schedule = own if isinstance(own, StatefulSchedule) else WrappedSchedule(own)
        given[name] = schedule(schedule.init())
    made = arguments["inner_factory"](**given)
    return cast(Stage, stage_of(as_transformation(made, "inject_hyperparams", "what the factory returns")))


def _states_inside(stage: Stage, node: Any, path: tuple[str, ...]) -> list[tuple[Keys, Any]] | None:
    """The states inside the state of one of gradflow's containers; None for other stages."""
    name, arguments = stage.expression.name, stage.expression.arguments
    if stage.expression.maker is not OWN_FACTORIES.get(name):
        return None
    if name == "chain":
        if type(node) is not tuple or len(node) != len(stage.children):
            size = len(stage.children)
            raise MisfitError(f"'{'.'.join(path)}' keeps a tuple of {size} states; got {describe(node)}")
        return [((jax.tree_util.SequenceKey(i),), part) for i, part in enumerate(node)]
    if name == "named_chain":
        return _by_label(node, [label for label, _ in arguments["args"]], path)
    if name == "partition":
        labels = list(arguments["transforms"])
        if arguments["param_labels"] is None:
            labels = [label if isinstance(label, str) else show(label) for label in labels]
        inner = jax.tree_util.GetAttrKey("inner_states"), jax.tree_util.GetAttrKey("inner_state")
        parts = _by_label(node.inner_states, labels, path)
        return [((inner[0], *key, inner[1]), getattr(part, "inner_state", None)) for key, part in parts]
    return None


def _by_label(node: Any, labels: list[Hashable], path: tuple[str, ...]) -> list[tuple[Keys, Any]]:
    if not isinstance(node, Mapping) or set(node) != set(labels):
        wanted = ", ".join(map(repr, labels))
        raise MisfitError(f"'{'.'.join(path)}' keeps the states {wanted}; got {describe(node)}")
    return [((jax.tree_util.DictKey(label),), node[label]) for label in labels]


def _find_inner_state(
    child: Stage,
    node: Any,
    keys: Keys,
    path: tuple[str, ...],
    owners: dict[Keys, Owner],
    taken: list[Keys],
    expected: type | None,
) -> list[Keys]:
    """Finds a stage's state in its wrapper's: the first part that fits. Returns its keys.

    Parts that are not found belong to the wrapper, under the names of its fields.
    """
    anything = _takes_anything(child)
    for at, part, is_state in _parts(node, keys, at_root=True):
        if at == keys and expected is not None:
            continue  # this is the wrapper's own state
        if any(at[: len(other)] == other[: len(at)] for other in taken):
            continue
        if anything and not is_state:
            continue
        found: dict[Keys, Owner] = {}
        try:
            _walk(child, part, at, path, found)
        except MisfitError:
            continue
        owners.update(found)
        return [at]
    return []


def _takes_anything(stage: Stage) -> bool:
    """Whether a stage does not declare its state's class, so that only field names identify the state."""
    while isinstance(stage.update, UpdatePart):
        stage = stage.update.stage
    return stage.signature.state_type is None and stage.expression.name not in ("chain", "named_chain")


def _parts(node: Any, keys: Keys, at_root: bool = False) -> Iterator[tuple[Keys, Any, bool]]:
    """The nodes of a state, outermost first, their keys, and whether a key contains "state"."""
    yield keys, node, at_root or any("state" in segment(key) for key in keys)
    for key, child in children(node)[0]:
        yield from _parts(child, (*keys, key))
