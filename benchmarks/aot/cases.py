"""What is compiled: trees, steps, and transformations of both libraries."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gradflow as gf
from benchmarks import steps
from benchmarks.aot.platforms import Compiler
from benchmarks.programs import shapes

SIDE, LEAVES = 1024, 8


def outer(tx: Any, apply: Any, extra: Mapping[str, Any]) -> Callable[..., Any]:
    """A step whose gradients come from outside and are scaled here, as loss scaling does.

    The product belongs to whatever reads the gradient: it costs nothing, unless a program writes it out.
    """

    def step(params: Any, state: Any, grads: Any, scale: Any) -> Any:
        grads = jax.tree.map(lambda g: scale.astype(g.dtype) * g, grads)
        updates, state = tx.update(grads, state, params, **extra)
        return apply(params, updates), state

    return step


def network(tx: Any, apply: Any, extra: Mapping[str, Any]) -> Callable[..., Any]:
    """A step that makes its gradients: those of a network whose layers are the leaves."""

    def loss(params: Any, batch: Any) -> Any:
        for weights in jax.tree.leaves(params):
            batch = batch + jnp.tanh(batch @ weights)
        return jnp.mean(jnp.square(batch.astype(jnp.float32)))

    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params, **extra)
        return apply(params, updates), state

    return step


def _matrices(dtype: Any = jnp.float32, leaves: int = LEAVES) -> Any:
    return shapes(leaves, SIDE * SIDE, dtype)


def transformer(layers: int = 24, width: int = 256, vocabulary: int = 2048) -> Any:
    """The shapes of a small decoder: 195 leaves, from a bias to the embedding."""

    def of(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    layer = {
        "qkv": of(width, 3 * width), "out": of(width, width), "up": of(width, 4 * width),
        "up_bias": of(4 * width), "down": of(4 * width, width), "down_bias": of(width),
        "before_attention": of(width), "before_mlp": of(width),
    }  # fmt: skip
    return {
        "embedding": of(vocabulary, width),
        "layers": [layer for _ in range(layers)],
        "norm": of(width),
        "head": of(width, vocabulary),
    }


def _around(wrap: str, *arguments: Any, inner: Callable[[Any], Any] = lambda of: of.adamw(1e-3)) -> Any:
    """A wrapper of both libraries around the same transformation."""
    wrappers = getattr(optax, wrap, None) or getattr(optax.contrib, wrap)
    return (
        lambda: getattr(gf, wrap)(inner(gf), *arguments),
        lambda: wrappers(inner(optax), *arguments),
    )


def _before_adamw(stage: str, *arguments: Any) -> Any:
    """A stage of both libraries before AdamW."""
    return (
        lambda: gf.chain(getattr(gf, stage)(*arguments), gf.adamw(1e-3)),
        lambda: optax.chain(getattr(optax, stage)(*arguments), optax.adamw(1e-3)),
    )


def _even(step: Any, **_: Any) -> Any:
    return step % 2 == 0


# Wrappers and stages that are not in the benchmarks' pairs.
STAGES: Mapping[str, Any] = {
    "clip_by_block_rms + adamw": _before_adamw("clip_by_block_rms", 1.0),
    "adaptive_grad_clip + adamw": _before_adamw("adaptive_grad_clip", 0.01),
    "clip + adamw by value": _before_adamw("clip", 1.0),
    "centralize + adamw": _before_adamw("centralize"),
    "zero_nans + adamw": _before_adamw("zero_nans"),
    "normalize_by_update_norm + adamw": _before_adamw("normalize_by_update_norm"),
    "add_noise + adamw": _before_adamw("add_noise", 0.01, 0.55, 0),
    "ema + adamw": _before_adamw("ema", 0.9),
    "scale_by_trust_ratio": (lambda: gf.scale_by_trust_ratio(), lambda: optax.scale_by_trust_ratio()),
    "apply_every(4) after adamw": (
        lambda: gf.chain(gf.adamw(1e-3), gf.apply_every(4)),
        lambda: optax.chain(optax.adamw(1e-3), optax.apply_every(4)),
    ),
    "conditionally_transform(adamw)": _around("conditionally_transform", _even),
    "conditionally_mask(adamw)": _around("conditionally_mask", _even),
    "mechanize(adamw)": _around("mechanize"),
    "schedule_free(sgd)": (
        lambda: gf.schedule_free_sgd(1e-3),
        lambda: optax.contrib.schedule_free_sgd(1e-3),
    ),
    "MultiSteps(clip + adamw, 4)": _around(
        "MultiSteps", 4, inner=lambda of: of.chain(of.clip_by_global_norm(1.0), of.adamw(1e-3))
    ),
    "apply_if_finite(clip + adamw)": _around(
        "apply_if_finite", 3, inner=lambda of: of.chain(of.clip_by_global_norm(1.0), of.adamw(1e-3))
    ),
}  # fmt: skip

# What takes a compiler minutes.
SKIPPED = {("v5e", "galore"): "its singular values take minutes to compile, for either library"}

MAIN = (
    "adamw", "clip + adamw", "apply_if_finite(adamw)", "MultiSteps(adamw, 4)", "lion", "lamb", "adafactor",
    "novograd",
)  # fmt: skip


def pair(name: str) -> tuple[Any, Any]:
    """A named optimizer, stage or wrapper of both libraries."""
    if name in steps.PAIRS or name in STAGES:
        ours, peer = {**steps.PAIRS, **STAGES}[name]
        return ours(), peer()
    return steps.pair(name)


def names() -> list[str]:
    """All rows of one group: pairs, stages and wrappers, then the other optimizers of both libraries."""
    listed = [*steps.PAIRS, *STAGES]
    others = (name for name in steps.named() if name not in listed)
    return [*listed, *(name for name in others if steps.pair(name)[1] is not None)]


class Group(NamedTuple):
    """Rows that share a tree and where their gradients come from."""

    like: Callable[[], Any]
    step: Callable[..., Callable[..., Any]]
    names: Callable[[], Sequence[str]]


# `many` is `rules` with eight times as many leaves, for five times the time: it is compiled when it is named.
NAMED_ONLY = ("many",)
GROUPS: Mapping[str, Group] = {
    "rules": Group(_matrices, outer, names),
    "many": Group(lambda: _matrices(leaves=64), outer, names),
    "bfloat16": Group(lambda: _matrices(jnp.bfloat16), outer, lambda: MAIN[:5]),
    "network": Group(_matrices, network, lambda: MAIN),
    "transformer": Group(transformer, outer, lambda: MAIN[:4]),
}


def lowered(compiler: Compiler, group: Group, tx: Any, apply: Any, name: str) -> Any:
    """A step of one library, traced and lowered."""
    like = group.like()
    dtype = jax.tree.leaves(like)[0].dtype
    extra = {k: v if callable(v) else jnp.float32(v) for k, v in steps.EXTRA.get(name, {}).items()}
    rest: tuple[Any, ...] = (like, jax.ShapeDtypeStruct((), jnp.float32))
    if group.step is network:
        rest = (jax.ShapeDtypeStruct((SIDE // 4, SIDE), dtype),)
    state = jax.eval_shape(tx.init, like)
    return compiler.lower(group.step(tx, apply, extra), like, state, *rest)
