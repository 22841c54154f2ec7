"""Kinds of arguments for your own factories, and names for the types of arguments and results.

`b1: Decay = 0.9` in a factory decorated with `@gradflow.transformation` makes b1 a checked hyper-parameter: a
number, scalar array, tracer or schedule, in [0, 1).

`mu: Mean` in the named tuple of a state says what the field holds, for `quantize_state` and `cast_state`.
"""

from typing import TYPE_CHECKING, Any

from gradflow._expressions._arguments import ScalarOrSchedule as ScalarOrSchedule
from gradflow._rules._roles import Mean as Mean
from gradflow._rules._roles import Other as Other
from gradflow._rules._roles import Square as Square
from gradflow._rules._roles import Sum as Sum
from gradflow._rules._roles import Weights as Weights
from gradflow._types import MaskOrFn as MaskOrFn
from gradflow._types import OptState as OptState
from gradflow._types import Pair as Pair
from gradflow._types import Params as Params
from gradflow._types import Schedule as Schedule
from gradflow._types import Updates as Updates

if TYPE_CHECKING:
    # A caller passes a number or a schedule, and the body always gets a number: no static type says both.
    from typing import TypeAlias

    Decay: TypeAlias = Any
    Finite: TypeAlias = Any
    Fraction: TypeAlias = Any
    NonNegative: TypeAlias = Any
    Positive: TypeAlias = Any
    Rate: TypeAlias = Any
    Index: TypeAlias = int
    Size: TypeAlias = int
else:
    from gradflow._expressions._arguments import Decay as Decay
    from gradflow._expressions._arguments import Finite as Finite
    from gradflow._expressions._arguments import Fraction as Fraction
    from gradflow._expressions._arguments import Index as Index
    from gradflow._expressions._arguments import NonNegative as NonNegative
    from gradflow._expressions._arguments import Positive as Positive
    from gradflow._expressions._arguments import Rate as Rate
    from gradflow._expressions._arguments import Size as Size

ArrayTree = Any

__all__ = [
    "ArrayTree",
    "Decay",
    "Finite",
    "Fraction",
    "Index",
    "MaskOrFn",
    "Mean",
    "NonNegative",
    "OptState",
    "Other",
    "Pair",
    "Params",
    "Positive",
    "Rate",
    "ScalarOrSchedule",
    "Schedule",
    "Size",
    "Square",
    "Sum",
    "Updates",
    "Weights",
]
