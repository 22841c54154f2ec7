"""reduce_on_plateau: when the scale falls, against PyTorch's rule in plain Python."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.ones(2)}


def scales(values: Any, **options: Any) -> list[float]:
    tx = gf.reduce_on_plateau(**options)
    step = jax.jit(tx.update)
    state, out = tx.init(PARAMS), []
    for value in values:
        updates, state = step(PARAMS, state, PARAMS, value=jnp.float32(value))
        assert float(updates["w"][0]) == float(state.scale)
        out.append(float(state.scale))
    return out


def by_hand(
    values: Any,
    factor: float,
    patience: int,
    rtol: float,
    atol: float,
    cooldown: int,
    size: int,
    least: float,
) -> list[float]:
    scale, best, bad, pause, out, window = 1.0, np.inf, 0, 0, [], []
    for value in values:
        window.append(value)
        if len(window) == size:
            mean = np.mean(window)
            window = []
            limit = np.inf if np.isinf(best) else best - rtol * abs(best) - atol
            better = mean < limit
            best = mean if better else best
            if pause > 0:
                pause, bad = pause - 1, 0
            else:
                bad = 0 if better else bad + 1
                if bad >= patience:
                    scale, bad, pause = max(scale * factor, least), 0, cooldown
        out.append(scale)
    return out


@pytest.mark.parametrize("shift", [0.0, -5.0])
@pytest.mark.parametrize(
    ("patience", "rtol", "atol", "cooldown", "size", "least"),
    [(2, 1e-4, 0.0, 0, 1, 0.0), (1, 0.1, 0.0, 2, 1, 0.0), (3, 0.0, 0.2, 1, 2, 0.3), (1, 0.0, 0.0, 0, 3, 0.0)],
)
def test_it_falls_when_the_rule_says(
    shift: float, patience: int, rtol: float, atol: float, cooldown: int, size: int, least: float
) -> None:
    rng = np.random.default_rng(0)
    values = shift + 2 * np.exp(-np.arange(40) / 5) + 0.1 * rng.normal(size=40)
    actual = scales(
        values, factor=0.5, patience=patience, rtol=rtol, atol=atol, cooldown=cooldown,
        accumulation_size=size, min_scale=least,
    )  # fmt: skip
    expected = by_hand(values, 0.5, patience, rtol, atol, cooldown, size, least)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert actual[-1] < 1


def test_negative_values_that_fall_are_improvements_and_others_are_not() -> None:
    assert scales([-1.0, -2.0, -3.0, -4.0], patience=1) == [1.0] * 4
    np.testing.assert_allclose(scales([-1.0, -1.0, -1.0], patience=1), [1.0, 0.1, 0.01], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e30, 3e38])
def test_values_that_are_no_numbers_are_no_improvement_and_are_forgotten(bad: float) -> None:
    np.testing.assert_allclose(scales([3.0, bad, 2.0, 1.0], patience=1), [1.0, 0.1, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(scales([bad, 3.0, 2.0, 1.0], patience=2), [1.0] * 4)
    tx = gf.reduce_on_plateau(patience=1, accumulation_size=2)
    state = tx.init(PARAMS)
    for value in (4.0, 2.0, bad, 1.0, 1.0, 0.5):
        _, state = tx.update(PARAMS, state, PARAMS, value=value)
    assert float(state.best_value) == 0.75
    assert float(state.scale) == 1.0


def test_a_scheduled_factor_follows_the_calls() -> None:
    steps = jnp.asarray([0.5, 0.25, 0.125])
    tx = gf.reduce_on_plateau(factor=lambda count: steps[count], patience=1)
    state, out = tx.init(PARAMS), []
    for _ in range(3):
        updates, state = tx.update(PARAMS, state, PARAMS, value=1.0)
        out.append(float(updates["w"][0]))
    assert out == [1.0, 0.25, 0.03125]


def test_mistakes_are_named() -> None:
    tx = gf.reduce_on_plateau()
    with pytest.raises(TypeError, match="needs the extra argument 'value'"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    with pytest.raises(TypeError, match="Did you mean 'value'"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, vlaue=1.0)
    with pytest.raises(ValueError, match=r"'value' \(the loss\) must be a real scalar; got float32\[2\]"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=jnp.ones(2))
    for name, wrong in {"factor": 1.0, "patience": 0, "rtol": -1.0, "accumulation_size": 0}.items():
        with pytest.raises(ValueError, match=f"reduce_on_plateau: argument '{name}'"):
            gf.reduce_on_plateau(**{name: wrong})
