"""Microbatched functions: of pieces, of rows, and gradients of rows."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow._checked import AXES, FLAG, FUNCTION, Number, checked
from gradflow._errors import describe
from gradflow.microbatching._accumulate import AccumulationType
from gradflow.microbatching._batch import SIZE, Batch, as_tuple, pick_batched
from gradflow.microbatching._loop import accumulate, check_arguments

_PIECES = Number(0, whole=True) | None


class Aux(NamedTuple):
    """The further results of `micro_grad`, one row per example."""

    values: Any  # of the function
    metrics: Any  # results of metrics_fn
    aux: Any  # the function's auxiliary output


@checked(fun=FUNCTION, argnums=AXES, microbatch_size=SIZE | None, in_axes=AXES, num_real_microbatches=_PIECES)
def microbatch(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    microbatch_size: int | None,
    accumulator: Any = AccumulationType.SUM,
    *,
    argnames: str | Sequence[str] = (),
    in_axes: int | Sequence[int] = 0,
    num_real_microbatches: Any = None,
) -> Callable[..., Any]:
    """Calls `fun` on `microbatch_size` rows at a time, and accumulates its results.

    Args:
      fun: a function of arrays or trees.
      argnums: positions of the arguments that have a batch axis.
      microbatch_size: rows per call, >= 1, which must divide the batch; None calls `fun` once.
      accumulator: an `AccumulationType` or `Accumulator`, or a prefix of the result of `fun` of them.
      argnames: keywords of further arguments that have a batch axis.
      in_axes: the batch axis, one for all or one per argument (`argnums` first).
      num_real_microbatches: number of pieces to run, at most all of them. A traced one has no derivatives
        in reverse mode. Rows that did not run are zero under CONCAT.
    """
    name = "microbatch"
    names, numbers = as_tuple(argnames), as_tuple(argnums)
    axes = tuple(in_axes) if isinstance(in_axes, Sequence) else (in_axes,) * (len(numbers) + len(names))
    if len(axes) != len(numbers) + len(names):
        raise ValueError(
            f"{name}: argument 'in_axes' must have one axis for each of 'argnums' and 'argnames',"
            f" {len(numbers) + len(names)} in all; got {len(axes)}"
        )
    check_arguments(name, microbatch_size, accumulator, num_real_microbatches)
    if microbatch_size is None:
        return fun

    def microbatched(*args: Any, **kwargs: Any) -> Any:
        picked = pick_batched(name, numbers, names, args, kwargs)

        def call(pieces: list[Any]) -> Any:
            new_args, new_kwargs = list(args), dict(kwargs)
            for (key, _), piece in zip(picked, pieces, strict=True):
                if isinstance(key, str):
                    new_kwargs[key] = piece
                else:
                    new_args[key] = piece
            return fun(*new_args, **new_kwargs)

        batch = [(f"argument {k!r}", v, axis) for (k, v), axis in zip(picked, axes, strict=True)]
        return accumulate(
            name, call, batch, microbatch_size, accumulator, num_real_microbatches, by_rows=False
        )

    return microbatched


@checked(fun=FUNCTION, microbatch_size=SIZE | None, vmap_fn=FUNCTION, num_real_microbatches=_PIECES)
def micro_vmap(
    fun: Callable[..., Any],
    in_axes: int | Sequence[int | None] = 0,
    out_axes: Any = 0,
    *,
    microbatch_size: int | None = None,
    vmap_fn: Callable[..., Callable[..., Any]] = jax.vmap,
    accumulator: Any = AccumulationType.CONCAT,
    num_real_microbatches: Any = None,
) -> Callable[..., Any]:
    """Maps `fun` like `jax.vmap`, over `microbatch_size` rows at a time; None maps all at once.

    Args:
      fun: a function of one row.
      in_axes: one axis for all positional arguments, or one or None for each. Keyword arguments are mapped
        along axis 0.
      out_axes: must be 0.
      vmap_fn: `vmap_fn(fun, in_axes, out_axes)`, in place of `jax.vmap`.
      accumulator: CONCAT returns every row, like `jax.vmap`; SUM and the means reduce the rows.

    The others as in `microbatch`.
    """
    name = "micro_vmap"
    if not isinstance(out_axes, int) or isinstance(out_axes, bool) or out_axes != 0:
        raise ValueError(f"{name}: argument 'out_axes' must be 0; got {describe(out_axes)}")
    if not all(axis is None or _is_axis(axis) for axis in as_tuple(in_axes)):
        raise TypeError(
            f"{name}: argument 'in_axes' must be an int, or an int or None for each positional"
            f" argument; got {describe(in_axes)}"
        )
    check_arguments(name, microbatch_size, accumulator, num_real_microbatches)
    given = tuple(None if axis is None else int(axis) for axis in as_tuple(in_axes))

    def mapped(*args: Any, **kwargs: Any) -> Any:
        axes = given * len(args) if _is_axis(in_axes) else given
        if len(axes) != len(args):
            raise ValueError(
                f"{name}: a call must have {len(axes)} positional arguments, as many as 'in_axes' has"
                f" entries; got {len(args)}"
            )
        kept = [i for i, axis in enumerate(axes) if axis is not None]
        batch: Batch = [(f"argument {i}", args[i], axis) for i, axis in enumerate(axes) if axis is not None]
        batch += [(f"argument {key!r}", value, 0) for key, value in kwargs.items()]

        # Unmapped arguments are closed over, so that they need not be arrays.
        def one(*values: Any) -> Any:
            new_args = list(args)
            for i, value in zip(kept, values, strict=False):
                new_args[i] = value
            return fun(*new_args, **dict(zip(kwargs, values[len(kept) :], strict=True)))

        rows = vmap_fn(one, tuple(axis for _, _, axis in batch), 0)
        return accumulate(
            name,
            lambda pieces: rows(*pieces),
            batch,
            microbatch_size,
            accumulator,
            num_real_microbatches,
            by_rows=True,
        )

    return mapped


def _is_axis(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


@checked(
    fun=FUNCTION, has_aux=FLAG, argnums=AXES, batch_argnums=AXES, keep_batch_dim=FLAG,
    microbatch_size=SIZE | None, transform_fn=FUNCTION, metrics_fn=FUNCTION, num_real_microbatches=_PIECES,
)  # fmt: skip
def micro_grad(
    fun: Callable[..., Any],
    has_aux: bool = False,
    argnums: int | Sequence[int] = 0,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = True,
    microbatch_size: int | None = None,
    accumulator: Any = AccumulationType.SUM,
    transform_fn: Callable[[Any], Any] = lambda grads: grads,
    metrics_fn: Callable[[Any], Any] = lambda grads: None,
    num_real_microbatches: Any = None,
) -> Callable[..., tuple[Any, Aux]]:
    """Computes the gradient of each example, transforms and accumulates it: `(accumulated, Aux)`.

    Args:
      fun: the loss; with `has_aux` it returns `(value, aux)`.
      argnums: arguments to differentiate.
      batch_argnums: arguments with a batch axis, along axis 0, like every keyword argument.
      keep_batch_dim: True passes a row to `fun` as a batch of one.
      accumulator: of `transform_fn(grads)`.
      transform_fn: a function of the gradients of one example.
      metrics_fn: a function of these gradients, whose results are returned per example.

    `Aux(values, metrics, aux)` has one row per example. The others as in `microbatch`; None for
    `microbatch_size` takes all examples at once. With `transform_fn` clipping, this is the per-example
    clipping of Abadi et al. 2016, arXiv:1607.00133.
    """
    name = "micro_grad"
    numbers = as_tuple(batch_argnums)
    if not numbers:
        raise ValueError(f"{name}: argument 'batch_argnums' must have at least one position; got none")
    check_arguments(name, microbatch_size, accumulator, num_real_microbatches)
    derivative = jax.value_and_grad(fun, argnums, has_aux)

    def graded(*args: Any, **kwargs: Any) -> tuple[Any, Aux]:
        picked = pick_batched(name, numbers, (), args, kwargs) + list(kwargs.items())

        def one(*rows: Any) -> tuple[Any, Aux]:
            new_args, new_kwargs = list(args), {}
            for (key, _), row in zip(picked, rows, strict=True):
                value = jax.tree.map(lambda x: x[None], row) if keep_batch_dim else row
                if isinstance(key, str):
                    new_kwargs[key] = value
                else:
                    new_args[key] = value
            value, grads = derivative(*new_args, **new_kwargs)
            value, aux = value if has_aux else (value, None)
            return transform_fn(grads), Aux(value, metrics_fn(grads), aux)

        rows = jax.vmap(one)
        result: tuple[Any, Aux] = accumulate(
            name,
            lambda pieces: rows(*pieces),
            [(f"argument {key!r}", value, 0) for key, value in picked],
            microbatch_size,
            (accumulator, AccumulationType.CONCAT),
            num_real_microbatches,
            by_rows=True,
        )
        return result

    return graded
