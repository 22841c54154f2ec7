"""Optimizers: one update rule a file."""

from gradflow.optimizers._adam import ScaleByAdamState as ScaleByAdamState
from gradflow.optimizers._adam import adam as adam
from gradflow.optimizers._adam import adamw as adamw
from gradflow.optimizers._adam import nadamw as nadamw
from gradflow.optimizers._adam import scale_by_adam as scale_by_adam
