"""with_metrics: what is kept, for whom, and that nothing is computed without a collector."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"a": {"w": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])}, "c": jnp.array([0.0])}
GRADS = {"a": {"w": jnp.array([1.0, 2.0]), "b": jnp.array([2.0])}, "c": jnp.array([4.0])}


def measured(tx: Any, grads: Any = GRADS, params: Any = PARAMS) -> dict[str, float]:
    state = tx.init(PARAMS)
    _, state = jax.jit(tx.update)(grads, state, params)
    return {name: float(value) for name, value in gf.metrics(state).items()}


def test_norms_of_all_and_of_groups() -> None:
    found = measured(gf.with_metrics(gf.sgd(0.5), {"a": "a/**", "vectors": gf.size(2), "c": "c"}))
    expected = {
        "gradient_norm": 5.0, "update_norm": 2.5, "parameter_norm": 13.0, "update_ratio": 2.5 / 13,
        "nonfinite": 0.0,
        "a/gradient_norm": 3.0, "a/update_norm": 1.5, "a/parameter_norm": 13.0, "a/update_ratio": 1.5 / 13,
        "vectors/gradient_norm": np.sqrt(5.0), "vectors/update_norm": np.sqrt(5.0) / 2,
        "vectors/parameter_norm": 5.0, "vectors/update_ratio": np.sqrt(5.0) / 10,
        "c/gradient_norm": 4.0, "c/update_norm": 2.0, "c/parameter_norm": 0.0, "c/update_ratio": np.nan,
        "scale_by_learning_rate.learning_rate": 0.5,
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_entries_that_are_not_finite_are_counted() -> None:
    grads = {"a": {"w": jnp.array([jnp.nan, jnp.inf]), "b": jnp.array([1.0])}, "c": jnp.array([-jnp.inf])}
    assert measured(gf.with_metrics(gf.zero_nans()), grads)["nonfinite"] == 3
    assert measured(gf.with_metrics(gf.scale(1.0)), jax.tree.map(lambda g: g * 1e30, GRADS))["nonfinite"] == 0


def test_without_parameters_their_norms_are_unknown() -> None:
    found = measured(gf.with_metrics(gf.sgd(0.5), {"a": "a/**"}), params=None)
    assert np.isnan(found["parameter_norm"])
    assert np.isnan(found["a/update_ratio"])
    assert found["a/gradient_norm"] == 3.0


def test_groups_are_checked() -> None:
    with pytest.raises(ValueError, match="the pattern 'z/\\*' matches no parameter"):
        gf.with_metrics(gf.sgd(0.5), {"z": "z/*"}).init(PARAMS)
    with pytest.raises(TypeError, match="a selector must be"):
        gf.with_metrics(gf.sgd(0.5), {"z": 3})


def test_nobody_listening_costs_no_equation() -> None:
    """Stages that report are as long as before they did, until a collector is active."""
    quiet = gf.chain(gf.clip(0.5), gf.adamw(0.1))

    def equations(tx: Any, listen: bool = False) -> int:
        def update(grads: Any, state: Any, params: Any) -> Any:
            with gf.collecting() if listen else contextlib.nullcontext() as heard:
                updates, state = tx.update(grads, state, params)
            return updates, state, heard.values if heard else {}

        return len(jax.make_jaxpr(update)(GRADS, tx.init(PARAMS), PARAMS).eqns)

    assert equations(quiet) < equations(quiet, listen=True)
    assert equations(gf.with_metrics(quiet)) > equations(quiet)


def _loss(params: Any) -> jax.Array:
    return sum((jnp.sum(p**2) for p in jax.tree.leaves(params)), jnp.zeros(()))


@pytest.mark.parametrize(
    "tx",
    [
        gf.with_metrics(gf.with_metrics(gf.clip(1.0))),
        gf.with_metrics(gf.scale(0.5), {"a": "a/**", "all": "**"}),
        gf.with_metrics(gf.dadapt_adamw()),
        gf.with_metrics(gf.scale_by_backtracking_linesearch(2)),
        gf.MultiSteps(gf.lbfgs(linesearch=None), 1),
    ],
)
def test_after_an_eager_step_no_two_leaves_of_the_state_share_a_buffer(tx: Any) -> None:
    value, grads = jax.value_and_grad(_loss)(PARAMS)
    # A function among the arguments keeps the update from running as one program.
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS, value=value, grad=grads, value_fn=_loss)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state, PARAMS)) if leaf.size]
    assert len(set(pointers)) == len(pointers)
