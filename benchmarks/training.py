"""Measures a real training step: a small transformer of about 200 leaves, and the optimizer's share."""

import functools
import statistics
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradflow as gf
from benchmarks.measure import ratio_of, turns
from benchmarks.rows import Row


def transformer(layers: int, width: int, vocabulary: int = 512) -> Any:
    """Parameters of a decoder: 8 leaves per layer, embedding, last norm and head."""
    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> Any:
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)

    def layer() -> Any:
        return {
            "attention": {"qkv": matrix(width, 3 * width), "out": matrix(width, width)},
            "mlp": {
                "up": matrix(width, 4 * width), "up_bias": jnp.zeros(4 * width),
                "down": matrix(4 * width, width), "down_bias": jnp.zeros(width),
            },
            "norms": {"before_attention": jnp.ones(width), "before_mlp": jnp.ones(width)},
        }  # fmt: skip

    return {
        "embedding": matrix(vocabulary, width),
        "layers": [layer() for _ in range(layers)],
        "norm": jnp.ones(width),
        "head": matrix(width, vocabulary),
    }


def loss(params: Any, tokens: Any) -> Any:
    """Cross-entropy of the next token; four heads, causal."""

    def norm(x: Any, scale: Any) -> Any:
        return scale * x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)

    x = params["embedding"][tokens[:, :-1]]
    batch, length, width = x.shape
    causal = jnp.tril(jnp.ones((length, length), bool))
    for layer in params["layers"]:
        qkv = norm(x, layer["norms"]["before_attention"]) @ layer["attention"]["qkv"]
        q, k, v = (part.reshape(batch, length, 4, width // 4) for part in jnp.split(qkv, 3, axis=-1))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(width // 4)
        weights = jax.nn.softmax(jnp.where(causal, scores, -1e30), axis=-1)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, length, width)
        x = x + mixed @ layer["attention"]["out"]
        hidden = norm(x, layer["norms"]["before_mlp"]) @ layer["mlp"]["up"] + layer["mlp"]["up_bias"]
        x = x + jax.nn.gelu(hidden) @ layer["mlp"]["down"] + layer["mlp"]["down_bias"]
    logits = norm(x, params["norm"]) @ params["head"]
    return jnp.mean(gf.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]))


class _Training:
    """Training steps on one batch; without an optimizer only the gradients."""

    def __init__(self, tx: Any, apply: Any, layers: int, width: int, batch: Any) -> None:
        self.params = transformer(layers, width)
        self.state = tx.init(self.params) if tx else ()

        def step(params: Any, state: Any) -> Any:
            grads = jax.grad(loss)(params, batch)
            if tx is None:
                return grads, state
            updates, state = tx.update(grads, state, params)
            return apply(params, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1) if tx else ())

    def __call__(self) -> Any:
        out, self.state = self.step(self.params, self.state)
        if self.state != ():
            self.params = out
        return out


def training(quick: bool, every: bool) -> Iterator[Row]:
    """Measures the whole step against the peer's, the optimizer's share of it, and the cost of metrics."""
    layers, width, runs = (3, 64, 8) if quick else (24, 128, 12)
    batch = jnp.asarray(np.random.default_rng(1).integers(0, 512, (8, 65)))
    leaves = len(jax.tree.leaves(transformer(layers, 8)))
    make = functools.partial(_Training, layers=layers, width=width, batch=batch)
    plain = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(1e-3))
    peer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    ours, theirs = make(plain, gf.apply_updates), make(peer, optax.apply_updates)
    bare, measured = make(None, None), make(gf.with_metrics(plain), gf.apply_updates)
    times = turns([ours, theirs, bare, measured], runs)
    middle = [statistics.median(t) for t in times]
    yield Row("transformer", f"step, {leaves} leaves, clip + adamw", ratio_of(*times[:2]))
    shares = [100 * (1 - middle[2] / whole) for whole in middle[:2]]
    yield Row("transformer", "optimizer, % of the step", None, *shares)
    yield Row("with_metrics", "% more of a step", None, 100 * (middle[3] / middle[0] - 1))
