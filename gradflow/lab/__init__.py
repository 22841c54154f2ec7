"""Experiments with optimizers: trains them side by side, ranks them, draws and saves the results.

    compare        ranks many optimizers, with equal budgets and seeds
    sweep          tries many values of any hyper-parameters of one optimizer
    trajectory     draws paths on functions of two variables
    rate_finder    records the loss while the learning rate rises
    schedule_plot  draws schedules by step
    state_plot     draws norms, ratios and histograms of a training run
    CsvWriter, TensorBoardWriter   write metrics while a model trains

The experiments run on a task by name, or on your own `loss_fn`, `params` and `batches`. They return plain
data with a `.plot()`. `python -m gradflow` is the command line; `python -m gradflow.lab.distributed` trains a
task in several processes of one machine. The packages needed beyond JAX come with
`pip install "gradflow-jax[lab]"`, and are imported when they are first used.
"""

from gradflow.lab import _plots as _plots  # registers how results are drawn
from gradflow.lab._candidates._parse import parse as parse
from gradflow.lab._candidates._search_space import Range as Range
from gradflow.lab._experiments._compare import compare as compare
from gradflow.lab._experiments._rate_finder import rate_finder as rate_finder
from gradflow.lab._experiments._schedules import schedule_plot as schedule_plot
from gradflow.lab._experiments._state_history import state_plot as state_plot
from gradflow.lab._experiments._sweep import sweep as sweep
from gradflow.lab._experiments._trajectory import trajectory as trajectory
from gradflow.lab._results._comparison import Comparison as Comparison
from gradflow.lab._results._comparison import Entry as Entry
from gradflow.lab._results._rate_curve import RateCurve as RateCurve
from gradflow.lab._results._schedule_curves import ScheduleCurves as ScheduleCurves
from gradflow.lab._results._state_history import Histogram as Histogram
from gradflow.lab._results._state_history import StateHistory as StateHistory
from gradflow.lab._results._sweep import SweepResult as SweepResult
from gradflow.lab._results._sweep import Trial as Trial
from gradflow.lab._results._trajectories import Path as Path
from gradflow.lab._results._trajectories import Trajectories as Trajectories
from gradflow.lab._tasks._catalog import task as task
from gradflow.lab._tasks._task import Task as Task
from gradflow.lab._tasks._test_functions import LANDSCAPES as LANDSCAPES
from gradflow.lab._tasks._test_functions import Landscape as Landscape
from gradflow.lab._writers import CsvWriter as CsvWriter
from gradflow.lab._writers import MetricsWriter as MetricsWriter
from gradflow.lab._writers import TensorBoardWriter as TensorBoardWriter

__all__ = [
    "LANDSCAPES",
    "Comparison",
    "CsvWriter",
    "Entry",
    "Histogram",
    "Landscape",
    "MetricsWriter",
    "Path",
    "Range",
    "RateCurve",
    "ScheduleCurves",
    "StateHistory",
    "SweepResult",
    "Task",
    "TensorBoardWriter",
    "Trajectories",
    "Trial",
    "compare",
    "parse",
    "rate_finder",
    "schedule_plot",
    "state_plot",
    "sweep",
    "task",
    "trajectory",
]
