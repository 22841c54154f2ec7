"""Aggregation of per-example gradients into one update."""

from gradflow.aggregating._aggregator import AggregatedUpdates as AggregatedUpdates
from gradflow.aggregating._aggregator import Aggregator as Aggregator
from gradflow.aggregating._aggregator import AggregatorUpdateFn as AggregatorUpdateFn
from gradflow.aggregating._aggregator import MaybeAxis as MaybeAxis
from gradflow.aggregating._aggregator import PerElementUpdates as PerElementUpdates
from gradflow.aggregating._average import AccumulateAvgUpdatesState as AccumulateAvgUpdatesState
from gradflow.aggregating._average import accumulate_avg_updates as accumulate_avg_updates
from gradflow.aggregating._average import average_incrementally_updates as average_incrementally_updates
from gradflow.aggregating._average import average_per_element_updates as average_per_element_updates
from gradflow.aggregating._examples import (
    get_batch_size_from_per_elt_updates as get_batch_size_from_per_elt_updates,
)
from gradflow.aggregating._process import process as process
from gradflow.aggregating._variance import (
    PerElementMeanAndSumSqDiffGradsState as PerElementMeanAndSumSqDiffGradsState,
)
from gradflow.aggregating._variance import (
    PerElementMeanAndVarianceEMAState as PerElementMeanAndVarianceEMAState,
)
from gradflow.aggregating._variance import add_mean_variance_to_opt as add_mean_variance_to_opt
from gradflow.aggregating._variance import (
    get_per_element_mean_and_sum_sq_diff_grads as get_per_element_mean_and_sum_sq_diff_grads,
)
from gradflow.aggregating._variance import (
    get_unbiased_mean_and_variance_ema as get_unbiased_mean_and_variance_ema,
)
from gradflow.aggregating._variance import (
    track_per_element_mean_and_variance_with_ema as track_per_element_mean_and_variance_with_ema,
)

__all__ = [
    "AccumulateAvgUpdatesState",
    "AggregatedUpdates",
    "Aggregator",
    "AggregatorUpdateFn",
    "MaybeAxis",
    "PerElementMeanAndSumSqDiffGradsState",
    "PerElementMeanAndVarianceEMAState",
    "PerElementUpdates",
    "accumulate_avg_updates",
    "add_mean_variance_to_opt",
    "average_incrementally_updates",
    "average_per_element_updates",
    "get_batch_size_from_per_elt_updates",
    "get_per_element_mean_and_sum_sq_diff_grads",
    "get_unbiased_mean_and_variance_ema",
    "process",
    "track_per_element_mean_and_variance_with_ema",
]
