"""Random programs: chains, wrappers four deep, partitions and schedules on odd trees keep the laws.

The programs and trees are drawn by hypothesis, the same ones on each run. Every relation is evaluated without
compiling whole programs (`laws/operations.py`), on few shapes. More of them:
`RANDOM_PROGRAMS=1000 python -m pytest -m random_programs --hypothesis-seed=1`.
"""

import json
import os
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from laws.operations import interpreted
from laws.support import assert_close, avals

import gradflow as gf
from gradflow.packed import pack, unpack

pytestmark = pytest.mark.random_programs
COUNT = int(os.environ.get("RANDOM_PROGRAMS", "8"))
BOUNDED = settings(
    max_examples=COUNT,
    derandomize="RANDOM_PROGRAMS" not in os.environ,  # then `--hypothesis-seed=1` chooses others
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

_SCHEDULES = [
    "0.1", "0.01", "linear_schedule(0.1, 0.01, 5)", "cosine_decay_schedule(0.1, 7)",
    "exponential_decay(0.1, 2, 0.9)", "piecewise_constant_schedule(0.1, {1: 0.5})",
]  # fmt: skip
_DECAYS = ["0.9", "0.5", "linear_schedule(0.5, 0.9, 4)"]
_LEAF_STAGES = [
    "trace({d})", "trace({d}, nesterov=True)", "ema({d})", "scale_by_adam(b1={d})", "scale_by_rms({d})",
    "scale_by_lion(b1={d})", "scale_by_yogi(b1={d})", "scale_by_sign()", "scale_by_belief(b1={d})",
    "scale({r})", "clip(0.5)", "scale_by_learning_rate({r})", "add_decayed_weights({r})", "scale_by_rss()",
    "scale_by_amsgrad(b1={d})", "scale_by_radam(b1={d})", "scale_by_adamax(b1={d})", "identity()",
]  # fmt: skip
_TREE_STAGES = [
    "clip_by_global_norm(1.0)", "normalize_by_update_norm()", "scale_by_trust_ratio()", "centralize()",
    "cautious(scale_by_adam(b1={d}))",
]  # fmt: skip
_OPTIMIZERS = [
    "adam({r}, b1={d})", "sgd({r}, momentum={d})", "adamw({r}, weight_decay=0.01)", "rmsprop({r})",
    "lion({r})", "nadam({r})", "adagrad({r})",
]  # fmt: skip
_WRAPPERS = [
    "masked({0}, ndim(2))", "masked({0}, ~ndim(2), elsewhere='zero')", "apply_if_finite({0}, 3)",
    "MultiSteps({0}, 2)", "with_metrics({0})", "with_param_ema({0}, 0.9)", "tunable({0})",
    "chain({0}, identity())", "partition({{ndim(2): {0}, '**': {1}}})",
    "partition({{ndim(at_least=1): {0}, '**': {1}}})",
    "split_real_and_imaginary({0})", "flatten({0})",
]  # fmt: skip
# Wrappers that see the tree as a whole, or replace it.
_WHOLE = ("flatten", "with_param_ema")


@st.composite
def _stage(draw: Any, elementwise: bool = False) -> str:
    text = draw(
        st.sampled_from(_LEAF_STAGES if elementwise else [*_LEAF_STAGES, *_TREE_STAGES, *_OPTIMIZERS])
    )
    return str(text.format(r=draw(st.sampled_from(_SCHEDULES)), d=draw(st.sampled_from(_DECAYS))))


@st.composite
def programs(draw: Any, depth: int = 4, elementwise: bool = False) -> str:
    """The text of a program: a chain of one to three stages inside at most `depth` wrappers."""

    def chain() -> str:
        stages = draw(st.lists(_stage(elementwise), min_size=1, max_size=3))
        return stages[0] if len(stages) == 1 else f"chain({', '.join(stages)})"

    text = chain()
    allowed = [w for w in _WRAPPERS if not (elementwise and w.split("(")[0] in (*_WHOLE, "apply_if_finite"))]
    if elementwise:
        allowed = [w for w in allowed if "ndim" not in w]
    for _ in range(draw(st.integers(0, depth))):
        text = draw(st.sampled_from(allowed)).format(text, chain())
    return text


def build(text: str) -> Any:
    """The transformation of a text; a program that its own checks refuse is skipped."""
    return eval(text, {"__builtins__": {}, **{name: getattr(gf, name) for name in gf.__all__}})


def _odd(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {
        "a": [draw(2, 3), None, (draw(3), draw())],
        "b": {"c d": draw(1, 2, 3), "0": draw(3)},
        "e": draw(0, 3),
    }


def _run(
    tx: Any, steps: int = 3, seed: int = 0, params: Any = None, grads: Any = None, state: Any = None
) -> Any:
    params = _odd(seed) if params is None else params
    state = tx.init(params) if state is None else state
    grads = [_odd(seed + step + 1) for step in range(steps)] if grads is None else grads

    # An eager update would compile each program.
    return interpreted(lambda p, s, gs: _loop(tx, p, s, gs))(params, state, grads[:steps])


def _loop(tx: Any, params: Any, state: Any, grads: Any) -> Any:
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = gf.apply_updates(params, updates)
    return params, state


def _equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@BOUNDED
@given(programs())
@example("tunable(partition({ndim(2): chain(trace(0.9), sgd(0.1)), '**': sgd(0.1)}))")
def test_a_program_is_a_value(text: str) -> None:
    tx = build(text)
    assert build(repr(tx)) == tx
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert gf.from_config(json.loads(json.dumps(gf.to_config(tx)))) == tx
    addresses = gf.addresses(tx)
    assert len(set(addresses)) == len(addresses)
    assert hash(build(text)) == hash(tx)
    for address in list(addresses)[:3]:
        if address != next(iter(addresses)):
            assert gf.replace(tx, {address: addresses[address]}) == tx


@BOUNDED
@given(programs())
def test_types_stay(text: str) -> None:
    tx = build(text)
    params, grads = _odd(0), _odd(1)
    before = jax.eval_shape(tx.init, params)
    updates, state = jax.eval_shape(tx.update, grads, before, params)
    assert avals(state) == avals(before)
    for update, g in zip(jax.tree.leaves(updates), jax.tree.leaves(grads), strict=True):
        assert (update.shape, update.dtype) == (g.shape, g.dtype)
    held = jax.tree.leaves((params, tx.init(params)))
    buffers = [x.unsafe_buffer_pointer() for x in held if x.size]
    assert len(buffers) == len(set(buffers))


@BOUNDED
@given(programs())
def test_a_saved_state_goes_on_bit_for_bit(text: str) -> None:
    tx = build(text)
    params, state = _run(tx)
    loaded, report = gf.load_state_dict(tx, params, gf.state_dict(tx, state))
    assert not report.new
    assert not report.dropped
    _equal(loaded, state)
    again = pickle.loads(pickle.dumps(tx))
    grads = [_odd(seed) for seed in (7, 8, 9)]
    _equal(_run(again, 3, 0, params, grads, loaded), _run(tx, 3, 0, params, grads, state))


@BOUNDED
@given(programs())
def test_neutral_wrappers_change_nothing(text: str) -> None:
    tx = build(text)
    params, _ = _run(tx)
    for wrapped in (
        gf.chain(tx), gf.chain(gf.identity(), tx), gf.masked(tx, gf.ndim(at_least=0)), gf.MultiSteps(tx, 1),
        gf.partition({"**": tx}),
    ):  # fmt: skip
        assert_close(_run(wrapped)[0], params, rtol=1e-5, atol=1e-6)


@BOUNDED
@given(programs())
def test_packed_is_unpacked(text: str) -> None:
    tx = build(text)
    params, _ = _run(tx, 2)
    grads = [pack(_odd(step + 1), pack(_odd(0))) for step in range(2)]
    packed, _ = _run(tx, 2, 0, pack(_odd(0)), grads)
    assert_close(unpack(packed), params, rtol=1e-4, atol=1e-5)


@BOUNDED
@given(programs(depth=3, elementwise=True))
def test_names_order_and_splits_change_no_elementwise_rule(text: str) -> None:
    tx = build(text)
    grads = [np.random.default_rng(seed).normal(size=(4,)).astype(np.float32) for seed in range(3)]

    def run(tree_of: Any, back: Any) -> Any:
        params, _ = _run(tx, 2, 0, tree_of(jnp.ones(4)), [tree_of(jnp.asarray(g)) for g in grads[:2]])
        return np.asarray(back(params))

    whole = run(lambda x: {"a": x}, lambda t: t["a"])
    split = run(lambda x: {"z": x[:1], "b": x[1:]}, lambda t: jnp.concatenate([t["z"], t["b"]]))
    moved = run(lambda x: (x[2:], {"q": x[:2]}), lambda t: jnp.concatenate([t[1]["q"], t[0]]))
    np.testing.assert_allclose(split, whole, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(moved, whole, rtol=2e-6, atol=1e-7)


def _stack(trees: Any) -> Any:
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


@BOUNDED
@given(programs())
def test_vmap_is_a_loop(text: str) -> None:
    tx = build(text)
    members = [(_odd(10 * member), [_odd(10 * member + step) for step in (1, 2)]) for member in range(2)]
    train = lambda params, grads: _loop(tx, params, tx.init(params), grads)  # noqa: E731
    batched = interpreted(jax.vmap(train))(*_stack(members))
    assert_close(batched, _stack([interpreted(train)(*member) for member in members]), rtol=1e-4, atol=1e-5)


@BOUNDED
@given(programs())
def test_scan_is_a_loop(text: str) -> None:
    tx = build(text)
    grads = [_odd(seed) for seed in (1, 2, 3)]

    def body(carry: Any, g: Any) -> Any:
        return _loop(tx, *carry, [g]), None

    start = (_odd(0), tx.init(_odd(0)))
    scanned, _ = interpreted(lambda c, g: jax.lax.scan(body, c, g))(start, _stack(grads))
    assert_close(scanned, _run(tx, 3, 0, _odd(0), grads), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", ["chain(clip_by_global_norm(1.0), adam(0.1))", "MultiSteps(adam(0.1), 2)"])
def test_eager_is_traced(text: str) -> None:
    tx = build(text)
    grads = [_odd(seed) for seed in (1, 2, 3)]
    traced = _run(build(text), 3, 0, _odd(0), grads)
    assert_close(traced, _loop(tx, _odd(0), tx.init(_odd(0)), grads), rtol=2e-4, atol=1e-5)
