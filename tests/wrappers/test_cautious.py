"""cautious: the mask, its three scalings, and what it must not wrap."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from equations import Memory, assert_follows

import gradflow as gf


def _momentum(m: Memory, g: Any) -> Any:
    m["mu"] = 0.9 * m.get("mu", 0) + g
    return m["mu"]


def by_count(m: Memory, g: Any, p: Any, t: int) -> Any:
    u = _momentum(m, g)
    mask = u * g > 0
    return u * mask * u.size / (np.sum(mask) + 1)


def by_mean(m: Memory, g: Any, p: Any, t: int) -> Any:
    u = _momentum(m, g)
    mask = u * g > 0
    return u * mask / max(np.mean(mask), 1e-3)


def by_nothing(m: Memory, g: Any, p: Any, t: int) -> Any:
    u = _momentum(m, g)
    return u * (u * g > 0)


@pytest.mark.parametrize(("rule", "scaling"), [(by_count, "count"), (by_mean, "mean"), (by_nothing, "none")])
def test_equations(rule: Any, scaling: Any) -> None:
    assert_follows(rule, gf.cautious(gf.trace(0.9), scaling))


def test_tiny_numbers_agree_too() -> None:
    g = jnp.asarray([1e-30, -1e-30, 1e-30], jnp.float32)
    u, _ = gf.cautious(gf.identity(), "none").update(g, gf.identity().init(g))
    np.testing.assert_array_equal(u, g)


@pytest.mark.parametrize(
    "inner",
    [
        gf.adamw(0.1),
        gf.chain(gf.trace(0.9), gf.scale(-0.1)),
        gf.step_on_hyperball(0.1),
        gf.inject_hyperparams(gf.sgd)(learning_rate=0.1),
    ],
)
def test_a_rate_inside_is_refused(inner: Any) -> None:
    with pytest.raises(ValueError, match=r"cautious: .*'inner' must not apply the learning rate.*Wrap"):
        gf.cautious(inner)


def test_other_numbers_of_a_state_are_not_rates() -> None:
    gf.cautious(gf.inject_hyperparams(gf.scale_by_adam)(b1=0.9))


def test_an_unknown_scaling_is_refused() -> None:
    with pytest.raises(ValueError, match="cautious: argument 'scaling'"):
        gf.cautious(gf.identity(), "sum")  # type: ignore[arg-type]
