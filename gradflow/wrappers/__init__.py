"""Transformation -> transformation."""

from gradflow._select import MaskedNode as MaskedNode
from gradflow.wrappers._accumulate import ApplyEvery as ApplyEvery
from gradflow.wrappers._accumulate import MultiSteps as MultiSteps
from gradflow.wrappers._accumulate import MultiStepsState as MultiStepsState
from gradflow.wrappers._accumulate import MultiStepsTransformation as MultiStepsTransformation
from gradflow.wrappers._accumulate import ShouldSkipUpdateFunction as ShouldSkipUpdateFunction
from gradflow.wrappers._accumulate import apply_every as apply_every
from gradflow.wrappers._accumulate import skip_large_updates as skip_large_updates
from gradflow.wrappers._accumulate import skip_not_finite as skip_not_finite
from gradflow.wrappers._guard import ApplyIfFiniteState as ApplyIfFiniteState
from gradflow.wrappers._guard import apply_if_finite as apply_if_finite
from gradflow.wrappers._masked import MaskedState as MaskedState
from gradflow.wrappers._masked import masked as masked
from gradflow.wrappers._metrics import MetricsState as MetricsState
from gradflow.wrappers._metrics import metrics as metrics
from gradflow.wrappers._metrics import with_metrics as with_metrics
