"""Problems to train on: small models on real data that comes with installed packages."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.lab._names import unknown
from gradflow.lab._optional import optional
from gradflow.lab._task import Batch, Params, Task, mlp, mlp_init
from gradflow.lab._task_coordinates import image, ode
from gradflow.losses import sigmoid_binary_cross_entropy as binary_cross_entropy
from gradflow.losses import softmax_cross_entropy_with_integer_labels as cross_entropy
from gradflow.losses import squared_error


def _class_loss(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean(cross_entropy(mlp(params, x), y))


def _class_accuracy(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean(jnp.argmax(mlp(params, x), axis=-1).astype(y.dtype) == y)


def _binary_loss(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean(binary_cross_entropy(mlp(params, x)[:, 0], y))


def _binary_accuracy(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean((mlp(params, x)[:, 0] > 0) == (y > 0.5))


def _value_loss(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean(squared_error(mlp(params, x)[:, 0], y))


def _r_squared(params: Params, batch: Batch) -> jax.Array:
    _, y = batch
    return 1 - _value_loss(params, batch) / jnp.mean((y - jnp.mean(y, keepdims=True)) ** 2)


def _load(name: str, y_dtype: Any, floor: float = 0.0) -> tuple[Batch, Batch]:
    """One of scikit-learn's data sets: four fifths to train, one fifth to test, inputs standardised.

    Deviations below `floor` count as `floor`: pixels that are nearly always blank would be blown up.
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


def _digits() -> Task:
    train, test = _load("digits", np.int32, floor=1.0)
    return Task(
        "digits", mlp_init(64, 32, 10), _class_loss, train, 64, 0.01,
        test, _class_accuracy, "test accuracy",
    )  # fmt: skip


def _breast_cancer() -> Task:
    train, test = _load("breast_cancer", np.float32)
    return Task(
        "breast_cancer", mlp_init(30, 16, 1), _binary_loss, train, 32, 0.02,
        test, _binary_accuracy, "test accuracy",
    )  # fmt: skip


def _diabetes() -> Task:
    train, test = _load("diabetes", np.float32)
    return Task(
        "diabetes", mlp_init(10, 16, 1), _value_loss, train, 32, 0.4,
        test, _r_squared, "test R^2",
    )  # fmt: skip


_CONTEXT, _SYMBOLS, _CODE = 8, 64, 8


def _text_init(key: jax.Array) -> Params:
    first, second = jax.random.split(key)
    table = 0.5 * jax.random.normal(first, (_SYMBOLS, _CODE))
    return {"table": table, "layers": mlp_init(_CONTEXT * _CODE, 64, _SYMBOLS)(second)}


def _text_inputs(params: Params, windows: jax.Array) -> tuple[Params, Batch]:
    codes = params["table"][windows[:, :-1]]
    return params["layers"], (codes.reshape(len(windows), -1), windows[:, -1])


def _text_loss(params: Params, batch: Batch) -> jax.Array:
    return _class_loss(*_text_inputs(params, batch))


def _text_accuracy(params: Params, batch: Batch) -> jax.Array:
    return _class_accuracy(*_text_inputs(params, batch))


def _text() -> Task:
    """Python's own help topics: from eight characters the ninth. The rarer characters are one symbol."""
    topics = importlib.import_module("pydoc_data.topics").topics
    text = "\n".join(topics[name] for name in sorted(topics))
    found = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    characters, places, counts = np.unique(found, return_inverse=True, return_counts=True)
    symbols = np.full(len(characters), _SYMBOLS - 1, np.int32)
    common = np.argsort(-counts, kind="stable")[: _SYMBOLS - 1]
    symbols[common] = np.arange(len(common), dtype=np.int32)
    codes = symbols[places]
    cut = len(codes) * 9 // 10
    train = np.lib.stride_tricks.sliding_window_view(codes[:cut], _CONTEXT + 1)
    test = np.lib.stride_tricks.sliding_window_view(codes[cut:], _CONTEXT + 1)
    rng = np.random.default_rng(0)
    train = train[rng.permutation(len(train))[:65536]]
    test = test[rng.permutation(len(test))[:4096]]
    return Task(
        "text", _text_init, _text_loss, train, 128, 2.0,
        test, _text_accuracy, "test accuracy", steps=1000,
    )  # fmt: skip


TASKS = {
    "digits": _digits,
    "breast_cancer": _breast_cancer,
    "diabetes": _diabetes,
    "text": _text,
    "image": image,
    "ode": ode,
}


def task_named(name: str) -> Task:
    """The task of that name; a ValueError with the near names for an unknown one."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]()


task = task_named  # the public name; inside the lab `task` is an argument


def own_task(loss_fn: Any, params: Any, batches: Any, steps: int, caller: str) -> Task:
    """A user's problem as a task. `compare` says what the three may be."""
    if loss_fn is None or params is None:
        raise TypeError(f"{caller}: your own problem needs both loss_fn and params")
    if not callable(loss_fn):
        raise TypeError(f"{caller}: argument 'loss_fn' must be a function of (params, batch)")
    is_function = callable(params) and jax.tree_util.all_leaves([params])
    init = params if is_function else lambda key: params
    if batches is None:
        # One batch without contents: the loss is a function of the parameters alone.
        return Task("your own", init, lambda p, _: loss_fn(p), np.zeros((1,), np.int32), None)
    if isinstance(batches, list) or hasattr(batches, "__next__"):
        taken = [batch for _, batch in zip(range(steps), batches, strict=False)]
        if not taken:
            raise ValueError(f"{caller}: argument 'batches' has no batch in it")
        batches = jax.tree.map(lambda *leaves: np.stack(leaves), *taken)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise ValueError(
            f"{caller}: argument 'batches' must be a list of batches, or a tree of arrays whose common "
            f"leading axis counts the batches; the leading axes are {sorted(lengths)}"
        )
    return Task("your own", init, loss_fn, jax.tree.map(np.asarray, batches), None)
