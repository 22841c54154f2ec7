"""Pictures and tables of results. Importing this room registers them for the classes of results."""

from gradflow.lab._plots import _comparison as _comparison
from gradflow.lab._plots import _comparison_table as _comparison_table
from gradflow.lab._plots import _rate_curve as _rate_curve
from gradflow.lab._plots import _schedule_curves as _schedule_curves
from gradflow.lab._plots import _state_history as _state_history
from gradflow.lab._plots import _sweep as _sweep
from gradflow.lab._plots import _sweep_table as _sweep_table
from gradflow.lab._plots import _trajectories as _trajectories
