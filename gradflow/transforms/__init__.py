"""Building blocks that many optimizers share."""

from gradflow._missing_names import with_hints as _with_hints
from gradflow.transforms._adagc import AdaGCState as AdaGCState
from gradflow.transforms._adagc import adagc as adagc
from gradflow.transforms._adaptive_clip import adaptive_grad_clip as adaptive_grad_clip
from gradflow.transforms._adaptive_clip import unitwise_clip as unitwise_clip
from gradflow.transforms._adaptive_clip import unitwise_norm as unitwise_norm
from gradflow.transforms._adaptive_normalize import adaptive_normalize as adaptive_normalize
from gradflow.transforms._backtracking_linesearch import (
    BacktrackingLinesearchInfo as BacktrackingLinesearchInfo,
)
from gradflow.transforms._backtracking_linesearch import (
    ScaleByBacktrackingLinesearchState as ScaleByBacktrackingLinesearchState,
)
from gradflow.transforms._backtracking_linesearch import (
    scale_by_backtracking_linesearch as scale_by_backtracking_linesearch,
)
from gradflow.transforms._block_scale import scale_by_param_block_norm as scale_by_param_block_norm
from gradflow.transforms._block_scale import scale_by_param_block_rms as scale_by_param_block_rms
from gradflow.transforms._centralize import centralize as centralize
from gradflow.transforms._clip import clip as clip
from gradflow.transforms._clip_norm import clip_by_block_rms as clip_by_block_rms
from gradflow.transforms._clip_norm import clip_by_global_norm as clip_by_global_norm
from gradflow.transforms._dampened_trace import DampenedTraceState as DampenedTraceState
from gradflow.transforms._dampened_trace import dampened_trace as dampened_trace
from gradflow.transforms._decay import add_decayed_weights as add_decayed_weights
from gradflow.transforms._differential_privacy import (
    DifferentiallyPrivateAggregateState as DifferentiallyPrivateAggregateState,
)
from gradflow.transforms._differential_privacy import (
    differentially_private_aggregate as differentially_private_aggregate,
)
from gradflow.transforms._ema import EmaState as EmaState
from gradflow.transforms._ema import ema as ema
from gradflow.transforms._empty_states import AdaptiveGradClipState as AdaptiveGradClipState
from gradflow.transforms._empty_states import AddDecayedWeightsState as AddDecayedWeightsState
from gradflow.transforms._empty_states import ClipByGlobalNormState as ClipByGlobalNormState
from gradflow.transforms._empty_states import ClipState as ClipState
from gradflow.transforms._empty_states import NonNegativeParamsState as NonNegativeParamsState
from gradflow.transforms._empty_states import NormalizeState as NormalizeState
from gradflow.transforms._empty_states import ScaleByTrustRatioState as ScaleByTrustRatioState
from gradflow.transforms._empty_states import ScaleState as ScaleState
from gradflow.transforms._grokfast import GrokfastState as GrokfastState
from gradflow.transforms._grokfast import grokfast as grokfast
from gradflow.transforms._hyperball import HyperballState as HyperballState
from gradflow.transforms._hyperball import step_on_hyperball as step_on_hyperball
from gradflow.transforms._mars_correction import MarsCorrectionState as MarsCorrectionState
from gradflow.transforms._mars_correction import mars_correction as mars_correction
from gradflow.transforms._monitor import MonitorState as MonitorState
from gradflow.transforms._monitor import SnapshotState as SnapshotState
from gradflow.transforms._monitor import measure_with_ema as measure_with_ema
from gradflow.transforms._monitor import monitor as monitor
from gradflow.transforms._monitor import snapshot as snapshot
from gradflow.transforms._nans import ZeroNansState as ZeroNansState
from gradflow.transforms._nans import zero_nans as zero_nans
from gradflow.transforms._noise import AddNoiseState as AddNoiseState
from gradflow.transforms._noise import add_noise as add_noise
from gradflow.transforms._nonnegative import keep_params_nonnegative as keep_params_nonnegative
from gradflow.transforms._normalize import normalize as normalize
from gradflow.transforms._normalize import normalize_by_update_norm as normalize_by_update_norm
from gradflow.transforms._per_example import per_example_global_norm_clip as per_example_global_norm_clip
from gradflow.transforms._per_example import per_example_layer_norm_clip as per_example_layer_norm_clip
from gradflow.transforms._radial_brake import step_with_radial_brake as step_with_radial_brake
from gradflow.transforms._reduce_on_plateau import ReduceLROnPlateauState as ReduceLROnPlateauState
from gradflow.transforms._reduce_on_plateau import reduce_on_plateau as reduce_on_plateau
from gradflow.transforms._row_floor import row_floor as row_floor
from gradflow.transforms._scale import ScaleByScheduleState as ScaleByScheduleState
from gradflow.transforms._scale import scale as scale
from gradflow.transforms._scale import scale_by_learning_rate as scale_by_learning_rate
from gradflow.transforms._scale import scale_by_schedule as scale_by_schedule
from gradflow.transforms._sign import scale_by_sign as scale_by_sign
from gradflow.transforms._step_relative import step_relative as step_relative
from gradflow.transforms._step_with_decay import step_with_decay as step_with_decay
from gradflow.transforms._trace import TraceState as TraceState
from gradflow.transforms._trace import trace as trace
from gradflow.transforms._trust_ratio import scale_by_trust_ratio as scale_by_trust_ratio
from gradflow.transforms._value_and_grad import value_and_grad_from_state as value_and_grad_from_state
from gradflow.transforms._zclip import ZClipState as ZClipState
from gradflow.transforms._zclip import zclip as zclip
from gradflow.transforms._zoom_linesearch import ScaleByZoomLinesearchState as ScaleByZoomLinesearchState
from gradflow.transforms._zoom_linesearch import ZoomLinesearchInfo as ZoomLinesearchInfo
from gradflow.transforms._zoom_linesearch import scale_by_zoom_linesearch as scale_by_zoom_linesearch

__all__ = [
    "AdaGCState",
    "AdaptiveGradClipState",
    "AddDecayedWeightsState",
    "AddNoiseState",
    "BacktrackingLinesearchInfo",
    "ClipByGlobalNormState",
    "ClipState",
    "DampenedTraceState",
    "DifferentiallyPrivateAggregateState",
    "EmaState",
    "GrokfastState",
    "HyperballState",
    "MarsCorrectionState",
    "MonitorState",
    "NonNegativeParamsState",
    "NormalizeState",
    "ReduceLROnPlateauState",
    "ScaleByBacktrackingLinesearchState",
    "ScaleByScheduleState",
    "ScaleByTrustRatioState",
    "ScaleByZoomLinesearchState",
    "ScaleState",
    "SnapshotState",
    "TraceState",
    "ZClipState",
    "ZeroNansState",
    "ZoomLinesearchInfo",
    "adagc",
    "adaptive_grad_clip",
    "adaptive_normalize",
    "add_decayed_weights",
    "add_noise",
    "centralize",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "dampened_trace",
    "differentially_private_aggregate",
    "ema",
    "grokfast",
    "keep_params_nonnegative",
    "mars_correction",
    "measure_with_ema",
    "monitor",
    "normalize",
    "normalize_by_update_norm",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "reduce_on_plateau",
    "row_floor",
    "scale",
    "scale_by_backtracking_linesearch",
    "scale_by_learning_rate",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "scale_by_schedule",
    "scale_by_sign",
    "scale_by_trust_ratio",
    "scale_by_zoom_linesearch",
    "snapshot",
    "step_on_hyperball",
    "step_relative",
    "step_with_decay",
    "step_with_radial_brake",
    "trace",
    "unitwise_clip",
    "unitwise_norm",
    "value_and_grad_from_state",
    "zclip",
    "zero_nans",
]

_with_hints(__name__)
