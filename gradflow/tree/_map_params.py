"""Which parts of an optimizer's state are shaped like the parameters?"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax

from gradflow.tree._paths import is_none
from gradflow.tree._structure import up_to


@runtime_checkable
class Initable(Protocol):
    """Whatever has an `init(params)` that returns a state."""

    def init(self, params: Any) -> Any:
        """The state for these parameters."""


@jax.tree_util.register_pytree_node_class
class ParamsPlaceholder:
    """Stands for the parameters, or for one of them, when `init` is asked where they go.

    It is a container of nothing: `jax.tree.map` passes through it, and what it returns still
    holds it wherever `init` put a tree made from the parameters.
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


def map_params(
    initable: Initable | Callable[[Any], Any],
    f: Callable[..., Any],
    state: Any,
    /,
    *rest: Any,
    transform_non_params: Callable[[Any], Any] | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Map `f(leaf, *rest_leaves)` over the parts of a state that are shaped like the parameters.

    Which parts these are is found by calling `init` on placeholders. None and other containers of
    nothing (a masked parameter) stay as they are, whatever stands there in `rest`.

    Args:
      initable: a transformation, or its `init`.
      f: gets a leaf of the state and its counterparts in `rest`.
      state: a state that `init` made, or one of the same structure.
      *rest: trees with the parameters' structure, such as shardings.
      transform_non_params: applied to the other leaves; None leaves them as they are.
      is_leaf: where to stop inside the parts that are shaped like the parameters.

    Raises ValueError where `state` is not of the structure that `init` makes.
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
    """The state with placeholders in it, and what each tree of `rest` has for each of them."""
    try:
        return _call(init, ParamsPlaceholder()), []
    except Exception as error:
        if not rest:
            raise TypeError(
                "initable: its init cannot take a placeholder for the parameters; a tree with "
                f"their structure, given in rest, would help. It raised: {error}"
            ) from error
    # A mask or labels given as a tree need the parameters' structure: take it from `rest`.
    treedef: Any
    leaves, treedef = jax.tree.flatten(rest[0], is_leaf=is_none)
    numbered = treedef.unflatten([ParamsPlaceholder(i) for i in range(len(leaves))])
    columns = [up_to(treedef, tree, f"rest[{i}]") for i, tree in enumerate(rest)]
    return _call(init, numbered), columns


def _call(init: Callable[[Any], Any], params: Any) -> Any:
    try:
        return jax.eval_shape(init, params)
    except TypeError:
        return init(params)  # its state holds leaves that are no arrays


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
