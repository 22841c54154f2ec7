"""The parameters at which a model is evaluated, where these are not the ones that are trained."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from gradflow._selection._absent import is_absent
from gradflow._types import OptState, Params
from gradflow.tree._structure import explain_trees
from gradflow.wrappers._lookahead import LookaheadParams


class View(NamedTuple):
    """What a kind of state averages: its field with a tree like the parameters, and how that is read."""

    field: str
    read: Callable[[list[Any], list[Any], Any], list[Any]]  # (parameters, leaves of the field, state)


_VIEWS: dict[type, View] = {}


def averages(kind: type, field: str, read: Callable[[list[Any], list[Any], Any], list[Any]]) -> None:
    """Makes the states of a kind known to `eval_params`."""
    _VIEWS[kind] = View(field, read)


def eval_params(state: OptState, params: Params) -> Params:
    """The parameters at which to evaluate a model: the averages in a state, in the parameters' dtypes.

    Finds `schedule_free`, `with_param_ema`, `with_swa`, `with_lawa` anywhere in the state, and takes the slow
    weights of `LookaheadParams`. Where nothing averages, and for leaves that are not averaged, these are
    the parameters as they are.

    Args:
      state: of any transformation.
      params: the parameters that `state` was made for, as they are now.

    Raises ValueError where two averages claim the same leaf, or a tree does not fit.
    """
    if isinstance(params, LookaheadParams):
        fast = averaged("eval_params", state, params.fast, tuple(_VIEWS))
        # An average of the fast weights, where somebody asked for one, goes before the slow ones.
        return params.slow if fast is None else fast
    found = averaged("eval_params", state, params, tuple(_VIEWS))
    return params if found is None else found


def averaged(caller: str, state: OptState, params: Params, kinds: tuple[type, ...]) -> Params | None:
    """The parameters with the averages that states of these kinds hold; None where there are none."""
    found = list(_parts(state, kinds))
    if not found:
        return None
    structure: Any
    leaves, structure = jax.tree.flatten(params, is_leaf=is_absent)
    results = list(leaves)
    claimed: set[int] = set()
    for part in found:
        view = _VIEWS[type(part)]
        points = getattr(part, view.field)
        try:
            own = structure.flatten_up_to(points)
        except ValueError:
            raise ValueError(
                f"{caller}: 'params' must be the tree that 'state' was made for; "
                + explain_trees("params", params, f"the state's {view.field}", points)
            ) from None
        mine = [i for i, z in enumerate(own) if not (is_absent(z) or is_absent(leaves[i]))]
        if claimed.intersection(mine):
            raise ValueError(f"{caller}: 'state' has two averages for the same leaf")
        claimed.update(mine)
        read = view.read([leaves[i] for i in mine], [own[i] for i in mine], part)
        for i, x in zip(mine, read, strict=True):
            results[i] = x
    return structure.unflatten(results)


def _parts(state: OptState, kinds: tuple[type, ...]) -> Iterator[Any]:
    """The parts of a state that are of these kinds, those inside others too."""
    for part in jax.tree.leaves(state, is_leaf=lambda x: type(x) in kinds):
        if type(part) in kinds:
            yield part
            for field in part:
                yield from _parts(field, kinds)
