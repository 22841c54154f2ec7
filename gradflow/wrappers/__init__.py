"""Transformation -> transformation."""

from gradflow.wrappers._metrics import MetricsState as MetricsState
from gradflow.wrappers._metrics import metrics as metrics
from gradflow.wrappers._metrics import with_metrics as with_metrics
