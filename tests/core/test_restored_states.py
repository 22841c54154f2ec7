"""States that come back in other containers, and the frames of the errors about them."""

import json
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
GRADS = {"w": jnp.full((2, 3), 0.2), "b": jnp.full(3, -0.1)}
TX = gf.chain(gf.clip(1.0), gf.masked(gf.adamw(1e-2), {"w": True, "b": False}))


def as_lists(node: Any) -> Any:
    """What JSON leaves of containers and counts; arrays are stored beside it."""
    if isinstance(node, list | tuple):
        return [as_lists(part) for part in node]
    if isinstance(node, dict):
        return {name: as_lists(part) for name, part in node.items()}
    return np.asarray(node) if node.ndim else json.loads(json.dumps(node.item()))


def as_tuples(node: Any) -> Any:
    """What a format without named tuples leaves, as msgpack."""
    if isinstance(node, list | tuple):
        return tuple(map(as_tuples, node))
    if isinstance(node, dict):
        return {name: as_tuples(part) for name, part in node.items()}
    return node


@pytest.mark.parametrize("change", [as_lists, as_tuples])
@pytest.mark.parametrize("compile_update", [lambda update: update, jax.jit])
def test_tuples_that_came_back_as_others_are_taken(
    change: Callable[[Any], Any], compile_update: Callable[[Any], Any]
) -> None:
    _, state = TX.update(GRADS, TX.init(PARAMS), PARAMS)
    expected = TX.update(GRADS, state, PARAMS)
    found = compile_update(TX.update)(GRADS, change(state), PARAMS)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_tuples_that_came_back_as_others_are_taken_without_parameters() -> None:
    tx = gf.chain(gf.clip(1.0), gf.trace(0.9))
    narrow = jax.tree.map(lambda g: g.astype(jnp.bfloat16), GRADS)
    _, state = tx.update(GRADS, tx.init(PARAMS))
    for grads in (GRADS, narrow):
        expected = tx.update(grads, state)
        found = tx.update(grads, as_lists(state))
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_lists_of_another_state_are_refused() -> None:
    for other in (gf.adam(0.1), gf.sgd(0.1, momentum=0.9)):
        with pytest.raises(TypeError, match="argument 'state' must be"):
            TX.update(GRADS, as_lists(other.init(PARAMS)), PARAMS)
    adam = gf.scale_by_adam()
    state = adam.init(PARAMS)
    for wrong in ([state.mu, state.count, state.nu], [1.5, state.mu, state.nu], [state.count, state.mu]):
        with pytest.raises(TypeError, match="argument 'state' must be a ScaleByAdamState"):
            adam.update(GRADS, wrong, PARAMS)


def frames(call: Callable[[], Any]) -> list[str]:
    """The packages of the frames between `call` and the error that it raises, this file's left out."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    names = [frame.f_globals["__name__"].split(".")[0] for frame, _ in traceback.walk_tb(caught.tb)]
    return [name for name in names if name in ("gradflow", "foreign")]


def test_an_error_of_a_stage_has_one_frame_inside_gradflow() -> None:
    tx = gf.chain(gf.clip(1.0), gf.adamw(1e-3))
    state = tx.init(PARAMS)
    assert frames(lambda: jax.jit(tx.update)(GRADS, state)) == ["gradflow"]
    assert frames(lambda: tx.update(GRADS, state)) == ["gradflow"]
    assert frames(lambda: jax.jit(tx.update)({"w": GRADS["w"]}, state, PARAMS)) == ["gradflow"]
    wrong = {"w": jnp.arange(3)}
    assert frames(lambda: tx.init(wrong)) == frames(lambda: jax.jit(tx.init)(wrong)) == ["gradflow"]
    filtering = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        assert len(frames(lambda: jax.jit(tx.update)(GRADS, state))) > 5
    finally:
        jax.config.update("jax_traceback_filtering", filtering)


def test_the_frames_of_other_code_stay() -> None:
    namespace: dict[str, Any] = {"__name__": "foreign"}
    exec("def measure(u, p):\n    raise ValueError('mine')", namespace)
    tx = gf.chain(gf.clip(1.0), gf.stateless(namespace["measure"]))
    found = frames(lambda: tx.update(GRADS, tx.init(PARAMS), PARAMS))
    assert found[-1] == "foreign"
    assert len(found) > 3


def _without(state: Any) -> Any:
    return state[0]._replace(count=None), *state[1:]


@pytest.mark.parametrize(
    ("tx", "change", "words"),
    [
        (gf.adam(0.1), _without, "'0/count' it has None, init makes int32[]"),
        (
            gf.adam(0.1),
            lambda s: (s[0]._replace(count=jnp.asarray(True)), *s[1:]),
            "'0/count' it has bool[], init makes int32[]",
        ),
        (
            gf.MultiSteps(gf.sgd(0.1), 2),
            lambda s: s._replace(mini_step=s.mini_step[None]),
            "'mini_step' it has int32[1], init makes int32[]",
        ),
    ],
)
def test_an_array_that_init_would_not_make_is_named(tx: Any, change: Any, words: str) -> None:
    params = {"w": jnp.ones(3)}
    state = change(tx.init(params))
    owner = repr(tx).partition("(")[0]
    for update in (tx.update, lambda g, s, p: jax.eval_shape(tx.update, g, s, p)):
        with pytest.raises(TypeError) as caught:
            update(params, state, params)
        wanted = f"{owner}: argument 'state' must be as init returns it; at {words}"
        assert str(caught.value) == wanted


def test_an_error_inside_a_function_is_not_blamed_on_a_state_in_another_precision() -> None:
    tx = gf.stateless(lambda g, p: {"w": g["w"].reshape(7)})
    both = gf.chain(tx, gf.trace(0.9))
    params = {"w": jnp.ones(3)}
    state = jax.tree.map(lambda x: x.astype(jnp.bfloat16), both.init(params))
    with pytest.raises(TypeError, match="cannot reshape"):
        both.update(params, state, params)
