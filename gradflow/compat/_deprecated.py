"""Names that Optax has deprecated or removed. They work, with a DeprecationWarning that says what to call."""

import functools
import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp

from gradflow import losses, tree
from gradflow._core._compose import chain
from gradflow.compat import _second_order
from gradflow.optimizers import scale_by_adam
from gradflow.optimizers import scale_by_optimistic_gradient as _scale_by_optimistic_gradient
from gradflow.transforms import scale_by_learning_rate
from gradflow.wrappers import InjectStatefulHyperparamsState, inject_hyperparams


class Deprecated(NamedTuple):
    """A value under a deprecated name, and what to write in its place."""

    value: Any
    replacement: str

    def get(self, name: str) -> Any:
        """The value, with a DeprecationWarning at the line that asked for it."""
        name = name.removeprefix("gradflow.compat.")
        warnings.warn(f"{name} is deprecated; use {self.replacement}", DeprecationWarning, stacklevel=3)
        return self.value


def optimistic_adam(
    learning_rate: Any,
    optimism: Any = None,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> Any:
    """Optimistic Adam with a fixed rate: `u = -((learning_rate + optimism) * d[t] - optimism * d[t - 1])`.

    `optimistic_adam_v2` takes schedules too. `optimism` is the learning rate by default.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        _scale_by_optimistic_gradient(learning_rate, learning_rate if optimism is None else optimism),
        scale_by_learning_rate(1.0),
    )


_NORMS = {
    "tree_scalar_mul": Deprecated(tree.scale, "tree.scale"),
    "tree_add_scalar_mul": Deprecated(tree.add_scale, "tree.add_scale"),
    "tree_l1_norm": Deprecated(functools.partial(tree.norm, ord=1), "tree.norm(tree, ord=1)"),
    "tree_l2_norm": Deprecated(tree.norm, "tree.norm"),
    "tree_linf_norm": Deprecated(functools.partial(tree.norm, ord=jnp.inf), "tree.norm(tree, ord=jnp.inf)"),
}
_KL = {"convex_kl_divergence": Deprecated(losses.generalized_kl_divergence, "generalized_kl_divergence")}

TOP_LEVEL = {
    "global_norm": Deprecated(tree.norm, "tree.norm"),
    "optimistic_adam": Deprecated(optimistic_adam, "optimistic_adam_v2"),
    "inject_stateful_hyperparams": Deprecated(inject_hyperparams, "inject_hyperparams"),
    "InjectHyperparamsState": Deprecated(InjectStatefulHyperparamsState, "InjectStatefulHyperparamsState"),
    **_KL,
    **_NORMS,
}
# Names that the private modules had, too; many programs import them.
PRIVATE = {
    **TOP_LEVEL,
    "_scale_by_learning_rate": Deprecated(scale_by_learning_rate, "scale_by_learning_rate"),
    "_update_moment": Deprecated(tree.update_moment, "tree.update_moment"),
    "_update_moment_per_elem_norm": Deprecated(
        tree.update_moment_per_elem_norm, "tree.update_moment_per_elem_norm"
    ),
    "_bias_correction": Deprecated(tree.bias_correction, "tree.bias_correction"),
}
TREE_UTILS = _NORMS
LOSSES = _KL
SECOND_ORDER = {
    "hvp": Deprecated(_second_order.hvp, "jax.jvp of jax.grad"),
    "hessian_diag": Deprecated(_second_order.hessian_diag, "jax.hessian, or gradflow.sophia's estimators"),
    "fisher_diag": Deprecated(_second_order.fisher_diag, "jax.grad, squared"),
}
