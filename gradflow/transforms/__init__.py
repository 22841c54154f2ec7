"""Building blocks of no one algorithm."""

from gradflow.transforms._clip_norm import clip_by_block_rms as clip_by_block_rms
from gradflow.transforms._clip_norm import clip_by_global_norm as clip_by_global_norm
from gradflow.transforms._dampened_trace import DampenedTraceState as DampenedTraceState
from gradflow.transforms._dampened_trace import dampened_trace as dampened_trace
from gradflow.transforms._decay import add_decayed_weights as add_decayed_weights
from gradflow.transforms._ema import EmaState as EmaState
from gradflow.transforms._ema import ema as ema
from gradflow.transforms._noise import AddNoiseState as AddNoiseState
from gradflow.transforms._noise import add_noise as add_noise
from gradflow.transforms._scale import ScaleByScheduleState as ScaleByScheduleState
from gradflow.transforms._scale import scale as scale
from gradflow.transforms._scale import scale_by_learning_rate as scale_by_learning_rate
from gradflow.transforms._scale import scale_by_schedule as scale_by_schedule
from gradflow.transforms._sign import scale_by_sign as scale_by_sign
from gradflow.transforms._trace import TraceState as TraceState
from gradflow.transforms._trace import trace as trace
