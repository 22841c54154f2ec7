"""One rule, traced once per type of leaf; scalars that keep their digits."""

import inspect
import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program_size import count_equations

import gradflow as gf
import gradflow.optimizers
import gradflow.transforms  # both list their rules as they are imported
from gradflow._rules._leafwise import leafwise
from gradflow._rules._math import one_minus_power, safe_sqrt, short_sum
from gradflow._rules._state import increment
from gradflow._rules._traced_once import MARKED, evaluate, traced_once


def scaling_rule(g: Any, m: Any, s: Any) -> Any:
    return s.factor * g, m + g


def test_a_rule_is_traced_once_per_type_of_leaf() -> None:
    traces: list[str] = []

    def recording_rule(g: Any, m: Any, s: Any) -> Any:
        traces.append(str(g.dtype))
        return scaling_rule(g, m, s)

    grads = {i: jnp.ones(3 + i % 2, jnp.bfloat16 if i % 3 else jnp.float32) for i in range(60)}
    moments = jax.tree.map(lambda g: jnp.zeros(g.shape, jnp.float32), grads)
    for factor in (0.5, 0.25):
        jax.jit(lambda g, m, f=factor: leafwise(recording_rule, (g, m), factor=f))(grads, moments)
        leafwise(recording_rule, (grads, moments), factor=factor)
    assert len(traces) == 4  # two shapes, two dtypes
    assert set(traces) == {"float32"}  # arithmetic is never narrower


RULES = {rule.__name__: rule for rule in MARKED if rule.__module__.startswith("gradflow.")}


def test_the_marked_rules_are_known() -> None:
    assert {"adam_rule", "rms_rule", "trace_rule", "scale_rule", "decay_rule"} <= RULES.keys()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_marked_rule_is_the_same_program_for_a_leaf_as_it_is_written(rule: Any) -> None:
    count = rule.__code__.co_argcount - 1
    names = sorted(set(re.findall(r"\bs\.(\w+)", inspect.getsource(rule))))
    arrays = [jax.ShapeDtypeStruct((3, 5), jnp.float32)] * count
    scalars = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names}

    def written(arrays: Any, scalars: Any) -> Any:
        results = rule(*arrays, SimpleNamespace(**scalars))
        return results if isinstance(results, tuple) else (results,)

    def evaluated(arrays: Any, scalars: Any) -> Any:
        results = evaluate(written, arrays, scalars)
        assert results is not None
        return results

    assert str(jax.make_jaxpr(evaluated)(arrays, scalars)) == str(jax.make_jaxpr(written)(arrays, scalars))


def test_a_marked_rule_with_other_operations_is_called_for_each_shape() -> None:
    @traced_once
    def summing_rule(g: Any, s: Any) -> Any:
        return s.factor * g / jnp.sum(g)

    grads = {"w": jnp.ones((2, 3)), "b": jnp.ones(4)}
    u = jax.jit(lambda g: leafwise(summing_rule, (g,), factor=6.0)[0])(grads)
    np.testing.assert_allclose([u["w"][0, 0], u["b"][0]], [1.0, 1.5])


def test_a_marked_rule_has_its_derivatives() -> None:
    params = {"w": jnp.full((2, 3), 0.5), "b": jnp.full(4, 0.25)}
    tx = gf.adam(0.1)

    def moved(g: Any) -> Any:
        return gf.apply_updates(params, tx.update(g, tx.init(params), params)[0])

    eager, jitted = jax.jacfwd(moved)(params), jax.jit(jax.jacfwd(moved))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), eager, jitted)
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.jacfwd(moved)(zeros)))


def test_outputs_keep_the_dtypes_of_their_inputs() -> None:
    g, m = jnp.ones(2, jnp.float16), jnp.ones(2, jnp.float32)
    u, m2 = leafwise(scaling_rule, (g, m), factor=2.0)
    assert (u.dtype, m2.dtype) == (jnp.float16, jnp.float32)


def test_none_has_no_update_and_keeps_its_state() -> None:
    grads = {"a": jnp.ones(2), "b": None}
    moments = {"a": jnp.ones(2), "b": jnp.full((3,), 7.0)}
    u, m = leafwise(scaling_rule, (grads, moments), factor=2.0)
    assert u["b"] is None
    np.testing.assert_array_equal(m["b"], 7.0)
    with pytest.raises(ValueError, match="a gradient at 'b', where params or state have None"):
        leafwise(scaling_rule, ({"b": jnp.ones(2)}, {"b": None}), factor=1.0)


def test_three_hundred_optimizers_add_nothing_to_the_compiled_rules() -> None:
    from gradflow._rules._leafwise import _compiled

    params = {"w": jnp.ones(3)}
    gf.adam(0.1).update(params, gf.adam(0.1).init(params))
    before = _compiled.cache_info().currsize
    for i in range(300):
        gf.adam(0.1 + i / 1000)
    tx = gf.adam(0.3, b1=0.8)
    tx.update(params, tx.init(params))
    assert _compiled.cache_info().currsize == before


@pytest.mark.parametrize("b", [0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999])
@pytest.mark.parametrize("traced", [False, True])
def test_bias_correction_keeps_its_digits(b: float, traced: bool) -> None:
    """Against float64, for the float32 number nearest to b. A program for a CPU rounds once."""
    exact_b = float(np.float32(b))
    for t in (1, 2, 3, 10, 100, 1000, 10**5, 2**31 - 1):
        c = jnp.float32(1) - jnp.float32(b)
        function = jax.jit(one_minus_power) if traced else one_minus_power
        got = float(function(c, jnp.int32(t)))
        exact = -np.expm1(t * np.log(exact_b)) if exact_b > 0 else 1.0
        assert abs(got - exact) <= (6e-8 if traced else 3e-7) * exact


def test_a_count_stays_at_the_last_number() -> None:
    last = np.iinfo(np.int32).max
    assert [int(increment(jnp.int32(count))) for count in (0, last - 1, last)] == [1, last, last]


def test_roots_have_a_finite_slope_at_zero() -> None:
    assert jax.grad(safe_sqrt)(0.0) == 0.0
    assert jax.grad(safe_sqrt)(4.0) == 0.25
    assert jax.grad(jax.grad(safe_sqrt))(4.0) == pytest.approx(-1 / 32)


def test_leaves_traced_in_groups_have_the_numbers_of_single_ones() -> None:
    """Enough leaves of three types that there are whole groups and remainders."""
    shapes = [(3,), (2, 2), ()]
    grads = {i: jnp.full(shapes[i % 3], 1.0 + i, jnp.bfloat16 if i % 2 else jnp.float32) for i in range(67)}
    grads[30] = None
    moments = jax.tree.map(lambda g: g.astype(jnp.float32), grads)

    def run(g: Any, m: Any) -> Any:
        return leafwise(scaling_rule, (g, m), factor=0.5)

    jax.tree.map(np.testing.assert_array_equal, jax.jit(run)(grads, moments), run(grads, moments))


def _step(tx: Any) -> Any:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gf.apply_updates(params, updates), state

    return step


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="exact figures are those of jax 0.10")
@pytest.mark.parametrize(
    ("make", "most", "most_on_accelerators"),
    [
        (lambda: gf.adamw(0.1), 365, 390),
        (lambda: gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1)), 680, 815),
        (lambda: gf.MultiSteps(gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1)), 4), 850, 1170),
    ],
)
def test_equations_at_a_thousand_leaves(make: Any, most: int, most_on_accelerators: int) -> None:
    """A guard on the size of the program that a large model traces: no more than was reached."""
    params = {i: jnp.ones(4) for i in range(1000)}
    tx = make()
    jaxpr = jax.make_jaxpr(_step(tx))(params, tx.init(params), params)
    assert count_equations(jaxpr.jaxpr, set()) <= most
    assert count_equations(jaxpr.jaxpr, set(), -1) <= most_on_accelerators


def test_a_stage_that_steps_at_times_is_traced_once() -> None:
    calls = []

    @gf.transformation
    def counted() -> Any:
        def update(updates: Any, state: Any, params: Any = None) -> Any:
            calls.append(1)
            return updates, state

        return gf.init_empty_state, update

    params = {"w": jnp.ones(3)}
    for wrap in (lambda tx: gf.MultiSteps(tx, 2), lambda tx: gf.apply_if_finite(tx, 3)):
        tx = wrap(counted())
        state = tx.init(params)
        calls.clear()
        jax.make_jaxpr(_step(tx))(params, state, params)
        assert len(calls) == 1


def test_sums_in_chains_have_every_number_once() -> None:
    sizes = (0, 1, 7, 12, 50, 512, 520)
    numbers = [np.arange(1, n + 1, dtype=np.float32) for n in sizes]
    found = jax.jit(lambda arrays: [short_sum(x) for x in arrays])(numbers)
    assert [int(x) for x in found] == [n * (n + 1) // 2 for n in sizes]
    assert int(short_sum(jnp.arange(24.0).reshape(2, 3, 4))) == 276
