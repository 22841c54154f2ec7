"""Proximal operators minimize what they say: optimality conditions and closed forms."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import gradflow as gf
from gradflow.proximals._groups import denoised

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(4, 3))

PENALTIES: dict[str, Any] = {
    "l1": gf.l1_penalty(0.3),
    "ridge": gf.ridge_penalty(0.7),
    "elastic net": gf.elastic_net_penalty(0.3, 0.7),
    "group": gf.group_lasso_penalty(0.8, axis=1),
    "group of a leaf": gf.group_lasso_penalty(0.8),
    "sparse group": gf.sparse_group_lasso_penalty(0.2, 0.5, axis=(0,)),
    "nuclear": gf.nuclear_norm_penalty(0.9),
    "total variation": gf.total_variation_penalty(0.4, axis=0),
}
SETS = {"nonnegative": gf.nonnegative_l1_penalty(0.2), "box": gf.box_constraint(-0.5, MATRIX[:1] * 0 + 0.25)}


@pytest.fixture(autouse=True)
def _float64() -> Any:
    with jax.enable_x64(True):
        yield


def _objective(penalty: Any, p: Any, x: Any, step: float) -> float:
    return float(0.5 * jnp.sum((p - x) ** 2) + step * penalty.amount(p))


@pytest.mark.parametrize("name", [*PENALTIES, *SETS])
def test_the_result_is_the_minimum(name: str) -> None:
    penalty, step = {**PENALTIES, **SETS}[name], 0.6
    p = penalty(jnp.asarray(MATRIX), step)
    best = _objective(penalty, p, MATRIX, step)
    assert np.isfinite(best)
    # The objective is strongly convex: |q - p|^2 / 2 is what it grows by at least, in every direction.
    for scale in (1e-3, 0.1, 1.0):
        for _ in range(20):
            q = (
                penalty(p + scale * RNG.normal(size=p.shape), 0.0)
                if name in SETS
                else p + scale * RNG.normal(size=p.shape)
            )
            grown = _objective(penalty, q, MATRIX, step) - best
            assert grown >= 0.5 * float(jnp.sum((q - p) ** 2)) * (1 - 1e-9) - 1e-12


@pytest.mark.parametrize("name", PENALTIES)
def test_derivatives(name: str) -> None:
    call = jax.jit(lambda x: PENALTIES[name](x, 0.6))
    check_grads(call, (jnp.asarray(MATRIX),), 1, ("rev",), 1e-5, 1e-5)


def test_derivatives_at_a_kink_are_those_of_the_side_of_zero() -> None:
    for factory in (gf.l1_penalty, gf.nonnegative_l1_penalty, gf.group_lasso_penalty):
        assert jax.grad(factory(1.0))(1.0) == 0
    for bound in (0.0, 1.0):  # a number on its bound is inside, as for `projection_box`
        assert jax.grad(gf.box_constraint(0.0, 1.0))(bound) == 1
        assert jax.grad(lambda x: gf.projections.projection_box(x, 0.0, 1.0))(bound) == 1


def test_nan_is_not_hidden() -> None:
    x = jnp.asarray([jnp.nan, 2.0])
    for weight in (0.5, 1.0):  # of which 1 is what a missing norm would be divided by
        assert jnp.isnan(gf.group_lasso_penalty(weight)(x)).all()
    nan = jnp.asarray(jnp.nan)
    for box in (gf.box_constraint(nan), gf.box_constraint(None, nan)):
        assert jnp.isnan(box(jnp.ones(2))).all()
    assert jnp.isnan(gf.projections.projection_box(jnp.ones(2), nan, 2.0)).all()


@pytest.mark.parametrize("step", [-1.0, "a", jnp.ones(2)])
def test_a_step_is_a_scalar(step: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="l1_penalty: argument 'step' must be a real"):
        gf.l1_penalty(1.0)(jnp.ones(2), step)


@pytest.mark.parametrize(("size", "weight"), [(2, 0.3), (7, 0.5), (7, 0.0), (60, 2.0), (5, 100.0)])
def test_total_variation_has_its_dual_certificate(size: int, weight: float) -> None:
    y = np.cumsum(RNG.normal(size=size))
    x = np.asarray(denoised(jnp.asarray(y), jnp.asarray(weight)))
    dual, jump = np.cumsum(x - y), np.diff(x)
    assert abs(dual[-1]) < 1e-10
    assert np.all(np.abs(dual[:-1]) <= weight + 1e-10)
    np.testing.assert_allclose(dual[:-1][jump != 0], weight * np.sign(jump[jump != 0]), atol=1e-10)


def test_numbers_of_the_definitions() -> None:
    x = jnp.array([-3.0, -0.1, 0.0, 0.5, 2.0])
    np.testing.assert_allclose(gf.l1_penalty(0.5)(x), [-2.5, 0, 0, 0, 1.5])
    np.testing.assert_allclose(gf.nonnegative_l1_penalty(0.5)(x), [0, 0, 0, 0, 1.5])
    np.testing.assert_allclose(gf.elastic_net_penalty(0.5, 1.0)(x, 2.0), [-2 / 3, 0, 0, 0, 1 / 3])
    np.testing.assert_allclose(gf.l1_penalty(0.5)(jnp.array([3 + 4j, 0.3j])), [2.7 + 3.6j, 0])
    low = gf.nuclear_norm_penalty(1.0)(jnp.diag(jnp.array([3.0, 0.5])))
    np.testing.assert_allclose(low, np.diag([2.0, 0.0]), atol=1e-12)


@pytest.mark.parametrize("name", [*PENALTIES, *SETS])
def test_penalties_are_values(name: str) -> None:
    penalty = {**PENALTIES, **SETS}[name]
    assert pickle.loads(pickle.dumps(penalty)) == penalty
    if name != "box":  # arrays have no short text
        assert gf.from_config(gf.to_config(penalty)) == penalty
        assert eval(repr(penalty), {n: getattr(gf, n) for n in gf.proximals.__all__}) == penalty


@pytest.mark.parametrize("name", [*PENALTIES, *SETS])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes_and_nan(name: str, dtype: str) -> None:
    penalty = {**PENALTIES, **SETS}[name]
    x = jnp.asarray(MATRIX, dtype)
    out = penalty({"a": x, "none": None}, 0.6)["a"]
    assert out.dtype == x.dtype
    wide = penalty(x.astype(jnp.float64), 0.6)
    np.testing.assert_allclose(out.astype(float), wide, atol=4 * float(jnp.finfo(dtype).eps))
    if name != "nuclear":
        assert bool(jnp.isnan(penalty(x.at[1, 1].set(jnp.nan))).any())
    assert penalty({}) == {}


def test_weights_are_batched_and_traced() -> None:
    x = jnp.arange(-2.0, 3.0)
    many = jax.vmap(lambda w: gf.l1_penalty(w)(x))(jnp.array([0.5, 1.5]))
    np.testing.assert_allclose(many, [gf.l1_penalty(0.5)(x), gf.l1_penalty(1.5)(x)])
    as_argument = jax.jit(lambda penalty, x: penalty(x))(gf.l1_penalty(jnp.asarray(0.5)), x)
    np.testing.assert_allclose(as_argument, many[0])
    slope = jax.grad(lambda w: jnp.sum(gf.l1_penalty(w)(x) ** 2))(0.5)
    np.testing.assert_allclose(slope, -2 * (1.5 + 0.5) * 2)


def test_own_penalties() -> None:
    @gf.penalty
    def huber(weight: gf.typing.NonNegative) -> gf.PenaltyRule:
        """A penalty that is quadratic near zero."""
        return gf.PenaltyRule(lambda x, step: x / (1 + step * weight), lambda x: weight / 2 * jnp.sum(x**2))

    np.testing.assert_allclose(huber(1.0)(jnp.ones(2), 1.0), 0.5)
    assert repr(huber(1.0)) == "huber(1.0)"
