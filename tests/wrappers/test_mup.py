"""mup_factors: the published table, and updates whose size does not depend on the width."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf


def _network(width: int) -> Any:
    shapes = {"in": {"kernel": (8, width), "bias": (width,)}, "hidden": (width, width), "out": (width, 3)}
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


TABLE = {
    "adam": {"in/kernel": 1.0, "in/bias": 1.0, "hidden": 0.25, "out": 0.25},
    "sgd": {"in/kernel": 4.0, "in/bias": 4.0, "hidden": 1.0, "out": 0.25},
    "spectral": {"in/kernel": 2.0, "in/bias": 2.0, "hidden": 1.0, "out": 0.5},
}


@pytest.mark.parametrize("rule", TABLE)
def test_the_published_table(rule: Any) -> None:
    assert gf.mup_factors(_network(256), _network(64), rule) == TABLE[rule]


def test_a_first_adam_step_changes_the_output_equally_at_every_width() -> None:
    """The change of a hidden layer's output, per unit, for a gradient of outer products."""

    def change(width: int) -> float:
        params = {"hidden": jnp.zeros((width, width))}
        factors = gf.mup_factors(params, {"hidden": jnp.zeros((64, 64))})
        tx = gf.chain(gf.adam(0.01), gf.scale_by_path(factors))
        x = jax.random.normal(jax.random.key(0), (width,))
        grads = {"hidden": jnp.outer(x, jnp.ones(width))}
        updates, _ = tx.update(grads, tx.init(params), params)
        return float(jnp.mean(jnp.abs(x @ updates["hidden"])))

    np.testing.assert_allclose(change(1024), change(64), rtol=0.15)


def test_trees_and_ranks_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match="one tree structure"):
        gf.mup_factors(_network(4), {})
    with pytest.raises(ValueError, match=r"'w' must have as many axes.*\(2, 2\) and \(2,\)"):
        gf.mup_factors({"w": jnp.ones((2, 2))}, {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="'rule'"):
        gf.mup_factors({}, {}, "lion")  # type: ignore[arg-type]


def test_two_parameters_of_one_path_are_refused() -> None:
    wide = {"net/~/out": np.ones((8, 2)), "net/out": np.ones((4, 2))}
    base = {"net/~/out": np.ones((4, 2)), "net/out": np.ones((4, 2))}
    with pytest.raises(ValueError, match="mup_factors: two parameters with the path 'net/out'"):
        gf.mup_factors(wide, base)
