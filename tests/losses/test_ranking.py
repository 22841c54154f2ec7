"""Lists: masks, weights and reductions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import losses
from losses.cases import compare, cross_entropy

RNG = np.random.default_rng(5)
X, Y, WEIGHTS = RNG.normal(size=(2, 3, 4)), RNG.random((2, 3, 4)), RNG.random((2, 3, 4))
WHERE = RNG.random((2, 3, 4)) < 0.6
WHERE[0, 0] = False
EACH = cross_entropy(np.where(WHERE, X, -1e9), np.where(WHERE, Y * WEIGHTS, 0))
rank = losses.ranking_softmax_loss


def inputs(dtype: Any = jnp.float32) -> list[Any]:
    return [jnp.asarray(a, dtype) for a in (X, Y, WEIGHTS)]


def test_reductions() -> None:
    x, y, weights = inputs()
    kwargs = {"where": jnp.asarray(WHERE), "weights": weights}
    compare(rank(x, y, **kwargs, reduce_fn=None), EACH, rtol=1e-5)
    compare(rank(x, y, **kwargs, reduce_fn=jnp.sum), EACH.sum(), rtol=1e-5)
    compare(rank(x, y, **kwargs), EACH.ravel()[1:].mean(), rtol=1e-5)
    compare(rank(x, y, **kwargs, reduce_fn=lambda a, where: (a.shape, where.shape)[1][0]), 2, rtol=0)
    compare(rank(x, y, weights=weights, reduce_fn=jnp.mean), cross_entropy(X, Y * WEIGHTS).mean(), rtol=1e-5)
    each = jnp.asarray([[[2.0], [0.0], [1.0]]] * 2)  # a weight for each list
    compare(rank(x, y, weights=each), rank(x, y, weights=jnp.broadcast_to(each, x.shape)), rtol=0)
    padded = np.where(WHERE, WEIGHTS, np.nan).astype(np.float32)  # NaN in what is left out
    compare(rank(x, y, where=jnp.asarray(WHERE), weights=padded), rank(x, y, **kwargs), rtol=0)
    assert rank(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16), weights=weights).dtype == jnp.bfloat16
    assert rank(x, jnp.ones((2, 3, 4), int)).dtype == jnp.float32


@pytest.mark.parametrize("reduce_fn", [jnp.mean, jnp.sum, None])
def test_lists_without_items_cost_nothing(reduce_fn: Any) -> None:
    x, y, _ = inputs()

    def f(x: Any, y: Any) -> Any:
        return jnp.sum(rank(x, y, where=jnp.zeros(x.shape, bool), reduce_fn=reduce_fn))

    value, gradients = jax.value_and_grad(f, (0, 1))(x * jnp.nan, y)
    assert value == 0
    assert not any(np.any(g) for g in gradients)


def test_where_may_name_whole_lists_and_single_lists_work() -> None:
    x, y, _ = inputs()
    lists = jnp.asarray([[True, False, True], [True, True, False]])
    plain = np.asarray(rank(x, y, reduce_fn=None))
    compare(rank(x, y, where=lists, reduce_fn=None), np.where(lists, plain, 0), rtol=1e-6)
    compare(rank(x, y, where=lists), plain[np.asarray(lists)].mean(), rtol=1e-6)
    compare(rank(x[0, 0], y[0, 0]), plain[0, 0], rtol=1e-6)


def test_extreme_scores_and_no_relevance() -> None:
    x = jnp.asarray([1e5, -1e5, 0.0], jnp.float32)
    compare(rank(x, jnp.asarray([1.0, 1.0, 0.0])), 2e5, rtol=1e-6)
    value, slope = jax.value_and_grad(rank)(x, jnp.zeros(3))
    assert value == 0
    assert not np.any(slope)


def test_mistakes() -> None:
    x, y, _ = inputs()
    with pytest.raises(
        ValueError,
        match=r"ranking_softmax_loss: argument 'weights' must be a scalar or broadcast to .*got \(3,\)",
    ):
        rank(x, y, weights=jnp.ones(3))
    with pytest.raises(
        ValueError, match=r"ranking_softmax_loss: argument 'where' must have the shape of the inputs"
    ):
        rank(x, y, where=WHERE[0])
    with pytest.raises(
        TypeError, match="ranking_softmax_loss: argument 'reduce_fn' must be a function or None; got 'mean'"
    ):
        rank(x, y, reduce_fn="mean")
    with pytest.raises(
        ValueError, match=r"ranking_softmax_loss: argument 'logits' must have shape \[..., items\]"
    ):
        rank(1.0, 1.0)
