"""Kinds of arguments for your own factories, and the names of the types that functions pass around.

`b1: Decay = 0.9` in a factory under `@gradflow.transformation` makes b1 a checked hyper-parameter: a number,
a scalar array, a tracer or a schedule, in [0, 1).
"""

from typing import Any

from gradflow._base import OptState as OptState
from gradflow._base import Pair as Pair
from gradflow._base import Params as Params
from gradflow._base import Schedule as Schedule
from gradflow._base import Updates as Updates
from gradflow._hyper import Decay as Decay
from gradflow._hyper import Finite as Finite
from gradflow._hyper import Fraction as Fraction
from gradflow._hyper import Index as Index
from gradflow._hyper import NonNegative as NonNegative
from gradflow._hyper import Positive as Positive
from gradflow._hyper import Rate as Rate
from gradflow._hyper import ScalarOrSchedule as ScalarOrSchedule
from gradflow._hyper import Size as Size
from gradflow._select import MaskOrFn as MaskOrFn

ArrayTree = Any
