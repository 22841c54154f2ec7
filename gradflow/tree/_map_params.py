"""Mapping over the parts of an optimizer's state that are shaped like the parameters."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax

from gradflow._checked import FUNCTION, checked
from gradflow.tree._paths import is_none
from gradflow.tree._structure import up_to


@runtime_checkable
class Initable(Protocol):
    """An object with an `init(params)` that returns a state."""

    def init(self, params: Any) -> Any:
        """The state for these parameters."""


@jax.tree_util.register_pytree_node_class
class ParamsPlaceholder:
    """Stands for the parameters, or for one of them, in a call of `init`.

    It is a pytree without leaves, so `jax.tree.map` keeps it. The state that `init` returns then has it
    wherever there is a tree made from the parameters.
    """

    def __init__(self, number: int | None = None) -> None:
        self.number = number

    def tree_flatten(self) -> tuple[tuple[()], int | None]:
        """No children."""
        return (), self.number

    @classmethod
    def tree_unflatten(cls, number: int | None, _: Any) -> "ParamsPlaceholder":
        """Itself again."""
        return cls(number)


@checked(f=FUNCTION, transform_non_params=FUNCTION | None, is_leaf=FUNCTION | None)
def map_params(
    initable: Initable | Callable[[Any], Any],
    f: Callable[..., Any],
    state: Any,
    /,
    *rest: Any,
    transform_non_params: Callable[[Any], Any] | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Maps `f(leaf, *rest_leaves)` over the parts of a state that are shaped like the parameters.

    These parts are found by calling `init` with placeholders. None and other pytrees without leaves, such as
    a masked parameter, stay as they are.

    Args:
      initable: a transformation, or its `init`.
      f: called with a leaf of the state and the corresponding leaves of `rest`.
      state: a state that `init` made, or one of the same structure.
      *rest: trees with the parameters' structure, such as shardings.
      transform_non_params: applied to the other leaves; None keeps them.
      is_leaf: which nodes are leaves inside the parts that are shaped like the parameters.

    Raises ValueError if `state` does not have the structure that `init` makes.
    """
    init = initable.init if isinstance(initable, Initable) else initable
    template, columns = _template(init, rest)
    places: list[Any]
    treedef: Any
    places, treedef = jax.tree.flatten(template, is_leaf=_is_placeholder)
    values = up_to(treedef, state, "state")

    def visit(place: Any, value: Any) -> Any:
        if not _is_placeholder(place):
            return value if transform_non_params is None else transform_non_params(value)
        if place.number is None:
            return _map(f, value, rest, is_leaf)
        return _map(lambda x: f(x, *(column[place.number] for column in columns)), value, (), is_leaf)

    return treedef.unflatten([visit(p, v) for p, v in zip(places, values, strict=True)])


def _template(init: Callable[[Any], Any], rest: tuple[Any, ...]) -> tuple[Any, list[list[Any]]]:
    """The state with placeholders, and the leaves of each tree of `rest` for them."""
    try:
        return _call(init, ParamsPlaceholder()), []
    except Exception as error:
        if not rest:
            raise TypeError(
                "tree.map_params: the init of argument 'initable' must accept a placeholder for the "
                f"parameters; it raised: {error}. Pass a tree with their structure in 'rest'"
            ) from error
    # An init with a tree of masks or labels needs the parameters' structure, which `rest` has.
    treedef: Any
    leaves, treedef = jax.tree.flatten(rest[0], is_leaf=is_none)
    numbered = treedef.unflatten([ParamsPlaceholder(i) for i in range(len(leaves))])
    columns = [up_to(treedef, tree, f"rest[{i}]") for i, tree in enumerate(rest)]
    return _call(init, numbered), columns


def _call(init: Callable[[Any], Any], params: Any) -> Any:
    try:
        return jax.eval_shape(init, params)
    except TypeError:
        return init(params)  # the state has leaves that are not arrays


def _map(
    f: Callable[..., Any],
    value: Any,
    others: Sequence[Any],
    is_leaf: Callable[[Any], bool] | None,
) -> Any:
    def chosen(x: Any) -> bool:
        return is_leaf is not None and is_leaf(x)

    def absent(x: Any) -> bool:
        return not chosen(x) and not jax.tree.leaves(x)

    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree.flatten(value, is_leaf=lambda x: chosen(x) or absent(x))
    columns = [up_to(treedef, other, f"rest[{i}]") for i, other in enumerate(others)]
    rows = zip(leaves, *columns, strict=True)
    return treedef.unflatten([row[0] if absent(row[0]) else f(*row) for row in rows])


def _is_placeholder(x: Any) -> bool:
    return isinstance(x, ParamsPlaceholder)


def has_placeholder(params: Any) -> bool:
    """Whether `init` is called with a placeholder in the place of the parameters, or of some of them."""
    return _is_placeholder(params) or any(
        map(_is_placeholder, jax.tree.leaves(params, is_leaf=_is_placeholder))
    )
