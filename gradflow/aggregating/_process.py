"""Per-example gradients through three stages."""

from typing import Any, cast

from gradflow import tree
from gradflow._calls._checks import check_like, match_params, refuse_state
from gradflow._calls._context import stage_name
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation, stage_of
from gradflow._errors import describe
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.aggregating._aggregator import Aggregator
from gradflow.wrappers._conditional import update_if


@transformation(packable=True)
def process(
    preprocessor: GradientTransformation,
    aggregator: GradientTransformation,
    postprocessor: GradientTransformation,
    aggregator_has_aux: bool = False,
) -> Pair | Aggregator:
    """Transforms per-example gradients, aggregates them, and transforms the result.

        process(stateless(clip_each), average_per_element_updates(), adam(1e-3))

    The state is the tuple of the three states.

    Args:
      preprocessor: transforms the per-example gradients, with their axes.
      aggregator: an `Aggregator`, whose updates do not have these axes, or any transformation. While a field
        `ready` of its state is False, as in `accumulate_avg_updates`, updates are zero.
      postprocessor: usually an optimizer. Extra arguments are passed to all three.
      aggregator_has_aux: True if the aggregator's updates are a pair `(updates, aux)`. The dict `aux` is
        passed to the postprocessor as extra arguments.

    >>> import gradflow as gf
    >>> each, mean = gf.clip(1.0), gf.aggregating.average_per_element_updates()
    >>> print(gf.aggregating.process(each, mean, gf.adam(1e-3)))
    process(clip(1.0), average_per_element_updates(), adam(0.001))
    """

    def init(params: Params) -> OptState:
        return preprocessor.init(params), aggregator.init(params), postprocessor.init(params)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        if not isinstance(state, tuple) or hasattr(state, "_fields") or len(state) != 3:
            refuse_state("a tuple of 3 states", state)
        if params is not None:
            check_like("updates", updates, "params", params, shapes=False)
            updates = match_params(updates, params)
        before, within, after = state
        updates, before = preprocessor.update(updates, before, params, **extra)
        updates, within = aggregator.update(updates, within, params, **extra)
        if aggregator_has_aux:
            if not (isinstance(updates, tuple) and len(updates) == 2 and isinstance(updates[1], dict)):
                raise TypeError(
                    f"{stage_name()}: with 'aggregator_has_aux' the aggregator's updates must be a pair "
                    f"(updates, dict); got {describe(updates)}"
                )
            updates, aux = updates
            extra = {**extra, **aux}
        if params is not None:
            check_like("aggregated updates", updates, "params", params)
        ready = tree.get(within, "ready")
        if ready is None:
            updates, after = postprocessor.update(updates, after, params, **extra)
        else:
            updates, after = update_if(ready, postprocessor, updates, after, params, extra)
        return updates, (before, within, after)

    # The aggregator determines whether there are axes of examples.
    if cast(Any, stage_of(aggregator)).trees == "alike":
        return init, update
    return Aggregator(init, update)
