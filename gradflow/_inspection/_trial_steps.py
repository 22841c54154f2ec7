"""Findings from a few trial steps."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._checks import is_trainable
from gradflow._core._apply import apply_updates
from gradflow._core._rates import sets_the_rate
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import is_inexact
from gradflow._errors import describe
from gradflow._expressions._keys import expression_of
from gradflow._inspection._expression_checks import sequences_of
from gradflow._inspection._findings import Finding
from gradflow._types import Params, Updates
from gradflow.optimizers import BSAMState
from gradflow.packed._pack import pack_as, unpack_all
from gradflow.tree._paths import is_none, leaves_by_path, path_string, show
from gradflow.tree._structure import explain_trees
from gradflow.wrappers import GSAMState, LookSAMState, SAMState, eval_params


def gradient_findings(params: Params, grads: Updates) -> Iterator[Finding]:
    structure: Any = jax.tree.structure(params)
    if structure != jax.tree.structure(grads):
        yield Finding(
            "grads", explain_trees("grads", grads, "params", params), "Differentiate with respect to params"
        )
        return
    for path, p in leaves_by_path(params).items():
        g = leaves_by_path(grads)[path]
        if p is not None and np.shape(g) != np.shape(p):
            yield Finding(
                "grads",
                f"at {show(path)} the gradient is {describe(g)} and the parameter {describe(p)}",
                "Average over examples and devices before the update",
            )


def trial_steps(
    tx: GradientTransformation, params: Params, grads: Updates | None, extra: dict[str, Any]
) -> Iterator[Finding]:
    """Findings from two steps, or more while the parameters do not move."""
    name = getattr(expression_of(tx), "name", "the transformation")
    if grads is None:
        trained = jax.tree.map(lambda p: p if is_trainable(p) else None, unpack_all(params))
        grads = pack_as(params, tree.random_like(jax.random.key(0), trained))

    def step(params: Params, state: Any) -> tuple[Updates, Params, Any]:
        updates, state = tx.update(grads, state, params, **extra)
        return updates, apply_updates(params, updates), state

    point, slopes = params, dict.fromkeys(leaves_by_path(grads), 0.0)
    try:
        state = tx.init(params)
        yield from _shared_buffers(name, params, state)
        updates, point, after = step(point, state)
        yield from _changed_types(name, state, after)
        # Some transformations accumulate for several steps, or start at a rate of zero.
        step = jax.jit(step)
        origin = eval_params(state, params)
        for count in range(_PATIENCE):
            calls = _calls_of_rounds(after)
            if calls and not any(calls):
                last, origin = origin, eval_params(after, point)
                updates = jax.tree.map(_difference, grads, origin, last, is_leaf=is_none)
            if not any(calls):
                slopes = {path: slopes[path] + slope for path, slope in _slopes(updates, grads).items()}
            if count >= 2 and any(slopes.values()):
                break
            updates, point, after = step(point, after)
    except Exception as error:  # a third-party stage may raise anything
        yield Finding(
            name,
            f"a step fails: {type(error).__name__}: {error}",
            "Pass the extra arguments that it needs to check",
        )
        return
    climbing = [path for path, slope in slopes.items() if slope > 0]
    if sum(slopes.values()) > 0 or climbing:
        where = "" if len(climbing) == len(slopes) else f" at {show(climbing[0])}" if climbing else ""
        more = f" and {len(climbing) - 1} more" if where and len(climbing) > 1 else ""
        problem = f"the update goes along the gradient{where}{more}, so the loss increases"
        sequences = sequences_of(tx)
        if sequences and not all(
            any(sets_the_rate(place.stage) for place in sequence) for sequence in sequences
        ):
            hint = "End the chain with scale_by_learning_rate(rate), which also flips the sign"
            yield Finding(name, f"no learning rate is applied, and {problem}", hint)
        else:
            yield Finding(name, problem, "Look for a second learning rate, or a negative scale")
    elif not any(slopes.values()) and any(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads)):
        yield Finding(
            name,
            f"{_PATIENCE} steps with gradients do not move the parameters",
            "Look for a rate of zero, a mask that leaves all out, or accumulation over many steps",
        )


def _calls_of_rounds(state: Any) -> list[int]:
    """Calls since each round began, for SAM and its kin: they climb first, and a round is what descends."""
    parts = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, _ROUNDS))
    return [int(part.steps_since_sync) for part in parts if isinstance(part, _ROUNDS)]


def _difference(g: Any, now: Any, before: Any) -> Any:
    return None if g is None else now - before


_ROUNDS = (SAMState, GSAMState, LookSAMState, BSAMState)
_PATIENCE = 64  # steps within which a transformation should change the parameters


def _slopes(updates: Updates, grads: Updates) -> dict[str, float]:
    """The cosine of update and gradient for each leaf; 0 if it is between 0 and 0.5, which may be chance."""
    found = {}
    for (path, u), g in zip(
        jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(grads), strict=True
    ):
        if is_inexact(u.dtype):
            # jax.grad conjugates the gradient of complex parameters: the loss changes by Re(u * g).
            u, g = (np.asarray(x).astype(np.complex128) for x in (u, g))
            length = np.linalg.norm(u) * np.linalg.norm(g)
            cosine = float(np.sum(u * g).real / length) if length else 0.0
            found[path_string(path)] = cosine if cosine > 0.5 or cosine < 0 else 0.0
    return found


def _shared_buffers(name: str, params: Params, state: Any) -> Iterator[Finding]:
    owners: dict[int, str] = {}
    for what, part in (("params", params), ("state", state)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(part):
            if not isinstance(leaf, jax.Array) or not is_inexact(leaf.dtype) or leaf.size == 0:
                continue
            place = f"{what} at {show(path_string(path))}"
            for piece in leaf.addressable_shards:
                pointer = piece.data.unsafe_buffer_pointer()
                other = owners.setdefault(pointer, place)
                if other != place:
                    yield Finding(
                        name,
                        f"{place} and {other} are one buffer, which cannot be donated twice",
                        "Copy it in init: jnp.array(p, copy=True)",
                    )
                    return


def _changed_types(name: str, before: Any, after: Any) -> Iterator[Finding]:
    hint = "Make init return the types that update returns; otherwise each step compiles again and scan fails"
    structure: Any = jax.tree.structure(before)
    if structure != jax.tree.structure(after):
        yield Finding(name, explain_trees("the state of init", before, "that of update", after), hint)
        return
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        types = [(x.shape, x.dtype, bool(getattr(x, "weak_type", False))) for x in (a, b)]
        if types[0] != types[1]:
            words = [f"{describe(x)}{' (weak)' if t[2] else ''}" for x, t in zip((a, b), types, strict=True)]
            yield Finding(
                name,
                f"the state at {show(path_string(path))} is {words[0]} from init and {words[1]} from update",
                hint,
            )
            return
