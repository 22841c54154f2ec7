"""A user's program, which type checkers accept as strictly as they can; `mypy` and pyright read it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gradflow as gf
from gradflow import lab
from gradflow.typing import Decay, OptState, Params, Rate, Schedule, Updates


class Model(NamedTuple):
    """Parameters as a named tuple: `apply_updates` keeps their type."""

    weight: jax.Array
    bias: jax.Array


class SlowState(NamedTuple):
    """The average of the updates."""

    average: Updates


@gf.transformation(reports=("norm",))
def slow(decay: Decay = 0.9) -> tuple[Any, Any]:
    """Averages the updates."""

    def init(params: Params) -> SlowState:
        return SlowState(gf.tree.zeros_like(params))

    def update(updates: Updates, state: SlowState, params: Params | None = None) -> tuple[Updates, SlowState]:
        kept = gf.tree.scale(decay, state.average)
        average = gf.tree.add(kept, gf.tree.scale(1 - decay, updates))
        gf.report("norm", lambda: gf.tree.norm(average))
        return average, SlowState(average)

    return init, update


def optimizer(learning_rate: Rate) -> gf.GradientTransformation:
    """A stage of one's own in a chain."""
    return gf.chain(gf.clip_by_global_norm(1.0), slow(0.5), gf.scale_by_learning_rate(learning_rate))


def loss_fn(model: Model, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean squared error of a line."""
    return jnp.mean((x * model.weight + model.bias - y) ** 2)


def train(steps: int = 3) -> Model:
    """Trains a line, with a schedule, and returns the model."""
    rate: Schedule = gf.linear_schedule(0.5, 0.1, steps)
    tx = optimizer(rate)
    model = Model(jnp.zeros(()), jnp.zeros(()))
    state: OptState = tx.init(model)
    x = jnp.linspace(-1.0, 1.0, 8)
    for _ in range(steps):
        grads = jax.grad(loss_fn)(model, x, 2 * x)
        updates, state = tx.update(grads, state, model)
        model = gf.apply_updates(model, updates)
    return model


def micro_steps() -> jax.Array:
    """Accumulation has methods of its own."""
    tx = gf.MultiSteps(gf.adam(1e-3), 2)
    return tx.has_updated(tx.init(train()))


def describe() -> str:
    """The lab is known to type checkers too."""
    result: gf.MinimizeResult = gf.minimize(lambda m: loss_fn(m, jnp.ones(2), jnp.ones(2)), train())
    return f"{lab.parse('adamw(1e-3)')} {result.status}"
