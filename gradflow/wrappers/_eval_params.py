"""The parameters for evaluating a model, where they differ from those that are trained."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from gradflow._calls._checks import as_arrays
from gradflow._checked import ARRAYS, STATE, checked
from gradflow._types import OptState, Params, is_absent
from gradflow.tree._structure import explain_trees
from gradflow.wrappers._lookahead import LookaheadParams


class View(NamedTuple):
    """How to read averages from one type of state: a field like the parameters, and a function."""

    field: str
    read: Callable[[list[Any], list[Any], Any], list[Any]]  # (parameters, leaves of the field, state)


VIEWS: dict[type, View] = {}


def averages(kind: type, field: str, read: Callable[[list[Any], list[Any], Any], list[Any]]) -> None:
    """Registers a type of state for `eval_params`."""
    VIEWS[kind] = View(field, read)


@checked(state=STATE, params=ARRAYS)
def eval_params(state: OptState, params: Params) -> Params:
    """Returns the parameters for evaluating a model: the averages in a state, in the parameters' dtypes.

    Finds the states of `schedule_free`, `msam`, `bsam`, `asgd`, `with_param_ema`, `with_swa`, `with_lawa`
    and `with_tail_average` anywhere in the state. Of `LookaheadParams` it returns the slow weights. Leaves
    without an average are returned unchanged.

    Args:
      state: the state of any transformation.
      params: the current values of the parameters that `state` was made for.

    Raises ValueError where two states average the same leaf, or a tree does not fit.

    >>> import gradflow as gf
    >>> tx = gf.with_param_ema(gf.sgd(0.1), 0.9)
    >>> float(gf.eval_params(tx.init(2.0), 2.0))
    2.0
    """
    if isinstance(params, LookaheadParams):
        fast = averaged("eval_params", state, params.fast, tuple(VIEWS))
        # An average of the fast weights, which was requested explicitly, has precedence over the slow ones.
        return params.slow if fast is None else fast
    found = averaged("eval_params", state, params, tuple(VIEWS))
    return params if found is None else found


def averaged(caller: str, state: OptState, params: Params, kinds: tuple[type, ...]) -> Params | None:
    """The parameters, replaced by the averages in states of these types; None without such a state."""
    found = list(_parts(state, kinds))
    if not found:
        return None
    structure: Any
    leaves, structure = jax.tree.flatten(params, is_leaf=is_absent)
    results = list(leaves)
    claimed: set[int] = set()
    for part in found:
        view = VIEWS[type(part)]
        points = getattr(part, view.field)
        try:
            own = structure.flatten_up_to(points)
        except ValueError:
            raise ValueError(
                f"{caller}: argument 'params' must be the tree that 'state' was made for; "
                + explain_trees("params", params, f"the state's {view.field}", points)
            ) from None
        mine = [i for i, z in enumerate(own) if not (is_absent(z) or is_absent(leaves[i]))]
        if claimed.intersection(mine):
            raise ValueError(
                f"{caller}: argument 'state' must have one average for each leaf; "
                "got two averages for the same leaf"
            )
        claimed.update(mine)
        read = view.read(as_arrays([leaves[i] for i in mine]), [own[i] for i in mine], part)
        for i, x in zip(mine, read, strict=True):
            results[i] = x
    return structure.unflatten(results)


def _parts(state: OptState, kinds: tuple[type, ...]) -> Iterator[Any]:
    """The parts of a state that have these types, including nested ones."""
    for part in jax.tree.leaves(state, is_leaf=lambda x: type(x) in kinds):
        if type(part) in kinds:
            yield part
            for field in part:
                yield from _parts(field, kinds)
