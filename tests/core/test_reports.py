"""Reports: where they go, what they cost, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf


@gf.transformation(reports=("total", "twice"))
def totals() -> Any:
    """Reports the sum of the updates."""

    def update(updates: Any, state: gf.EmptyState, params: Any = None) -> Any:
        gf.report("total", lambda: jnp.sum(updates["w"]))
        gf.report("twice", lambda: 2 * jnp.sum(updates["w"]))
        return updates, state

    return gf.init_empty_state, update


PARAMS = {"w": jnp.arange(3.0)}


def test_metrics_are_named_by_stage_and_hold_the_values() -> None:
    tx = gf.with_metrics(gf.chain(totals(), gf.scale(2.0), totals(), gf.adam(0.1)))
    state = tx.init(PARAMS)
    names = {
        "totals[0].total", "totals[0].twice", "totals[1].total", "totals[1].twice",
        "adam.scale_by_learning_rate.learning_rate",
        "gradient_norm", "update_norm", "parameter_norm", "update_ratio", "nonfinite",
    }  # fmt: skip
    assert set(gf.metrics(state)) == names
    assert all(np.isnan(v) and v.dtype == jnp.float32 for v in gf.metrics(state).values())
    updates, state = jax.jit(tx.update)(PARAMS, state, PARAMS)
    seen = gf.metrics(state)
    assert seen["totals[0].total"] == 3.0
    assert seen["totals[1].twice"] == 12.0
    assert seen["adam.scale_by_learning_rate.learning_rate"] == jnp.float32(0.1)
    np.testing.assert_allclose(seen["gradient_norm"], np.sqrt(5.0), rtol=1e-6)
    np.testing.assert_allclose(seen["update_norm"], np.linalg.norm(updates["w"]), rtol=1e-6)


def test_in_scan_and_cond() -> None:
    tx = gf.with_metrics(gf.chain(totals(), gf.scale(2.0)))

    def body(state: Any, g: Any) -> Any:
        state = jax.lax.cond(g > 0, lambda s: tx.update({"w": jnp.full(3, g)}, s)[1], lambda s: s, state)
        return state, gf.metrics(state)["totals.total"]

    _, seen = jax.lax.scan(body, tx.init(PARAMS), jnp.asarray([1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(seen, [3.0, 3.0, 6.0])


def test_collectors_nest_and_pass_on() -> None:
    inner = gf.with_metrics(totals())
    outer = gf.with_metrics(gf.chain(inner, gf.scale(3.0)))
    _, state = outer.update(PARAMS, outer.init(PARAMS), PARAMS)
    seen = gf.metrics(state)
    assert seen["with_metrics.totals.total"] == 3.0
    assert not any(np.isnan(v) for v in seen.values())


def test_collecting_by_hand() -> None:
    tx = gf.chain(totals(), gf.scale_by_learning_rate(lambda count: jnp.float32(0.5)))
    with gf.collecting() as heard:
        tx.update(PARAMS, tx.init(PARAMS))
    assert {k: float(v) for k, v in heard.values.items()} == {
        "totals.total": 3.0,
        "totals.twice": 6.0,
        "scale_by_learning_rate.learning_rate": 0.5,
    }


def test_uncollected_reports_cost_no_equation() -> None:
    def equations(tx: Any) -> int:
        names = [each.primitive.name for each in jax.make_jaxpr(tx.update)(PARAMS, tx.init(PARAMS)).eqns]
        return len(names) - names.count("in_one_array")  # which computes nothing

    assert equations(gf.chain(totals(), gf.scale(2.0))) == equations(gf.scale(2.0))
    assert equations(gf.with_metrics(gf.chain(totals(), gf.scale(2.0)))) > equations(gf.scale(2.0))


def _stage(body: Any, reports: tuple[str, ...] = ("x",)) -> Any:
    @gf.transformation(reports=reports)
    def odd() -> Any:
        def update(updates: Any, state: gf.EmptyState, params: Any = None) -> Any:
            return body(updates), state

        return gf.init_empty_state, update

    return gf.with_metrics(odd())


def _reporting(updates: Any) -> Any:
    gf.report("x", jnp.sum(updates["w"]))
    return updates


@pytest.mark.parametrize(
    "body",
    [
        jax.jit(_reporting),
        jax.vmap(lambda u: _reporting({"w": u["w"][None]})),
        lambda u: jax.lax.cond(True, _reporting, lambda u: u, u),
    ],
)
def test_a_report_that_cannot_leave_is_an_error(body: Any) -> None:
    tx = _stage(lambda u: jax.tree.map(lambda x: x.reshape(3), body(u)))
    with pytest.raises(RuntimeError, match=r"odd: report\('x'\)"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_undeclared_and_non_scalar_reports_are_refused() -> None:
    tx = _stage(_reporting, reports=("y",))
    with pytest.raises(ValueError, match=r"odd: report\('x'\) must be declared; got \['y'\]"):
        tx.update(PARAMS, tx.init(PARAMS))

    def vector(updates: Any) -> Any:
        gf.report("x", updates["w"])
        return updates

    tx = _stage(vector)
    with pytest.raises(ValueError, match=r"must be a scalar; got shape \(3,\)"):
        tx.update(PARAMS, tx.init(PARAMS))
    with pytest.raises(RuntimeError, match="inside the update of a stage"):
        gf.report("x", 1.0)


def test_metrics_of_a_state_that_keeps_none() -> None:
    with pytest.raises(ValueError, match="Wrap the transformation in with_metrics"):
        gf.metrics(gf.adam(0.1).init(PARAMS))
