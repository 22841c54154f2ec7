"""Scion: steps of fixed length in a norm that fits each parameter's role."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._calls._context import context, stage_name
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Fraction, Iterations, NonNegative, Rate
from gradflow._rules._leafwise import Scalars, specialize
from gradflow._rules._math import size_root
from gradflow._rules._roles import Mean
from gradflow._rules._state import first_moment
from gradflow._rules._unit_norm import unit_norm
from gradflow._selection._parameters import Parameter, named_leaves
from gradflow._selection._partial_trees import fill_none
from gradflow._selection._selectors import as_selector
from gradflow._selection._stacks import per_leaf
from gradflow._types import MaskedNode, OptState, Pair, Params, Updates, is_absent
from gradflow.linalg import newton_schulz
from gradflow.matrices._choice import is_head, is_table
from gradflow.matrices._matrix import MATRIX, WHOLE, MatrixAxes
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._resolve import resolve_matrices
from gradflow.optimizers._orthogonalize import check_table
from gradflow.transforms import add_decayed_weights, scale, scale_by_learning_rate
from gradflow.wrappers import scale_by_path

NORMS = ("spectral", "sign", "inputs", "outputs", "rms")
_CONVOLUTION = MatrixAxes((0, 1, 2), (3,))


class ScionState(NamedTuple):
    """The averaged gradient."""

    mu: Mean


class _Role(NamedTuple):
    """How one leaf is measured: the norm, the axes of its matrices, and the window of a convolution."""

    norm: str
    axes: MatrixAxes
    window: int = 1


def scion_scalars(momentum: jax.Array) -> Scalars:
    """The decay of the average."""
    return {"decay": 1 - momentum}


def scion_rule(
    g: jax.Array, mu: jax.Array, s: Any, *, norm: str, window: int, ns_coeffs: str, ns_steps: int | None
) -> tuple[jax.Array, ...]:
    """Pethick et al. 2025, Algorithm 1: the average's steepest direction in a norm, of length one."""
    mu = s.decay * mu + s.momentum * g + (g - g)  # NaN where it is not finite
    if norm == "spectral":
        rows, columns = mu.shape
        return size_root(columns / rows / window) * newton_schulz(mu, ns_coeffs, ns_steps), mu
    if norm == "sign":
        return jnp.sign(mu) / mu.shape[0], mu
    # Each unit has a power of its own: beside an outlier in another one its squares would vanish.
    axis = {"outputs": 0, "inputs": 1, "rms": None}[norm]
    size, power = unit_norm(mu, axis)
    length = mu.size if axis is None else mu.shape[axis]
    units = size * (size_root(length) if norm == "outputs" else 1 / size_root(max(length, 1)))
    return power * mu / (units + 1e-8 * power), mu


@transformation
def scale_by_scion(
    momentum: Fraction = 0.1,
    norms: Mapping[Any, str] | None = None,
    *,
    matrices: Any = None,
    ns_coeffs: str = "keller",
    ns_steps: Iterations | None = None,
    mu_dtype: Any = None,
) -> Pair:
    """Averages the gradients and takes the direction that lowers the loss most in a step of norm one.

        mu = (1 - momentum) * mu + momentum * g
        u = sqrt(out / in) * newton_schulz(mu)      "spectral": hidden matrices; / k for a window of k x k
            sign(mu) / in                           "sign": heads
            mu / rms(mu over the outputs)           "inputs": embeddings, where each token has a row
            mu / |mu over the inputs| / sqrt(in)    "outputs"
            mu / rms(mu)                            "rms": biases, scales, and all else

    Args:
      momentum: of the new gradient, in [0, 1]: 0.1 is a decay of 0.9.
      norms: one of these names by pattern of paths or selector; the first that matches wins. The others are
        as above, embeddings and heads recognized by the names in their paths.
      matrices: `Matrix`, `choose_matrices` and the like; by default leaves of two axes, and of four for
        convolutions (height, width, in, out).
      ns_coeffs, ns_steps: as in `orthogonalize`.
      mu_dtype: dtype of the average; the parameters' by default.

    Raises ValueError for a matrix's norm on another leaf, and inside `shard_map` for pieces of one.
    Source: Pethick et al. 2025, arXiv:2502.07529.
    """
    check_table("scale_by_scion", ns_coeffs)
    asked = {} if norms is None else dict(norms)
    for key, norm in asked.items():
        if norm not in NORMS:
            raise ValueError(
                f"scale_by_scion: the norm for {key!r} must be one of {', '.join(NORMS)}; got "
                f"{describe(norm)}"
            )

    def init(params: Params) -> OptState:
        _roles(asked, matrices, params)
        return ScionState(first_moment(params, mu_dtype))

    def update(
        updates: Updates, state: ScionState, params: Params | None = None
    ) -> tuple[Updates, ScionState]:
        check_like("updates", updates, "state", state.mu)
        roles, structure = _roles(asked, matrices, updates if params is None else params)
        flat = structure.flatten_up_to(updates)
        result, mu = updates, state.mu
        for role in dict.fromkeys(r for r in roles if isinstance(r, _Role)):
            rule = specialize(
                scion_rule, norm=role.norm, window=role.window, ns_coeffs=ns_coeffs, ns_steps=ns_steps
            )
            mine = [
                g if r == role or isinstance(g, MaskedNode) else None
                for r, g in zip(roles, flat, strict=True)
            ]
            axes = structure.unflatten([r.axes if isinstance(r, _Role) else r for r in roles])
            part = structure.unflatten(mine)
            u, mu = per_matrix(
                rule, axes, (part, mu), scion_scalars, in_loops=role.norm == "spectral", momentum=momentum
            )
            result = fill_none(u, result)
        return result, ScionState(mu)

    return init, update


def _roles(asked: Mapping[Any, str], matrices: Any, params: Params) -> tuple[list[Any], Any]:
    """Each leaf's role, absent leaves as they are, and the structure of the parameters."""
    structure: Any = jax.tree.structure(params, is_leaf=is_absent)
    tree = per_leaf(functools.partial(_roles_of_leaves, asked, matrices), params)
    roles: list[Any] = structure.flatten_up_to(tree)
    if context.stacks is not None:
        roles = [r._replace(axes=r.axes.in_stack()) if isinstance(r, _Role) else r for r in roles]
    return roles, structure


def _roles_of_leaves(asked: Mapping[Any, str], matrices: Any, params: Params) -> Any:
    named, structure = named_leaves(params)
    if matrices is None:
        axes: list[Any] = [_usual_axes(parameter.leaf) for parameter in named]
    else:
        axes = jax.tree.leaves(resolve_matrices(matrices, params), is_leaf=is_absent)
    hits = [(as_selector(key).choose(named), norm) for key, norm in asked.items()]
    roles = []
    for i, (parameter, own) in enumerate(zip(named, axes, strict=True)):
        norm = next((norm for hit, norm in hits if hit[i]), None)
        roles.append(parameter.leaf if is_absent(parameter.leaf) else _role(parameter, own, norm))
    return structure.unflatten(roles)


def _usual_axes(leaf: Any) -> MatrixAxes | None:
    if is_absent(leaf):
        return None
    return MATRIX if leaf.ndim == 2 else _CONVOLUTION if leaf.ndim == 4 else None


def _role(parameter: Parameter, axes: Any, norm: str | None) -> _Role:
    if norm is None:
        norm = (
            "rms" if axes is None
            else "inputs" if is_table(parameter.path)
            else "sign" if is_head(parameter.path)
            else "spectral"
        )  # fmt: skip
    if norm == "rms":
        return _Role(norm, WHOLE)
    if axes is None:
        raise ValueError(
            f"{stage_name()}: the parameter at '{'/'.join(parameter.path)}' of shape {parameter.leaf.shape} "
            f"is not a matrix and has no norm {norm!r}: give it 'rms', or name its axes with matrices="
        )
    window = math.prod(parameter.leaf.shape[:2]) if axes == _CONVOLUTION else 1
    return _Role(norm, axes, window)


@transformation
def scion(
    learning_rate: Rate,
    momentum: Fraction = 0.1,
    scale: NonNegative = 1.0,
    constrained: bool = False,
    norms: Mapping[Any, str] | None = None,
    scales: Mapping[Any, Any] | None = None,
    *,
    matrices: Any = None,
    ns_coeffs: str = "keller",
    ns_steps: Iterations | None = None,
    mu_dtype: Any = None,
) -> GradientTransformation:
    """Scion: `scale_by_scion` times a radius, then the learning rate.

        p = p - learning_rate * scale * scale_by_scion(g)
        p = (1 - learning_rate) * p - learning_rate * scale * scale_by_scion(g)      constrained

    Args:
      learning_rate: a number >= 0 or a schedule; as one width has it, so have all.
      scale: the radius of all parameters, >= 0.
      constrained: keeps each parameter in the ball of that radius in its norm, where it should begin.
      scales: factors of the radius by pattern of paths or selector. Hidden matrices 50 and heads 3000 are the
        paper's for a transformer.

    The others and the source as in `scale_by_scion`.
    """
    stages = [
        scale_by_scion(
            momentum, norms, matrices=matrices, ns_coeffs=ns_coeffs, ns_steps=ns_steps, mu_dtype=mu_dtype
        ),
        _scale(scale),
        *([] if scales is None else [scale_by_path(scales)]),
        *([add_decayed_weights(1.0)] if constrained else []),
        scale_by_learning_rate(learning_rate),
    ]
    return chain(*stages)


_scale = scale  # the argument of `scion` has its name
