"""Gradient accumulation: several micro-batches make one step."""

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._checked import NUMBERS, TYPED, Number, checked
from gradflow._core._decorators import transformation
from gradflow._core._pytrees import register_transformation
from gradflow._core._transformation import GradientTransformation, GradientTransformationExtraArgs, stage_of
from gradflow._expressions._arguments import Size, SizeOrFunction
from gradflow._kernel_hints._order import gpu_barrier, tpu_barrier
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._roles import Sum
from gradflow._rules._state import first_moment, increment, zero_scalar
from gradflow._tracebacks import one_frame
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._conditional import update_if
from gradflow.wrappers._guard import all_finite


class ShouldSkipUpdateFunction(Protocol):
    """`f(updates, gradient_step, params) -> (skip, state)`: whether to skip a micro-batch, and why."""

    def __call__(self, updates: Updates, gradient_step: Any, params: Params | None) -> tuple[Any, Any]: ...


class MultiStepsState(NamedTuple):
    """Micro-batches since the last step, steps taken, inner state, accumulator, and the skip's record."""

    mini_step: jax.Array
    gradient_step: jax.Array
    inner_opt_state: OptState
    acc_grads: Sum
    skip_state: Any = ()


class MultiStepsTransformation(GradientTransformationExtraArgs):
    """A transformation that takes a step on some calls only; `has_updated` returns on which."""

    __slots__ = ()

    def has_updated(self, state: MultiStepsState) -> jax.Array:
        """Whether the call that returned `state` took a step."""
        return (state.mini_step == 0) & (state.gradient_step > 0)

    def gradient_transformation(self) -> GradientTransformation:
        """Returns itself, since it goes into a chain unchanged."""
        return self

    @property
    def inner_opt(self) -> GradientTransformation:
        """The transformation that takes the steps."""
        assert self.expression is not None
        return cast(GradientTransformation, self.expression.arguments["opt"])


register_transformation(MultiStepsTransformation)


def accumulate_scalars(mini_step: jax.Array, weight: jax.Array) -> Scalars:
    """The factor of the old sum: 0 on the first micro-batch of a round, when that sum is stale."""
    return {"keep": (mini_step > 0).astype(weight.dtype)}


def accumulate_rule(g: jax.Array, acc: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """acc = keep * acc + weight * g."""
    acc = s.keep * acc + s.weight * g
    return acc, acc


def _multi_steps(
    opt: GradientTransformation,
    every_k_schedule: SizeOrFunction,
    use_grad_mean: bool = True,
    should_skip_update_fn: ShouldSkipUpdateFunction | None = None,
    accumulator_dtype: Any = jnp.float32,
    *,
    keep_branch: bool = False,
) -> Pair:
    """Takes one step of `opt` for k gradients: on their mean, or sum. The other calls return zero updates.

        acc = acc * (mini_step > 0) + g / k

    Args:
      opt: the transformation that takes the steps; extra arguments are passed to it.
      every_k_schedule: k >= 1, or a function from the number of steps taken to it.
      use_grad_mean: False sums, without `/ k`.
      should_skip_update_fn: `f(updates, gradient_step, params) -> (skip, state)`; a skipped gradient is not
        counted, and its state is kept as `skip_state`.
      accumulator_dtype: dtype of the sum, float32 by default; None for the gradients' own.
      keep_branch: on a GPU or TPU `opt` runs in every call, and calls that take no step keep none of it: this
        needs no memory. True calls `opt` for a step only, which saves its time where it is an expensive one,
        as Muon is, and holds the updates, about the size of the parameters. On a CPU it changes nothing.

    Raises ValueError for k < 1, TypeError for one that is neither a whole number nor a function.

    >>> import gradflow as gf
    >>> print(gf.MultiSteps(gf.adamw(1e-3), 4))
    MultiSteps(adamw(0.001), 4)
    """

    stage = stage_of(opt)
    reads_sum_once = stage is not None and stage.joins_first
    sums_first = stage is not None and stage.joins_first and not stage.joins_later

    def init(params: Params) -> OptState:
        skip_state = ()
        if should_skip_update_fn is not None:
            _, skip_state = should_skip_update_fn(tree.zeros_like(params), zero_scalar(params), params)
        return MultiStepsState(
            mini_step=zero_scalar(params),
            gradient_step=zero_scalar(params),
            inner_opt_state=opt.init(params),
            acc_grads=first_moment(params, accumulator_dtype),
            skip_state=skip_state,
        )

    def update(
        updates: Updates, state: MultiStepsState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MultiStepsState]:
        k = every_k_schedule(state.gradient_step) if callable(every_k_schedule) else every_k_schedule
        k = jnp.asarray(k, jnp.int32)
        skip, skip_state = jnp.asarray(False), state.skip_state
        if should_skip_update_fn is not None:
            skip, skip_state = should_skip_update_fn(updates, state.gradient_step, params)
            updates = jax.tree.map(lambda g: jnp.where(skip, jnp.zeros((), g.dtype), g), updates)
        weight = 1 / k.astype(jnp.float32) if use_grad_mean else jnp.ones((), jnp.float32)
        # The rule's first result has the gradient's dtype, which `opt` expects; the sum keeps its own.
        mean, acc = leafwise(
            accumulate_rule, (updates, state.acc_grads), accumulate_scalars,
            mini_step=state.mini_step, weight=weight,
        )  # fmt: skip
        if reads_sum_once:
            # Else a TPU updates every moment of many leaves in two kernels, which both read the sum.
            mean, acc = tpu_barrier((mean, acc))
        if sums_first:
            # Else a GPU makes the sum again in the kernels that read it, and copies the old one first: a
            # guarded adamw held 0.75 models of scratch memory, not 0.
            mean, acc = gpu_barrier((mean, acc))
        step_now = ~skip & (state.mini_step + 1 >= k)
        out, inner_state = update_if(
            step_now, opt, mean, state.inner_opt_state, params, extra, updates, keep_branch=keep_branch
        )
        taken = jnp.where(skip, state.mini_step, increment(state.mini_step))
        mini_step = jnp.where(step_now, 0, taken)
        report("mini_step", mini_step)
        report("updated", step_now)
        gradient_step = jnp.where(step_now, increment(state.gradient_step), state.gradient_step)
        return out, MultiStepsState(mini_step, gradient_step, inner_state, acc, skip_state)

    return MultiStepsTransformation(init, update)


_multi_steps.__name__ = _multi_steps.__qualname__ = "MultiSteps"
_factory = transformation(reports=("mini_step", "updated"), elementwise=True)(_multi_steps)


class _MultiStepsClass(type):
    @one_frame
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is MultiSteps:
            return _factory(*args, **kwargs)
        return type.__call__(cls, *args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        is_value = cls is MultiSteps and isinstance(instance, MultiStepsTransformation)
        return is_value or type.__instancecheck__(cls, instance)


def _never_skip(updates: Updates, gradient_step: Any, params: Params | None) -> tuple[Any, Any]:
    return jnp.asarray(False), ()


def _running_mean(grad: jax.Array, acc: jax.Array, *, n_acc: Any) -> jax.Array:
    return acc + (grad - acc) / (n_acc + 1)


def _running_sum(grad: jax.Array, acc: jax.Array, *, n_acc: Any) -> jax.Array:
    return grad + acc


if TYPE_CHECKING:
    # mypy does not read the metaclass's `__call__`.
    class MultiSteps(MultiStepsTransformation):
        __gradflow__: Any

        def __new__(
            cls,
            opt: GradientTransformation,
            every_k_schedule: SizeOrFunction,
            use_grad_mean: bool = True,
            should_skip_update_fn: ShouldSkipUpdateFunction | None = None,
            accumulator_dtype: Any = jnp.float32,
            *,
            keep_branch: bool = False,
        ) -> "MultiSteps": ...

else:

    class MultiSteps(metaclass=_MultiStepsClass):
        # A class in the field, so that `isinstance(tx, MultiSteps)` works. A call is a call of the factory.
        # A subclass, which programs write to override methods, has instances: objects with the methods below,
        # and the attributes that the methods of such classes read.
        __doc__ = _factory.__doc__
        __gradflow__: Any = _factory.__gradflow__  # type: ignore[attr-defined]
        __module__ = _factory.__module__
        __wrapped__ = _factory
        __signature__ = inspect.signature(_factory)  # Python 3.13 would show the metaclass's

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            whole = self._whole = _factory(*args, **kwargs)
            arguments = whole.expression.arguments
            k, skip = arguments["every_k_schedule"], arguments["should_skip_update_fn"]
            self._opt = arguments["opt"]
            self._every_k_schedule = k if callable(k) else lambda step: k
            self._use_grad_mean = arguments["use_grad_mean"]
            self._accumulator_dtype = arguments["accumulator_dtype"]
            self._should_skip_update_fn = _never_skip if skip is None else skip
            self._acc_update = _running_mean if self._use_grad_mean else _running_sum

        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            cls.__gradflow__ = None  # not the factory: a call makes an instance
            if cls.__init__ is not MultiSteps.__init__:
                _, *others = inspect.signature(cls.__init__).parameters.values()
                cls.__signature__ = inspect.Signature(others)

        @property
        def inner_opt(self) -> GradientTransformation:
            return self._opt

        def init(self, params: Params) -> Any:
            return self._whole.init(params)

        def update(self, updates: Updates, state: Any, params: Params | None = None, **extra: Any) -> Any:
            return self._whole.update(updates, state, params, **extra)

        def has_updated(self, state: Any) -> jax.Array:
            return self._whole.has_updated(state)

        def gradient_transformation(self) -> GradientTransformation:
            return GradientTransformationExtraArgs(self.init, self.update)


MultiSteps.__gradflow__.function = MultiSteps  # pickles find it by its public name


class ApplyEvery(NamedTuple):
    """Steps taken, and the sum of updates since the last one that was returned."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    grad_acc: Sum


def apply_every_rule(g: jax.Array, acc: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """acc = keep * acc + g, returned on the last of k calls."""
    acc = s.keep * acc + g
    return s.out * acc, acc


def apply_every_scalars(count: jax.Array, k: jax.Array) -> Scalars:
    """Factors that are 0 on the first call of a round of k (`keep`), and 1 on the last (`out`)."""
    rounds = k.astype(jnp.int32)
    return {
        "keep": (count % rounds != 0).astype(k.dtype),
        "out": (count % rounds == rounds - 1).astype(k.dtype),
    }


@transformation(packable=True)
def apply_every(k: Size = 1) -> Pair:
    """Sums updates and returns the sum of k of them on every k-th step, zeros on the others.

    Placed after a rule with moments, those are updated with every gradient. `MultiSteps` passes only the sum
    to the rule.

    Args:
      k: steps in a round, >= 1.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.sgd(0.1), gf.apply_every(4)))
    chain(sgd(0.1), apply_every(k=4))
    """

    def init(params: Params) -> OptState:
        return ApplyEvery(zero_scalar(params), tree.zeros_like(params))

    def update(
        updates: Updates, state: ApplyEvery, params: Params | None = None
    ) -> tuple[Updates, ApplyEvery]:
        u, acc = leafwise(
            apply_every_rule, (updates, state.grad_acc), apply_every_scalars, count=state.count, k=k
        )
        return u, ApplyEvery(increment(state.count), acc)

    return init, update


@checked(updates=TYPED)
def skip_not_finite(
    updates: Updates, gradient_step: Any, params: Params | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """For `MultiSteps`: skips gradients with a NaN or an infinity.

    Its record has `should_skip` and `num_not_finite`, the number of such entries.

    >>> import gradflow as gf
    >>> print(gf.MultiSteps(gf.sgd(0.1), 4, should_skip_update_fn=gf.skip_not_finite))
    MultiSteps(sgd(0.1), 4, should_skip_update_fn=skip_not_finite)
    """
    skip = ~all_finite(updates)
    bad = tree.sum([~jnp.isfinite(g) for g in jax.tree.leaves(updates)])
    return skip, {"should_skip": skip, "num_not_finite": bad.astype(jnp.int32)}


@checked(updates=NUMBERS, max_squared_norm=Number(0))
def skip_large_updates(
    updates: Updates, gradient_step: Any, params: Params | None, max_squared_norm: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """For `MultiSteps`, through `functools.partial`: skips gradients of a large or non-finite norm.

    Its record has `should_skip` and `norm_squared`.

    >>> import gradflow as gf
    >>> import functools
    >>> skip = functools.partial(gf.skip_large_updates, max_squared_norm=100.0)
    >>> tx = gf.MultiSteps(gf.sgd(0.1), 4, should_skip_update_fn=skip)
    """
    norm_squared = tree.norm(updates, squared=True)
    fits = norm_squared < jnp.asarray(max_squared_norm, norm_squared.dtype)
    return ~fits, {"should_skip": ~fits, "norm_squared": norm_squared}
