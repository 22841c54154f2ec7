"""A learning rate and a weight decay that depend on each other, or on the step taken."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Index, NonNegative, Positive, Rate
from gradflow._rules._leafwise import Scalars, leafwise, specialize
from gradflow._rules._state import increment, zero_scalar
from gradflow._selection._masks import resolve_mask
from gradflow._selection._partial_trees import change_where
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.transforms._scale import ScaleByScheduleState, scale_rule


def decoupled(learning_rate: jax.Array, weight_decay: jax.Array, peak_rate: jax.Array) -> Scalars:
    """AdamW: the decay is proportional to the rate."""
    return {"shrink": learning_rate * weight_decay}


def independent(learning_rate: jax.Array, weight_decay: jax.Array, peak_rate: jax.Array) -> Scalars:
    """The decay follows the schedule's shape, and not its height."""
    return {"shrink": learning_rate / peak_rate * weight_decay}


def corrected(learning_rate: jax.Array, weight_decay: jax.Array, peak_rate: jax.Array) -> Scalars:
    """AdamC: the decay is proportional to the square of the rate."""
    return {"shrink": learning_rate * (learning_rate / peak_rate) * weight_decay}


_SCALARS = {"decoupled": decoupled, "independent": independent, "corrected": corrected}


def step_with_decay_rule(g: jax.Array, p: jax.Array, s: Any, *, cautious: bool, stepped: bool) -> jax.Array:
    """The step, less a share of the weights before or after it."""
    step = -s.learning_rate * g
    decayed = s.shrink * (p + step if stepped else p)
    if cautious:
        decayed = jnp.where((g * p.conj()).real >= 0, decayed, 0)
    return step - decayed


@transformation(reports=("learning_rate",), packable=True, last=True)
def step_with_decay(
    learning_rate: Rate,
    weight_decay: NonNegative,
    mask: MaskOrFn | None = None,
    *,
    kind: Literal["decoupled", "independent", "corrected"] = "decoupled",
    peak_rate: Positive | None = None,
    cautious: bool = False,
    stepped: bool = False,
    first_step: Index = 0,
) -> Pair:
    """Applies the learning rate and a weight decay for which `add_decayed_weights` has no place.

        shrink = learning_rate * weight_decay                                  "decoupled", as in AdamW
                 learning_rate / peak_rate * weight_decay                      "independent"
                 learning_rate^2 / peak_rate * weight_decay                    "corrected", as in AdamC
        u = -learning_rate * g - shrink * p
        u = -learning_rate * g - shrink * (g * p >= 0) * p                     cautious
        u = -learning_rate * g - shrink * (p - learning_rate * g)              stepped

    Takes the place of `scale_by_learning_rate`, after the stages that scale the gradient.

    Args:
      learning_rate: >= 0.
      weight_decay: >= 0.
      mask: tree of booleans, or a function from the parameters to one: where to decay.
      kind: how the decay follows the rate. AdamC corrects layers before a normalization, others not.
      peak_rate: the largest learning rate, > 0; for "independent" and "corrected".
      cautious: decays only where the step does not lengthen the weight.
      stepped: decays the weights after the step, as SOAP's authors do.
      first_step: the step, from 0, with which the decay begins.

    Needs `params`. Source: Loshchilov & Hutter 2017, arXiv:1711.05101; Defazio 2025, arXiv:2506.02285 for
    "corrected"; Chen et al. 2025, arXiv:2510.12402 for `cautious`.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_adam(), gf.step_with_decay(0.001, 0.1, cautious=True)))
    chain(scale_by_adam(), step_with_decay(0.001, 0.1, cautious=True))
    """
    if kind not in _SCALARS:
        raise ValueError(
            f"step_with_decay: argument 'kind' must be one of {sorted(_SCALARS)}; got {describe(kind)}"
        )
    if (peak_rate is None) != (kind == "decoupled"):
        raise ValueError(
            "step_with_decay: argument 'peak_rate', the largest learning rate, must be given for "
            f"kind='independent' and kind='corrected', and for these alone; got kind={kind!r}"
        )
    rule = specialize(step_with_decay_rule, cautious=cautious, stepped=stepped)

    def init(params: Params) -> OptState:
        if mask is not None:
            resolve_mask(mask, params)  # so that a wrong mask is an error here and not at the first step
        return ScaleByScheduleState(zero_scalar(params))

    def update(
        updates: Updates, state: ScaleByScheduleState, params: Params
    ) -> tuple[Updates, ScaleByScheduleState]:
        decay: Any = weight_decay
        rate: Any = learning_rate
        if first_step:
            decay = jnp.where(state.count >= first_step, decay, 0.0)

        def step(updates: Updates) -> Updates:
            return leafwise(
                rule, (updates, params), _SCALARS[kind], learning_rate=rate, weight_decay=decay,
                peak_rate=1.0 if peak_rate is None else peak_rate,
            )[0]  # fmt: skip

        report("learning_rate", learning_rate)
        if mask is None:
            u = step(updates)
        else:
            (plain,) = leafwise(scale_rule, (updates,), factor=-rate)
            u = change_where(resolve_mask(mask, params), step, updates, plain)
        return u, ScaleByScheduleState(increment(state.count))

    return init, update
