"""Makes tasks from a user's own loss, parameters and data."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow._checked import Leaves, is_number_or_array
from gradflow._errors import describe
from gradflow.lab._tasks._task import Batch, Task


class OwnData(NamedTuple):
    """How a user's data are read: examples per batch, the held-out data, and its metric."""

    batch_size: int | None = None
    test: Any = None
    metric: Callable[..., Any] | None = None


NO_DATA = OwnData()
# Arrays of other libraries become NumPy's.
_BATCHES = Leaves(
    "an array of numbers",
    lambda leaf: is_number_or_array(leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)),
)


def own_task(
    loss_fn: Any, params: Any, batches: Any, steps: int, caller: str, own: OwnData = NO_DATA
) -> Task:
    """Makes a task of a user's problem, whose arguments are documented in `compare`."""
    if loss_fn is None or params is None:
        missing = "loss_fn" if loss_fn is None else "params"
        raise TypeError(
            f"{caller}: argument '{missing}' must be given too; got None. "
            "Your own problem needs both loss_fn and params"
        )
    if not callable(loss_fn):
        raise TypeError(
            f"{caller}: argument 'loss_fn' must be a function of (params, batch); got {describe(loss_fn)}"
        )
    if (own.test is None) != (own.metric is None):
        raise TypeError(f"{caller}: arguments 'test' and 'metric' must be given together; got one of them")
    is_function = callable(params) and jax.tree_util.all_leaves([params])
    init = params if is_function else lambda key: params
    if batches is None:
        # One dummy batch, since the loss is a function of the parameters alone.
        return Task("your own", init, lambda p, _: loss_fn(p), np.zeros((1,), np.int32), None)
    train, size = _examples(batches, steps, caller, own.batch_size)
    metric = own.metric
    _check_arguments(f"{caller}: argument 'loss_fn'", loss_fn, train)
    if metric is not None:
        _check_arguments(f"{caller}: argument 'metric'", metric, own.test)
    return Task(
        "your own", init, on_batches(loss_fn, train), train, size,
        test=None if own.test is None else jax.tree.map(np.asarray, own.test),
        score_fn=None if metric is None else on_batches(metric, own.test),
        score_name=getattr(metric, "__name__", "score").replace("_", " "),
    )  # fmt: skip


def on_batches(function: Callable[..., Any], batch: Batch) -> Callable[[Any, Batch], Any]:
    """A function of `(params, batch)` from one that may also be of `(params, x, y)`."""
    if not isinstance(batch, tuple) or not _takes(function, 1 + len(batch)):
        return function
    return lambda params, batch: function(params, *batch)


def _check_arguments(which: str, function: Any, batch: Batch) -> None:
    counts = [2, 1 + len(batch)] if isinstance(batch, tuple) else [2]
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    for count in counts:
        with contextlib.suppress(TypeError):
            signature.bind(*range(count))
            return
    forms = "(params, batch)" + (" or (params, x, y)" if counts[1:] == [3] else "")
    raise TypeError(f"{which} must be a function of {forms}; got one of {signature}")


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function has at least `count` > 2 positional arguments without a default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters) >= count > 2


def _examples(batches: Any, steps: int, caller: str, batch_size: int | None) -> tuple[Batch, int | None]:
    """The data as one tree of arrays, and the examples per batch: None if they are whole batches."""
    if isinstance(batches, list) or hasattr(batches, "__next__"):
        taken = [batch for _, batch in zip(range(steps), batches, strict=False)]
        _BATCHES.check(caller, "batches", taken)
        if not taken:
            raise ValueError(f"{caller}: argument 'batches' must have at least one batch; got none")
        first = taken[0]
        if all(_shapes(batch) == _shapes(first) for batch in taken):
            batches = jax.tree.map(lambda *leaves: np.stack(leaves), *taken)
        else:
            # A last batch that is shorter: the examples are shuffled again into equal batches.
            batch_size = batch_size or len(jax.tree.leaves(first)[0])
            batches = jax.tree.map(lambda *leaves: np.concatenate(leaves), *taken)
    else:
        _BATCHES.check(caller, "batches", batches)
        if batch_size is None:
            _check_batches(batches, caller)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise ValueError(
            f"{caller}: argument 'batches' must be a list of batches, or a tree of arrays whose common "
            f"leading axis counts the batches, or the examples with batch_size; got shapes "
            f"{', '.join(str(np.shape(leaf)) for leaf in jax.tree.leaves(batches)[:5]) or 'of no array'}"
        )
    return jax.tree.map(np.asarray, batches), batch_size


def _check_batches(batches: Any, caller: str) -> None:
    """Refuses arrays of examples: `(X, Y)` with numbers Y would be batches of one example each."""
    axes = {np.ndim(leaf) for leaf in jax.tree.leaves(batches)}
    if 1 in axes and max(axes) > 1:
        raise ValueError(
            f"{caller}: argument 'batch_size' must be given where 'batches' holds examples; got None, and an "
            "array of one axis, each of whose numbers would be a batch. Pass batch_size=32, say."
        )


def _shapes(batch: Batch) -> list[tuple[int, ...]]:
    return [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
