"""The task of a small transformer that predicts every next character of a window of text."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.lab._tasks._task import Batch, Params, Task
from gradflow.lab._tasks._text import SYMBOLS, topics

_CONTEXT, _WIDTH, _HEADS, _LAYERS = 32, 64, 4, 2
_TRAIN_WINDOWS, _TEST_WINDOWS = 16384, 64


def transformer_init(width: int = _WIDTH) -> Callable[[jax.Array], Params]:
    """A function that draws the parameters of a transformer of this width from a key."""

    def init(key: jax.Array) -> Params:
        keys = iter(jax.random.split(key, 2 + 4 * _LAYERS))

        def kernel(rows: int, columns: int) -> jax.Array:
            return jax.random.normal(next(keys), (rows, columns)) / jnp.sqrt(float(rows))

        return {
            "embedding": 0.02 * jax.random.normal(next(keys), (SYMBOLS, width)),
            "positions": 0.02 * jax.random.normal(next(keys), (_CONTEXT, width)),
            "layers": [
                {
                    "attention_norm": jnp.ones(width),
                    "qkv": kernel(width, 3 * width),
                    "out": kernel(width, width),
                    "mlp_norm": jnp.ones(width),
                    "up": kernel(width, 4 * width),
                    "down": kernel(4 * width, width),
                }
                for _ in range(_LAYERS)
            ],
            "norm": jnp.ones(width),
        }

    return init


def _normalized(x: jax.Array, scale: jax.Array) -> jax.Array:
    return scale[None, None] * x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def _attention(x: jax.Array, qkv: jax.Array, out: jax.Array) -> jax.Array:
    count, length, width = x.shape
    heads = (x @ qkv).reshape(count, length, 3, _HEADS, width // _HEADS)
    q, k, v = heads[:, :, 0], heads[:, :, 1], heads[:, :, 2]
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(float(width // _HEADS))
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool))[None, None], scores, -1e9)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return mixed.reshape(count, length, width) @ out


def _log_probabilities(params: Params, inputs: jax.Array) -> jax.Array:
    x = params["embedding"][inputs] + params["positions"][None]
    for layer in params["layers"]:
        x = x + _attention(_normalized(x, layer["attention_norm"]), layer["qkv"], layer["out"])
        x = x + jax.nn.gelu(_normalized(x, layer["mlp_norm"]) @ layer["up"]) @ layer["down"]
    return jax.nn.log_softmax(_normalized(x, params["norm"]) @ params["embedding"].T)


def transformer_loss(params: Params, windows: Batch) -> jax.Array:
    """The mean cross-entropy of each character of the windows but their first."""
    log_p = _log_probabilities(params, windows[:, :-1])
    return -jnp.mean(jnp.take_along_axis(log_p, windows[:, 1:, None], axis=-1))


def _accuracy(params: Params, windows: Batch) -> jax.Array:
    found = jnp.argmax(_log_probabilities(params, windows[:, :-1]), axis=-1)
    return jnp.mean((found == windows[:, 1:]).astype(jnp.float32))


def transformer() -> Task:
    """Predicts the next character of 32 in Python's help topics by two layers of attention, width 64."""
    train, test = topics()
    rng = np.random.default_rng(0)

    def windows(codes: np.ndarray, count: int) -> np.ndarray:
        every = np.lib.stride_tricks.sliding_window_view(codes, _CONTEXT + 1)
        return every[rng.choice(len(every), count, replace=False)]

    return Task(
        "transformer", transformer_init(), transformer_loss, windows(train, _TRAIN_WINDOWS), 16, 2.4,
        windows(test, _TEST_WINDOWS), _accuracy, "test accuracy", steps=300,
    )  # fmt: skip
