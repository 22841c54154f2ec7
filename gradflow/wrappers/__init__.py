"""Wrappers: each takes a transformation and returns another one."""

from gradflow._coding._leaves import PackedMean as PackedMean
from gradflow._coding._leaves import QuantizedMean as QuantizedMean
from gradflow._coding._leaves import QuantizedSquare as QuantizedSquare
from gradflow._coding._leaves import RoundedLeaf as RoundedLeaf
from gradflow._missing_names import with_hints as _with_hints
from gradflow._types import MaskedNode as MaskedNode
from gradflow.wrappers._accumulate import ApplyEvery as ApplyEvery
from gradflow.wrappers._accumulate import MultiSteps as MultiSteps
from gradflow.wrappers._accumulate import MultiStepsState as MultiStepsState
from gradflow.wrappers._accumulate import MultiStepsTransformation as MultiStepsTransformation
from gradflow.wrappers._accumulate import ShouldSkipUpdateFunction as ShouldSkipUpdateFunction
from gradflow.wrappers._accumulate import apply_every as apply_every
from gradflow.wrappers._accumulate import skip_large_updates as skip_large_updates
from gradflow.wrappers._accumulate import skip_not_finite as skip_not_finite
from gradflow.wrappers._cast_state import cast_state as cast_state
from gradflow.wrappers._cautious import cautious as cautious
from gradflow.wrappers._coded_state import CodedState as CodedState
from gradflow.wrappers._conditionally import ConditionallyMaskState as ConditionallyMaskState
from gradflow.wrappers._conditionally import ConditionallyTransformState as ConditionallyTransformState
from gradflow.wrappers._conditionally import ConditionFn as ConditionFn
from gradflow.wrappers._conditionally import conditionally_mask as conditionally_mask
from gradflow.wrappers._conditionally import conditionally_transform as conditionally_transform
from gradflow.wrappers._convert_state import convert_state as convert_state
from gradflow.wrappers._ema_nesterov import EmaNesterovState as EmaNesterovState
from gradflow.wrappers._ema_nesterov import ema_nesterov as ema_nesterov
from gradflow.wrappers._eval_params import eval_params as eval_params
from gradflow.wrappers._flatten import flatten as flatten
from gradflow.wrappers._gsam import GSAMState as GSAMState
from gradflow.wrappers._gsam import gsam as gsam
from gradflow.wrappers._guard import ApplyIfFiniteState as ApplyIfFiniteState
from gradflow.wrappers._guard import apply_if_finite as apply_if_finite
from gradflow.wrappers._inject import InjectStatefulHyperparamsState as InjectStatefulHyperparamsState
from gradflow.wrappers._inject import inject_hyperparams as inject_hyperparams
from gradflow.wrappers._inject import injected as injected
from gradflow.wrappers._lazy_rows import LazyRowsState as LazyRowsState
from gradflow.wrappers._lazy_rows import lazy_rows as lazy_rows
from gradflow.wrappers._lookahead import LookaheadParams as LookaheadParams
from gradflow.wrappers._lookahead import LookaheadState as LookaheadState
from gradflow.wrappers._lookahead import lookahead as lookahead
from gradflow.wrappers._looksam import LookSAMState as LookSAMState
from gradflow.wrappers._looksam import looksam as looksam
from gradflow.wrappers._loss_scale import LossScaleState as LossScaleState
from gradflow.wrappers._loss_scale import loss_scale as loss_scale
from gradflow.wrappers._loss_scale import with_loss_scale as with_loss_scale
from gradflow.wrappers._masked import MaskedState as MaskedState
from gradflow.wrappers._masked import masked as masked
from gradflow.wrappers._master_params import MasterParamsState as MasterParamsState
from gradflow.wrappers._master_params import master_params as master_params
from gradflow.wrappers._mechanize import MechanicState as MechanicState
from gradflow.wrappers._mechanize import mechanize as mechanize
from gradflow.wrappers._metrics import Metrics as Metrics
from gradflow.wrappers._metrics import MetricsState as MetricsState
from gradflow.wrappers._metrics import metrics as metrics
from gradflow.wrappers._metrics import with_metrics as with_metrics
from gradflow.wrappers._msam import MSAMState as MSAMState
from gradflow.wrappers._msam import msam as msam
from gradflow.wrappers._mup import mup_factors as mup_factors
from gradflow.wrappers._offload_state import offload_state as offload_state
from gradflow.wrappers._outer import OuterState as OuterState
from gradflow.wrappers._outer import outer as outer
from gradflow.wrappers._param_average import LawaState as LawaState
from gradflow.wrappers._param_average import ParamEmaState as ParamEmaState
from gradflow.wrappers._param_average import SwaState as SwaState
from gradflow.wrappers._param_average import with_lawa as with_lawa
from gradflow.wrappers._param_average import with_param_ema as with_param_ema
from gradflow.wrappers._param_average import with_swa as with_swa
from gradflow.wrappers._partition import MultiTransformState as MultiTransformState
from gradflow.wrappers._partition import PartitionState as PartitionState
from gradflow.wrappers._partition import freeze as freeze
from gradflow.wrappers._partition import multi_transform as multi_transform
from gradflow.wrappers._partition import partition as partition
from gradflow.wrappers._partition import scale_by_path as scale_by_path
from gradflow.wrappers._partition import selective_transform as selective_transform
from gradflow.wrappers._proximal import projected as projected
from gradflow.wrappers._proximal import proximal as proximal
from gradflow.wrappers._qk_clip import QKClipState as QKClipState
from gradflow.wrappers._qk_clip import with_qk_clip as with_qk_clip
from gradflow.wrappers._quantize_state import quantize_state as quantize_state
from gradflow.wrappers._remove_radial import RemoveRadialState as RemoveRadialState
from gradflow.wrappers._remove_radial import remove_radial as remove_radial
from gradflow.wrappers._sam import SAMState as SAMState
from gradflow.wrappers._sam import sam as sam
from gradflow.wrappers._schedule_free import ScheduleFreeState as ScheduleFreeState
from gradflow.wrappers._schedule_free import schedule_free as schedule_free
from gradflow.wrappers._schedule_free import schedule_free_eval_params as schedule_free_eval_params
from gradflow.wrappers._shard_state import shard_state as shard_state
from gradflow.wrappers._skip_spikes import SkipSpikesState as SkipSpikesState
from gradflow.wrappers._skip_spikes import SpikeWindow as SpikeWindow
from gradflow.wrappers._skip_spikes import skip_spikes as skip_spikes
from gradflow.wrappers._split_complex import SplitRealAndImaginaryState as SplitRealAndImaginaryState
from gradflow.wrappers._split_complex import split_real_and_imaginary as split_real_and_imaginary
from gradflow.wrappers._spread import spread as spread
from gradflow.wrappers._stacked import StackedState as StackedState
from gradflow.wrappers._stacked import stacked as stacked
from gradflow.wrappers._tail_average import TailAverageState as TailAverageState
from gradflow.wrappers._tail_average import with_tail_average as with_tail_average
from gradflow.wrappers._tunable import TunableState as TunableState
from gradflow.wrappers._tunable import hyperparams as hyperparams
from gradflow.wrappers._tunable import set_hyperparams as set_hyperparams
from gradflow.wrappers._tunable import tunable as tunable

__all__ = [
    "ApplyEvery",
    "ApplyIfFiniteState",
    "CodedState",
    "ConditionFn",
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "EmaNesterovState",
    "GSAMState",
    "InjectStatefulHyperparamsState",
    "LawaState",
    "LazyRowsState",
    "LookSAMState",
    "LookaheadParams",
    "LookaheadState",
    "LossScaleState",
    "MSAMState",
    "MaskedNode",
    "MaskedState",
    "MasterParamsState",
    "MechanicState",
    "Metrics",
    "MetricsState",
    "MultiSteps",
    "MultiStepsState",
    "MultiStepsTransformation",
    "MultiTransformState",
    "OuterState",
    "PackedMean",
    "ParamEmaState",
    "PartitionState",
    "QKClipState",
    "QuantizedMean",
    "QuantizedSquare",
    "RemoveRadialState",
    "RoundedLeaf",
    "SAMState",
    "ScheduleFreeState",
    "ShouldSkipUpdateFunction",
    "SkipSpikesState",
    "SpikeWindow",
    "SplitRealAndImaginaryState",
    "StackedState",
    "SwaState",
    "TailAverageState",
    "TunableState",
    "apply_every",
    "apply_if_finite",
    "cast_state",
    "cautious",
    "conditionally_mask",
    "conditionally_transform",
    "convert_state",
    "ema_nesterov",
    "eval_params",
    "flatten",
    "freeze",
    "gsam",
    "hyperparams",
    "inject_hyperparams",
    "injected",
    "lazy_rows",
    "lookahead",
    "looksam",
    "loss_scale",
    "masked",
    "master_params",
    "mechanize",
    "metrics",
    "msam",
    "multi_transform",
    "mup_factors",
    "offload_state",
    "outer",
    "partition",
    "projected",
    "proximal",
    "quantize_state",
    "remove_radial",
    "sam",
    "scale_by_path",
    "schedule_free",
    "schedule_free_eval_params",
    "selective_transform",
    "set_hyperparams",
    "shard_state",
    "skip_large_updates",
    "skip_not_finite",
    "skip_spikes",
    "split_real_and_imaginary",
    "spread",
    "stacked",
    "tunable",
    "with_lawa",
    "with_loss_scale",
    "with_metrics",
    "with_param_ema",
    "with_qk_clip",
    "with_swa",
    "with_tail_average",
]

_with_hints(__name__)
