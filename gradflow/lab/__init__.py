"""The lab: optimizers trained side by side on real data, ranked, drawn and written down.

    compare        many optimizers, equal budgets and seeds, ranked
    sweep          many values of any hyper-parameters of one optimizer
    trajectory     paths on functions of two variables
    rate_finder    the loss while the learning rate rises
    schedule_plot  schedules, step by step
    state_plot     norms, ratios and histograms of a training
    CsvWriter, TensorBoardWriter   where metrics go while a model trains

Each trains on a task by name, or on your own `loss_fn`, `params` and `batches`, and returns plain data with a
`.plot()`. `python -m gradflow` is the command line. What all this needs beyond JAX comes with
`pip install "gradflow-jax[lab]"`, and is imported only when it is used.
"""

from gradflow.lab._compare import compare as compare
from gradflow.lab._landscapes import LANDSCAPES as LANDSCAPES
from gradflow.lab._landscapes import Landscape as Landscape
from gradflow.lab._parse import parse as parse
from gradflow.lab._rate_finder import RateCurve as RateCurve
from gradflow.lab._rate_finder import rate_finder as rate_finder
from gradflow.lab._result import Comparison as Comparison
from gradflow.lab._result import Entry as Entry
from gradflow.lab._schedule_plot import ScheduleCurves as ScheduleCurves
from gradflow.lab._schedule_plot import schedule_plot as schedule_plot
from gradflow.lab._space import Range as Range
from gradflow.lab._state_plot import Histogram as Histogram
from gradflow.lab._state_plot import StateHistory as StateHistory
from gradflow.lab._state_plot import state_plot as state_plot
from gradflow.lab._sweep import sweep as sweep
from gradflow.lab._sweep_result import SweepResult as SweepResult
from gradflow.lab._sweep_result import Trial as Trial
from gradflow.lab._task import Task as Task
from gradflow.lab._tasks import task as task
from gradflow.lab._trajectory import Path as Path
from gradflow.lab._trajectory import Trajectories as Trajectories
from gradflow.lab._trajectory import trajectory as trajectory
from gradflow.lab._writers import CsvWriter as CsvWriter
from gradflow.lab._writers import MetricsWriter as MetricsWriter
from gradflow.lab._writers import TensorBoardWriter as TensorBoardWriter
