"""Tasks whose networks are functions of coordinates: a picture, and a differential equation."""

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.lab._optional import optional
from gradflow.lab._tasks._networks import mlp, mlp_init
from gradflow.lab._tasks._task import Batch, Params, Task

_BLOCK = 8  # pixels of the photograph per pixel of the task, along each side
_WAVES, _FINEST = 32, 4.0


def image() -> Task:
    """Predicts the color at each place of a photograph from scikit-learn, at 80 x 53 pixels.

    Places are encoded as sines and cosines of random waves (Tancik et al. 2020), since a network of plain
    coordinates learns no fine detail. A fifth of the pixels are kept for the test.
    """
    datasets = optional("sklearn.datasets", "the task 'image'")
    optional("PIL", "the task 'image'")
    photo = np.asarray(datasets.load_sample_image("china.jpg"), np.float32) / 255
    height, width = (n // _BLOCK for n in photo.shape[:2])
    blocks = photo[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK, 3)
    colors = blocks.mean(axis=(1, 3)).reshape(-1, 3)
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    rng = np.random.default_rng(0)
    waves = rng.normal(scale=_FINEST, size=(2, _WAVES))
    phases = np.stack([rows.ravel(), columns.ravel()], axis=1) @ waves
    inputs = np.concatenate([np.sin(phases), np.cos(phases)], axis=1).astype(np.float32)
    order = rng.permutation(len(inputs))
    inputs, colors = inputs[order], colors[order]
    cut = len(inputs) * 4 // 5
    return Task(
        "image", mlp_init(2 * _WAVES, 64, 64, 3), _color_loss, (inputs[:cut], colors[:cut]), 256, 5e-3,
        (inputs[cut:], colors[cut:]), _signal_to_noise, "test PSNR in dB", steps=1000,
    )  # fmt: skip


def _color_loss(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean((mlp(params, x) - y) ** 2)


def _signal_to_noise(params: Params, batch: Batch) -> jax.Array:
    return -10 * jnp.log10(_color_loss(params, batch))


_DAMPING, _STIFFNESS, _END = 0.4, 4.0, 6.0


def ode() -> Task:
    """Solves a damped oscillator by its residual.

        u'' + 0.4 u' + 4 u = 0,  u(0) = 1,  u'(0) = 0,  on [0, 6]

    `u(t) = 1 + t^2 network(t)` satisfies both conditions, so the loss is the mean square of the residual at
    64 points. They are one batch, always the same, which L-BFGS and line searches require.
    """
    points = np.linspace(0, _END, 64, dtype=np.float32)
    fine = np.linspace(0, _END, 201, dtype=np.float32)
    decay = _DAMPING / 2
    pace = np.sqrt(_STIFFNESS - decay**2)
    exact = np.exp(-decay * fine) * (np.cos(pace * fine) + decay / pace * np.sin(pace * fine))
    return Task(
        "ode", mlp_init(1, 24, 24, 1), _residual, points[None], None, 0.01,
        (fine, exact.astype(np.float32)), _digits_right, "digits right", steps=500,
    )  # fmt: skip


def _solution(params: Params, t: jax.Array) -> jax.Array:
    network = mlp(params, jnp.reshape(t / _END * 2 - 1, (1, 1)), jnp.tanh)
    return 1 + (t / _END) ** 2 * jnp.reshape(network, ()) * _END


def _residual(params: Params, points: jax.Array) -> jax.Array:
    def at(t: jax.Array) -> jax.Array:
        def u(t: jax.Array) -> jax.Array:
            return _solution(params, t)

        value, slope = jax.value_and_grad(u)(t)
        return jax.grad(jax.grad(u))(t) + _DAMPING * slope + _STIFFNESS * value

    return jnp.mean(jax.vmap(at)(points) ** 2)


def _digits_right(params: Params, test: Batch) -> jax.Array:
    """Minus the decimal logarithm of the largest error of the solution."""
    t, exact = test
    error = jax.vmap(lambda t: _solution(params, t))(t) - exact
    return -jnp.log10(jnp.max(jnp.abs(error)))
