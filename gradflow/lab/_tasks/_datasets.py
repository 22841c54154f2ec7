"""Tasks on scikit-learn's data sets: small networks for classes and values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.lab._optional import optional
from gradflow.lab._tasks._networks import mlp, mlp_init
from gradflow.lab._tasks._task import Batch, Params, Task
from gradflow.losses import sigmoid_binary_cross_entropy as binary_cross_entropy
from gradflow.losses import softmax_cross_entropy_with_integer_labels as cross_entropy
from gradflow.losses import squared_error


def class_loss(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean(cross_entropy(mlp(params, x), y))


def class_accuracy(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean(jnp.argmax(mlp(params, x), axis=-1).astype(y.dtype) == y)


def binary_loss(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean(binary_cross_entropy(mlp(params, x)[:, 0], y))


def binary_accuracy(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean((mlp(params, x)[:, 0] > 0) == (y > 0.5))


def value_loss(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean(squared_error(mlp(params, x)[:, 0], y))


def r_squared(params: Params, batch: Batch) -> jax.Array:
    _, y = batch
    return 1 - value_loss(params, batch) / jnp.mean((y - jnp.mean(y, keepdims=True)) ** 2)


def _load(name: str, y_dtype: Any, floor: float = 0.0) -> tuple[Batch, Batch]:
    """Loads one of scikit-learn's data sets: four fifths to train, one fifth to test, standardized inputs.

    Standard deviations below `floor` count as `floor`, so that nearly constant pixels stay small.
    """
    datasets = optional("sklearn.datasets", f"the task '{name}'")
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = np.asarray(x, np.float32)[order], np.asarray(y, y_dtype)[order]
    cut = len(x) * 4 // 5
    mean, std = x[:cut].mean(axis=0, keepdims=True), x[:cut].std(axis=0, keepdims=True)
    x = (x - mean) / np.maximum(std, floor)
    if name == "diabetes":
        y = (y - y[:cut].mean(keepdims=True)) / y[:cut].std(keepdims=True)
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def digits() -> Task:
    train, test = _load("digits", np.int32, floor=1.0)
    return Task(
        "digits", mlp_init(64, 32, 10), class_loss, train, 64, 0.01,
        test, class_accuracy, "test accuracy",
    )  # fmt: skip


def breast_cancer() -> Task:
    train, test = _load("breast_cancer", np.float32)
    return Task(
        "breast_cancer", mlp_init(30, 16, 1), binary_loss, train, 32, 0.02,
        test, binary_accuracy, "test accuracy",
    )  # fmt: skip


def diabetes() -> Task:
    train, test = _load("diabetes", np.float32)
    return Task(
        "diabetes", mlp_init(10, 16, 1), value_loss, train, 32, 0.4,
        test, r_squared, "test R^2",
    )  # fmt: skip
