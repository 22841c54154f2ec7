"""Building blocks of no one algorithm."""

from gradflow.transforms._decay import add_decayed_weights as add_decayed_weights
from gradflow.transforms._scale import ScaleByScheduleState as ScaleByScheduleState
from gradflow.transforms._scale import scale as scale
from gradflow.transforms._scale import scale_by_learning_rate as scale_by_learning_rate
from gradflow.transforms._scale import scale_by_schedule as scale_by_schedule
