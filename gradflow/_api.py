"""The names of the top level: the core's one by one, then one line per room."""

from gradflow import tree as _tree
from gradflow._calls._reports import collecting as collecting
from gradflow._calls._reports import forward as forward
from gradflow._calls._reports import report as report
from gradflow._core._apply import apply_updates as apply_updates
from gradflow._core._apply import incremental_update as incremental_update
from gradflow._core._apply import periodic_update as periodic_update
from gradflow._core._compose import chain as chain
from gradflow._core._compose import identity as identity
from gradflow._core._compose import init_empty_state as init_empty_state
from gradflow._core._compose import named_chain as named_chain
from gradflow._core._compose import set_to_zero as set_to_zero
from gradflow._core._compose import stateless as stateless
from gradflow._core._compose import stateless_with_tree_map as stateless_with_tree_map
from gradflow._core._compose import with_extra_args_support as with_extra_args_support
from gradflow._core._decorators import transformation as transformation
from gradflow._core._transformation import GradientTransformation as GradientTransformation
from gradflow._core._transformation import GradientTransformationExtraArgs as GradientTransformationExtraArgs
from gradflow._expressions._addresses import addresses as addresses
from gradflow._expressions._addresses import replace as replace
from gradflow._expressions._config import from_config as from_config
from gradflow._expressions._config import to_config as to_config
from gradflow._expressions._describe import describe as describe
from gradflow._expressions._functions import schedule as schedule
from gradflow._inspection._check import check as check
from gradflow._inspection._findings import CheckResult as CheckResult
from gradflow._inspection._findings import Finding as Finding
from gradflow._inspection._summary import Summary as Summary
from gradflow._inspection._summary import SummaryRow as SummaryRow
from gradflow._inspection._summary import summary as summary
from gradflow._selection._selectors import Selector as Selector
from gradflow._selection._selectors import all_of as all_of
from gradflow._selection._selectors import any_of as any_of
from gradflow._selection._selectors import dtype as dtype
from gradflow._selection._selectors import ndim as ndim
from gradflow._selection._selectors import none_of as none_of
from gradflow._selection._selectors import paths as paths
from gradflow._selection._selectors import size as size
from gradflow._training._constrained import ConstrainedResult as ConstrainedResult
from gradflow._training._constrained import minimize_constrained as minimize_constrained
from gradflow._training._minimize import minimize as minimize
from gradflow._training._result import MinimizeResult as MinimizeResult
from gradflow._training._step import StepResult as StepResult
from gradflow._training._step import make_step as make_step
from gradflow._types import EmptyState as EmptyState
from gradflow._types import ScheduledState as ScheduledState
from gradflow._types import TransformInitFn as TransformInitFn
from gradflow._types import TransformUpdateExtraArgsFn as TransformUpdateExtraArgsFn
from gradflow._types import TransformUpdateFn as TransformUpdateFn
from gradflow.aggregating import *
from gradflow.checkpoint import LoadReport as LoadReport
from gradflow.checkpoint import load_state_dict as load_state_dict
from gradflow.checkpoint import state_dict as state_dict
from gradflow.linalg import matrix_inverse_pth_root as matrix_inverse_pth_root
from gradflow.linalg import nnls as nnls
from gradflow.linalg import power_iteration as power_iteration
from gradflow.losses import *
from gradflow.matrices import Matrix as Matrix
from gradflow.matrices import MatrixChoice as MatrixChoice
from gradflow.matrices import choose_matrices as choose_matrices
from gradflow.matrices import hidden_matrices as hidden_matrices
from gradflow.microbatching import microbatch as microbatch
from gradflow.numerics import multi_normal as multi_normal
from gradflow.numerics import safe_increment as safe_increment
from gradflow.numerics import safe_norm as safe_norm
from gradflow.numerics import safe_root_mean_squares as safe_root_mean_squares
from gradflow.numerics import scale_gradient as scale_gradient
from gradflow.optimizers import *
from gradflow.proximals import *
from gradflow.schedules import *
from gradflow.transforms import *
from gradflow.tree import bias_correction as bias_correction
from gradflow.tree import update_infinity_moment as update_infinity_moment
from gradflow.tree import update_moment as update_moment
from gradflow.tree import update_moment_per_elem_norm as update_moment_per_elem_norm
from gradflow.typing import ArrayTree as ArrayTree
from gradflow.typing import MaskOrFn as MaskOrFn
from gradflow.typing import OptState as OptState
from gradflow.typing import Params as Params
from gradflow.typing import ScalarOrSchedule as ScalarOrSchedule
from gradflow.typing import Schedule as Schedule
from gradflow.typing import Updates as Updates
from gradflow.wrappers import *

# Optax's top level has these names too.
safe_int32_increment = safe_increment
tree_map_params = _tree.map_params
