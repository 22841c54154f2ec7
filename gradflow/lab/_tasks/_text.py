"""The task of predicting the next character of a text."""

import importlib

import jax
import numpy as np

from gradflow.lab._tasks._datasets import class_accuracy, class_loss
from gradflow.lab._tasks._networks import mlp_init
from gradflow.lab._tasks._task import Batch, Params, Task

SYMBOLS = 64
_CONTEXT, _CODE = 8, 8


def _text_init(key: jax.Array) -> Params:
    first, second = jax.random.split(key)
    table = 0.5 * jax.random.normal(first, (SYMBOLS, _CODE))
    return {"table": table, "layers": mlp_init(_CONTEXT * _CODE, 64, SYMBOLS)(second)}


def _text_inputs(params: Params, windows: jax.Array) -> tuple[Params, Batch]:
    codes = params["table"][windows[:, :-1]]
    return params["layers"], (codes.reshape(len(windows), -1), windows[:, -1])


def _text_loss(params: Params, batch: Batch) -> jax.Array:
    return class_loss(*_text_inputs(params, batch))


def _text_accuracy(params: Params, batch: Batch) -> jax.Array:
    return class_accuracy(*_text_inputs(params, batch))


def topics() -> tuple[np.ndarray, np.ndarray]:
    """The symbols of Python's help topics, for training and for tests; rare characters share one symbol."""
    topics = importlib.import_module("pydoc_data.topics").topics
    text = "\n".join(topics[name] for name in sorted(topics))
    found = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    characters, places, counts = np.unique(found, return_inverse=True, return_counts=True)
    symbols = np.full(len(characters), SYMBOLS - 1, np.int32)
    common = np.argsort(-counts, kind="stable")[: SYMBOLS - 1]
    symbols[common] = np.arange(len(common), dtype=np.int32)
    codes = symbols[places]
    cut = len(codes) * 9 // 10
    return codes[:cut], codes[cut:]


def text() -> Task:
    """Predicts the ninth character from eight, in Python's help topics; rare characters share one symbol."""
    train, test = topics()
    train = np.lib.stride_tricks.sliding_window_view(train, _CONTEXT + 1)
    test = np.lib.stride_tricks.sliding_window_view(test, _CONTEXT + 1)
    rng = np.random.default_rng(0)
    train = train[rng.permutation(len(train))[:65536]]
    test = test[rng.permutation(len(test))[:4096]]
    return Task(
        "text", _text_init, _text_loss, train, 128, 2.0,
        test, _text_accuracy, "test accuracy", steps=1000,
    )  # fmt: skip
