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

from gradflow import tree as tree
from gradflow import typing as typing
from gradflow._address import addresses as addresses
from gradflow._address import replace as replace
from gradflow._apply import apply_updates as apply_updates
from gradflow._apply import incremental_update as incremental_update
from gradflow._apply import periodic_update as periodic_update
from gradflow._base import EmptyState as EmptyState
from gradflow._base import GradientTransformation as GradientTransformation
from gradflow._base import GradientTransformationExtraArgs as GradientTransformationExtraArgs
from gradflow._base import ScheduledState as ScheduledState
from gradflow._base import TransformInitFn as TransformInitFn
from gradflow._base import TransformUpdateExtraArgsFn as TransformUpdateExtraArgsFn
from gradflow._base import TransformUpdateFn as TransformUpdateFn
from gradflow._base import schedule as schedule
from gradflow._base import transformation as transformation
from gradflow._compose import chain as chain
from gradflow._compose import identity as identity
from gradflow._compose import init_empty_state as init_empty_state
from gradflow._compose import named_chain as named_chain
from gradflow._compose import set_to_zero as set_to_zero
from gradflow._compose import stateless as stateless
from gradflow._compose import stateless_with_tree_map as stateless_with_tree_map
from gradflow._compose import with_extra_args_support as with_extra_args_support
from gradflow._config import from_config as from_config
from gradflow._config import to_config as to_config
from gradflow._report import collecting as collecting
from gradflow._report import forward as forward
from gradflow._report import report as report
from gradflow.optimizers import *
from gradflow.transforms import *
from gradflow.typing import ArrayTree as ArrayTree
from gradflow.typing import MaskOrFn as MaskOrFn
from gradflow.typing import OptState as OptState
from gradflow.typing import Params as Params
from gradflow.typing import ScalarOrSchedule as ScalarOrSchedule
from gradflow.typing import Schedule as Schedule
from gradflow.typing import Updates as Updates
from gradflow.wrappers import *

__version__ = "0.1.0"
