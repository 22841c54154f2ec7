"""What the laws share: running a transformation, and comparing trees."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from compiling import OPTIMIZED
from specs import EXTRA, build

import gradflow as gf
from laws.operations import interpreted


def extras(tx: Any, params: Any, grads: Any) -> dict[str, Any]:
    """The extra arguments that a transformation takes, such as the loss; none for most."""
    taken = sorted(tx.update.stage.takes & EXTRA.keys())
    return {name: EXTRA[name](params, grads) for name in taken}


def run(tx: Any, params: Any, gradients: list[Any], state: Any = None) -> tuple[list[Any], Any, Any]:
    """Steps of a transformation: the updates of each, the parameters and the state at the end."""
    state = tx.init(params) if state is None else state
    history = []
    for g in gradients:
        updates, state = tx.update(g, state, params, **extras(tx, params, g))
        params = gf.apply_updates(params, updates)
        history.append(updates)
    return history, params, state


@functools.lru_cache(maxsize=2)
def compiled_step(case: str) -> Any:
    """The compiled step of a case, from gradients, state and parameters; the last two are donated.

    It is the one program that laws in a row share, optimized as users have it (see `tests/conftest.py`).
    """
    tx = build(case)

    @functools.partial(jax.jit, donate_argnums=(1, 2), compiler_options=OPTIMIZED)
    def step(grads: Any, state: Any, params: Any) -> tuple[Any, Any, Any]:
        updates, state = tx.update(grads, state, params, **extras(tx, params, grads))
        return updates, state, gf.apply_updates(params, updates)

    return step


def run_compiled(case: str, params: Any, gradients: list[Any]) -> tuple[list[Any], Any, Any]:
    """What `run` gives, by compiled steps."""
    state, params = build(case).init(params), jax.tree.map(jnp.copy, params)
    history = []
    for g in gradients:
        updates, state, params = compiled_step(case)(g, state, params)
        history.append(updates)
    return history, params, state


def run_interpreted(
    tx: Any, params: Any, gradients: list[Any], state: Any = None
) -> tuple[list[Any], Any, Any]:
    """What `run` gives under jit, operation by operation."""
    result: tuple[list[Any], Any, Any] = interpreted(functools.partial(run, tx))(params, gradients, state)
    return result


def abstract_update(tx: Any, grads: Any, state: Any, params: Any, **extra: Any) -> Any:
    """The shapes and dtypes of an update's results; what it refuses is refused."""

    def update(grads: Any, state: Any, params: Any) -> Any:
        return tx.update(grads, state, params, **{**extras(tx, params, grads), **extra})

    return jax.eval_shape(update, grads, state, params)


def aliases(state: Any, params: Any) -> list[str]:
    """The paths in a state of arrays whose buffer is also that of another one, or of a parameter."""
    seen = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params) if leaf.size}
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if leaf.size == 0 or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        pointer = leaf.unsafe_buffer_pointer()
        if pointer in seen:
            found.append(jax.tree_util.keystr(path))
        seen.add(pointer)
    return found


def assert_close(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Equal structures, shapes and dtypes, and numbers within tolerance."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), e in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, e = jax.random.key_data(a), jax.random.key_data(e)
        assert (a.shape, a.dtype) == (e.shape, e.dtype), name
        kind = np.complex128 if jnp.issubdtype(a.dtype, jnp.complexfloating) else np.float64
        np.testing.assert_allclose(
            np.asarray(a).astype(kind), np.asarray(e).astype(kind), rtol, atol, err_msg=name
        )


def assert_finite(tree: Any) -> None:
    """No NaN and no infinity in any inexact leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            finite = np.isfinite(np.asarray(leaf).astype(np.complex128))
            assert finite.all(), jax.tree_util.keystr(path)


def no_nan(tree: Any) -> None:
    """No NaN in any inexact leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            assert not np.isnan(np.asarray(leaf).astype(np.complex128)).any(), jax.tree_util.keystr(path)


def avals(tree: Any) -> Any:
    """Structure, shapes, dtypes and weak types of a tree, to compare."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves]
