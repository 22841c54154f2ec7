"""Compiles whole training steps, from a function to its executable, next to Optax's.

`python -m benchmarks.compiling`, or some of it, as in `--only ppo --turns 3`. Times are processor time, on a
CPU; the libraries take turns. Programs are a VAE of 10 leaves, PPO's loss of two networks of 12, and a
transformer of six layers with biases and norms, 101 leaves.
"""

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradflow as gf
from benchmarks.exact import equations, kinds_of_kernels
from benchmarks.measure import ratio_of
from benchmarks.rows import Row, line
from gradflow._rules._traced_once import forget

Model = tuple[Any, Callable[[Any, Any], jax.Array], Any]


def _float(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _int(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _layer(inputs: int, outputs: int) -> Any:
    return {"w": _float(inputs, outputs), "b": _float(outputs)}


def _dense(layer: Any, x: jax.Array) -> jax.Array:
    return x @ layer["w"] + layer["b"]


def vae() -> Model:
    """A variational auto-encoder of digits, 784-400-20-400-784."""
    sizes = {"in": (784, 400), "mean": (400, 20), "spread": (400, 20), "back": (20, 400), "out": (400, 784)}

    def loss(p: Any, batch: Any) -> jax.Array:
        images, noise = batch
        h = jax.nn.relu(_dense(p["in"], images))
        mean, spread = _dense(p["mean"], h), _dense(p["spread"], h)
        logits = _dense(p["out"], jax.nn.relu(_dense(p["back"], mean + jnp.exp(spread / 2) * noise)))
        misfit = jnp.sum(jnp.logaddexp(0, logits) - logits * images, -1)
        return jnp.mean(misfit - 0.5 * jnp.sum(1 + spread - mean * mean - jnp.exp(spread), -1))

    return {k: _layer(*v) for k, v in sizes.items()}, loss, (_float(32, 784), _float(32, 20))


def ppo() -> Model:
    """The clipped loss of PPO with a policy 8-64-64-4 and a value 8-64-64-1."""
    policy, value = ((8, 64), (64, 64), (64, 4)), ((8, 64), (64, 64), (64, 1))
    params = {"policy": [_layer(*size) for size in policy], "value": [_layer(*size) for size in value]}

    def network(layers: Any, x: jax.Array) -> jax.Array:
        for layer in layers[:-1]:
            x = jnp.tanh(_dense(layer, x))
        return _dense(layers[-1], x)

    def loss(p: Any, batch: Any) -> jax.Array:
        states, actions, old, advantage, returns = batch
        logs = jax.nn.log_softmax(network(p["policy"], states))
        ratio = jnp.exp(jnp.take_along_axis(logs, actions[:, None], 1)[:, 0] - old)
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
        error = jnp.square(network(p["value"], states)[:, 0] - returns)
        return -jnp.mean(gain) + 0.5 * jnp.mean(error) + 0.01 * jnp.mean(jnp.sum(jnp.exp(logs) * logs, -1))

    return params, loss, (_float(64, 8), _int(64), _float(64), _float(64), _float(64))


def transformer(layers: int = 6, width: int = 64) -> Model:
    """A decoder of width 64 with four heads, for 128 tokens."""
    norm = {"scale": _float(width), "offset": _float(width)}
    square = {name: _layer(width, width) for name in "qkvo"}
    block = {
        **square,
        "up": _layer(width, 4 * width),
        "down": _layer(4 * width, width),
        "n1": norm,
        "n2": norm,
    }
    params = {
        "tokens": _float(128, width), "places": _float(32, width),
        "blocks": [block for _ in range(layers)], "last": norm, "out": _layer(width, 128),
    }  # fmt: skip

    def normed(p: Any, x: jax.Array) -> jax.Array:
        centered = x - x.mean(-1, keepdims=True)
        return (
            centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-5) * p["scale"]
            + p["offset"]
        )

    def attention(p: Any, x: jax.Array) -> jax.Array:
        q, k, v = (_dense(p[name], x).reshape(*x.shape[:-1], 4, width // 4) for name in "qkv")
        scores = jnp.einsum("bthd,bThd->bhtT", q, k) / 4
        weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((32, 32), bool)), scores, -1e30))
        return _dense(p["o"], jnp.einsum("bhtT,bThd->bthd", weights, v).reshape(x.shape))

    def loss(p: Any, tokens: Any) -> jax.Array:
        x = p["tokens"][tokens[:, :-1]] + p["places"]
        for own in p["blocks"]:
            x = x + attention(own, normed(own["n1"], x))
            x = x + _dense(own["down"], jax.nn.gelu(_dense(own["up"], normed(own["n2"], x))))
        logs = jax.nn.log_softmax(_dense(p["out"], normed(p["last"], x)))
        return -jnp.mean(jnp.take_along_axis(logs, tokens[:, 1:, None], -1))

    return params, loss, _int(4, 33)


MODELS: dict[str, Callable[[], Model]] = {"ppo": ppo, "vae": vae, "transformer": transformer}
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "adam": lambda library: library.adam(1e-3),
    "adamw": lambda library: library.adamw(1e-3),
    "clip + adam": lambda library: library.chain(library.clip_by_global_norm(0.5), library.adam(1e-3)),
    "adam + cosine": lambda library: library.adam(library.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)),
    "momentum": lambda library: library.sgd(0.1, momentum=0.9),
    "rmsprop": lambda library: library.rmsprop(1e-3),
    "adagrad": lambda library: library.adagrad(1e-3),
    "yogi": lambda library: library.yogi(1e-3),
    "lion": lambda library: library.lion(1e-4),
    "adafactor": lambda library: library.adafactor(1e-3),
    "lamb": lambda library: library.lamb(1e-3),
    "lars": lambda library: library.lars(1e-3),
}


def traced(library: Any, name: str, model: Model) -> Any:
    """The step of a library as jax traces it, when it holds nothing of earlier programs."""
    params, loss, batch = model
    tx = OPTIMIZERS[name](library)

    def step(params: Any, state: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return library.apply_updates(params, updates), state, value

    state = jax.eval_shape(tx.init, params)
    jax.clear_caches()
    forget()
    return jax.jit(step, donate_argnums=(0, 1)).trace(params, state, batch)


def compiling(name: str, model: str, turns: int) -> Row:
    """Compares the processor time of one step; the first turn, which loads modules, does not count."""
    seconds: list[list[float]] = [[], []]
    exact: dict[str, list[int]] = {"equations": [0, 0], "kinds": [0, 0]}
    for turn in range(turns + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            gc.collect()
            gc.freeze()
            start = time.process_time()
            program = traced((gf, optax)[which], name, MODELS[model]())
            compiled = program.lower().compile()
            took = time.process_time() - start
            gc.unfreeze()
            if turn:
                seconds[which].append(took)
            else:
                exact["equations"][which] = equations(program.jaxpr.jaxpr)
                exact["kinds"][which] = kinds_of_kernels(compiled.as_text())
    figures = {key: (pair[0], pair[1]) for key, pair in exact.items()}
    return Row(
        f"{model}, {name}", "trace, lower and compile a training step", ratio_of(*seconds), exact=figures
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiling", description=__doc__)
    parser.add_argument("--only", default=",".join(MODELS), help=f"programs: {', '.join(MODELS)}")
    parser.add_argument(
        "--optimizers", default="adam,adamw,clip + adam", help=f"their optimizers: {', '.join(OPTIMIZERS)}"
    )
    parser.add_argument("--turns", type=int, default=7, help="turns of both libraries")
    options = parser.parse_args(arguments)
    models, optimizers = options.only.split(","), options.optimizers.split(",")
    for argument, names, known in (("--only", models, MODELS), ("--optimizers", optimizers, OPTIMIZERS)):
        for name in names:
            if name not in known:
                parser.error(f"argument '{argument}' must name some of {', '.join(known)}; got '{name}'")
    for model in models:
        for name in optimizers:
            print(line(compiling(name, model, options.turns)), flush=True)


if __name__ == "__main__":
    main()
