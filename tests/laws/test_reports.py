"""Reports: every declared one is heard, and listening changes no update."""

import jax
import jax.numpy as jnp
import numpy as np
from specs import build, over_all
from trees import small

import gradflow as gf
from gradflow._core._transformation import declared_reports
from laws.support import run_interpreted


@over_all("reports")
def test_declared_reports_are_heard_and_change_nothing(case: str) -> None:
    tx = build(case)
    params, grads = small(0), small(1)
    listening = gf.with_metrics(tx)

    (expected,), _, _ = run_interpreted(tx, params, [grads])
    (updates,), _, state = run_interpreted(listening, params, [grads])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), updates, expected)
    heard = gf.metrics(state)
    own = declared_reports(gf.with_metrics(gf.identity()))
    assert set(heard) == {*own, *declared_reports(tx)}
    assert all(value.dtype == jnp.float32 for value in heard.values())
