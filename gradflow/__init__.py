"""gradflow: optimizers for JAX as values.

    loss --grad--> updates --[ stage > stage > scale_by_learning_rate ]--> updates --apply_updates--> params

The layers, each seeing only those above it:

    tree        arithmetic and paths on pytrees
    _base       GradientTransformation, and the decorators `transformation` and `schedule`
    _leafwise   one rule for one leaf, applied over trees; `_report` listens, `_apply` ends a step
    _compose    chain and its kin; `_select` says which leaves
    schedules   step -> value
    transforms  building blocks: clipping, momentum, decay, noise, scaling
    wrappers    transformation -> transformation
    optimizers  one update rule a file, and the named optimizers
    losses      predictions, targets -> loss
    lab         compares optimizers on real data; `python -m gradflow` (imported only on demand)
"""

from gradflow._apply import *
from gradflow._base import *
from gradflow._compose import *
from gradflow.optimizers import *
from gradflow.transforms import *

__version__ = "0.1.0"
