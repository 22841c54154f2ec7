"""Schedules: functions from a count to a value, which are values themselves.

`count` is the number of updates made before this one, so N steps have the counts 0 to N - 1. It may be a
number or an array of any shape, traced or not; negative counts are treated as 0. The value is an array of
its shape in float32 (float64 where jax has 64 bits enabled). Lengths are whole numbers, also written as
whole floats or scalar arrays:

- steps: a number of updates.
- `transition_steps`: length of a change: value(transition_begin + transition_steps) is the first at the end
  value. In an exponential, the steps per factor `decay_rate`; in a one-cycle, the whole cycle.
- `transition_begin`: steps before the change, at the initial value; negative ones count as 0.
- `warmup_steps`: steps below the peak: value(warmup_steps) is the first at the peak.
- `decay_steps`: steps until the end value, counted from 0: a warm-up before the decay is included.
- boundary: the first step of the next piece.
- 0 `transition_steps` of a line or a polynomial: the end value from `transition_begin` on, so that the next
  piece joins without a jump.
- `endpoint=False`: as above, so the last of N steps stops one short of the end value. `endpoint=True`: that
  step, count N - 1, has the end value; the curve is that of one step fewer.

Values, rates, powers and factors may be numbers, scalar arrays, tracers, or schedules, which are evaluated
at the same count.
"""

from gradflow._missing_names import with_hints as _with_hints
from gradflow.schedules._decay import constant_schedule as constant_schedule
from gradflow.schedules._decay import cosine_decay_schedule as cosine_decay_schedule
from gradflow.schedules._decay import exponential_decay as exponential_decay
from gradflow.schedules._decay import linear_schedule as linear_schedule
from gradflow.schedules._decay import polynomial_schedule as polynomial_schedule
from gradflow.schedules._join import join_schedules as join_schedules
from gradflow.schedules._join import sgdr_schedule as sgdr_schedule
from gradflow.schedules._piecewise import cosine_onecycle_schedule as cosine_onecycle_schedule
from gradflow.schedules._piecewise import linear_onecycle_schedule as linear_onecycle_schedule
from gradflow.schedules._piecewise import piecewise_constant_schedule as piecewise_constant_schedule
from gradflow.schedules._piecewise import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from gradflow.schedules._stateful import StatefulSchedule as StatefulSchedule
from gradflow.schedules._stateful import WrappedSchedule as WrappedSchedule
from gradflow.schedules._stateful import WrappedScheduleState as WrappedScheduleState
from gradflow.schedules._warmup import warmup_constant_schedule as warmup_constant_schedule
from gradflow.schedules._warmup import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from gradflow.schedules._warmup import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule
from gradflow.schedules._wsd import wsd_schedule as wsd_schedule

__all__ = [
    "StatefulSchedule",
    "WrappedSchedule",
    "WrappedScheduleState",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "wsd_schedule",
]

_with_hints(__name__)
