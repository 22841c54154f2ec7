"""One generic call of every loss, with its formula in plain NumPy float64."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special

from gradflow import losses

Array = np.ndarray
RNG = np.random.default_rng(20)


def compare(actual: Any, expected: Any, **tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(actual, np.float64), np.asarray(expected, np.float64), **tolerance)


def normal(*shape: int) -> Array:
    return RNG.normal(size=shape)


def one_hot(labels: Array, classes: int) -> Array:
    return np.eye(classes)[labels]


def log_softmax(x: Array, axis: Any = -1) -> Array:
    return x - special.logsumexp(x, axis, keepdims=True)


def sigmoid_cross_entropy(x: Array, y: Array) -> Array:
    p = 1 / (1 + np.exp(-x))
    return -y * np.log(p) - (1 - y) * np.log(1 - p)


def focal(x: Array, y: Array, alpha: float, gamma: float) -> Array:
    p = 1 / (1 + np.exp(-x))
    miss = y * (1 - p) + (1 - y) * p
    return (alpha * y + (1 - alpha) * (1 - y)) * miss**gamma * sigmoid_cross_entropy(x, y)


def cross_entropy(x: Array, y: Array) -> Array:
    return -(y * log_softmax(x)).sum(-1)


def picked(x: Array, y: Array) -> Array:
    return np.take_along_axis(x, y[..., None], -1)[..., 0]


def cosine(a: Array, b: Array) -> Array:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def sparsemax(x: Array) -> Array:
    """The projection onto the simplex: of all supports, the one whose point is nearest."""
    nearest = None
    for size in range(1, x.size + 1):
        for support in itertools.combinations(range(x.size), size):
            p = np.zeros_like(x)
            p[list(support)] = x[list(support)] + (1 - x[list(support)].sum()) / size
            if (p >= 0).all() and (nearest is None or np.sum((p - x) ** 2) < np.sum((nearest - x) ** 2)):
                nearest = p
    assert nearest is not None
    return nearest


def sparsemax_losses(x: Array, y: Array) -> Array:
    rows = [(p @ s - s[k] + 0.5 * (1 - p @ p)) for s, k, p in zip(x, y, map(sparsemax, x), strict=True)]
    return np.array(rows)


def nt_xent(x: Array, y: Array, temperature: float) -> Array:
    s = cosine(x[:, None], x[None]) / temperature
    terms = []
    for i, j in itertools.permutations(range(len(x)), 2):
        if y[i] == y[j]:
            negatives = np.exp(s[i, y != y[i]]).sum()
            terms.append(-np.log(np.exp(s[i, j]) / (np.exp(s[i, j]) + negatives)))
    return np.mean(terms)


def triplet(a: Array, p: Array, n: Array, degree: float, margin: float, eps: float) -> Array:
    near, far = (((np.abs(d) ** degree).sum(-1) + eps) ** (1 / degree) for d in (a - p, a - n))
    return np.maximum(near - far + margin, 0)


def dice_per_class(p: Array, t: Array, smooth: float, alpha: float, beta: float) -> Array:
    axes = tuple(range(1, p.ndim - 1))
    both, ps, ts = (p * t).sum(axes), p.sum(axes), t.sum(axes)
    return 1 - (both + smooth) / (both + alpha * (ps - both) + beta * (ts - both) + smooth)


def generalized_dice(x: Array, t: Array) -> Array:
    weights = 1 / (t.sum(tuple(range(t.ndim - 1))) ** 2 + 1e-7)
    weights = weights / weights.sum() * len(weights)
    return (weights * dice_per_class(np.exp(log_softmax(x)), t, 1.0, 0.5, 0.5)).mean()


def ctc(x: Array, no_frame: Array, labels: Array, no_label: Array) -> Array:
    """The sum over all frame sequences that collapse to the labels, one by one."""
    out = []
    for row in range(len(x)):
        frames = log_softmax(x[row])[no_frame[row] == 0]
        wanted = [int(k) for k in labels[row][no_label[row] == 0]]
        total = 0.0
        for path in itertools.product(range(x.shape[2]), repeat=len(frames)):
            spelt = [k for k, _ in itertools.groupby(path) if k != 0]
            if spelt == wanted:
                total += np.exp(sum(frames[t, k] for t, k in enumerate(path)))
        out.append(-np.log(total))
    return np.array(out)


def log_sum_exp(scores: Any) -> Any:
    top = jnp.max(scores)
    return top + jnp.log(jnp.sum(jnp.exp(scores - top)))


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    args: tuple[Array, ...]
    reference: Callable[..., Array]
    kwargs: dict[str, Any] = field(default_factory=dict)
    differentiable: tuple[int, ...] = (0,)
    loss: Callable[..., Any] | None = None
    variant: str = ""

    def __call__(self, *args: Any) -> Any:
        return (self.loss or getattr(losses, self.name))(*args, **self.kwargs)

    def inputs(self, dtype: Any) -> list[Any]:
        return [jnp.asarray(a, dtype if a.dtype.kind == "f" else None) for a in self.args]

    def __str__(self) -> str:
        return self.name + (f"-{self.variant}" if self.variant else "")


X, T, U = normal(6, 5), normal(6, 5), normal(6, 5)
P = np.exp(log_softmax(T))
Y = RNG.integers(0, 5, 6).astype(np.int32)
BITS = (T > 0).astype(np.int32)
SIGNS = np.where(T > 0, 1.0, -1.0)
IMAGES, MASKS = normal(2, 3, 4, 5), one_hot(RNG.integers(0, 5, (2, 3, 4)), 5)
BINARY = (normal(2, 3, 4) > 0).astype(float)
GROUPS = np.array([0, 0, 1, 1, 1, 2], np.int32)
FRAMES = (
    normal(4, 4, 3),
    np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]], float),
    np.array([[1, 2], [2, 2], [1, 0], [0, 0]], np.int32),
    np.array([[0, 0], [0, 0], [0, 1], [1, 1]], float),
)

CASES = [
    Case("squared_error", (X, T), lambda x, t: (x - t) ** 2, differentiable=(0, 1)),
    Case("l2_loss", (X, T), lambda x, t: 0.5 * (x - t) ** 2, differentiable=(0, 1)),
    Case(
        "huber_loss",
        (X, T),
        lambda x, t: np.where(np.abs(x - t) <= 0.7, 0.5 * (x - t) ** 2, 0.7 * np.abs(x - t) - 0.5 * 0.7**2),
        {"delta": 0.7},
        (0, 1),
    ),
    Case("log_cosh", (X, T), lambda x, t: np.log(np.cosh(x - t)), differentiable=(0, 1)),
    Case("cosine_similarity", (X, T), cosine, differentiable=(0, 1)),
    Case("cosine_distance", (X, T), lambda a, b: 1 - cosine(a, b), differentiable=(0, 1)),
    Case("hinge_loss", (X, SIGNS), lambda x, t: np.maximum(0, 1 - x * t)),
    Case("perceptron_loss", (X, SIGNS), lambda x, t: np.maximum(0, -x * t)),
    Case("multiclass_hinge_loss", (X, Y), lambda x, y: (x + 1 - one_hot(y, 5)).max(-1) - picked(x, y)),
    Case("multiclass_perceptron_loss", (X, Y), lambda x, y: x.max(-1) - picked(x, y)),
    Case(
        "sparsemax_loss",
        (X, BITS),
        lambda x, y: np.array(
            [
                sparsemax_losses(np.array([[0.0, s]]), np.array([k]))[0]
                for s, k in zip(x.ravel(), y.ravel(), strict=True)
            ]
        ).reshape(x.shape),
    ),
    Case("multiclass_sparsemax_loss", (X, Y), sparsemax_losses),
    Case("sigmoid_binary_cross_entropy", (X, P), sigmoid_cross_entropy, differentiable=(0, 1)),
    Case(
        "sigmoid_focal_loss",
        (X, P),
        lambda x, y: focal(x, y, 0.25, 2.0),
        {"alpha": 0.25},
        (0, 1),
    ),
    Case(
        "sigmoid_focal_loss",
        (X, P),
        lambda x, y: 2 * focal(x, y, 0.5, 0.5),
        {"gamma": 0.5},
        (0, 1),
        variant="flat",
    ),
    Case("softmax_cross_entropy", (X, P), cross_entropy, differentiable=(0, 1)),
    Case("safe_softmax_cross_entropy", (X, P), cross_entropy, differentiable=(0, 1)),
    Case(
        "softmax_cross_entropy_with_integer_labels",
        (X, Y),
        lambda x, y: cross_entropy(x, one_hot(y, 5)),
    ),
    Case(
        "poly_loss_cross_entropy",
        (X, P),
        lambda x, y: cross_entropy(x, y) + 2 * (y * (1 - np.exp(log_softmax(x)))).sum(-1),
        differentiable=(0, 1),
    ),
    Case(
        "smooth_labels",
        (P, np.asarray(0.1)),
        lambda y, alpha: (1 - alpha) * y + alpha / 5,
        differentiable=(0, 1),
    ),
    Case(
        "kl_divergence",
        (log_softmax(X), P),
        lambda q, p: special.rel_entr(p, np.exp(q)).sum(-1),
        differentiable=(0, 1),
    ),
    Case(
        "kl_divergence_with_log_targets",
        (log_softmax(X), log_softmax(T)),
        lambda q, p: special.rel_entr(np.exp(p), np.exp(q)).sum(-1),
        differentiable=(0, 1),
    ),
    Case(
        "generalized_kl_divergence",
        (X, P),
        lambda q, p: special.kl_div(p, np.exp(q)).sum(-1),
        differentiable=(0, 1),
    ),
    Case("ctc_loss", FRAMES, ctc),
    Case(
        "dice_loss",
        (IMAGES, MASKS),
        lambda x, t: dice_per_class(np.exp(log_softmax(x)), t, 1.0, 0.3, 0.9).mean(-1),
        {"alpha": 0.3, "beta": 0.9},
        (0, 1),
    ),
    Case(
        "binary_dice_loss",
        (IMAGES[..., 0], BINARY),
        lambda x, t: dice_per_class(special.expit(x)[..., None], t[..., None], 1.0, 0.5, 0.5)[..., 0],
        differentiable=(0, 1),
    ),
    Case("multiclass_generalized_dice_loss", (IMAGES, MASKS), generalized_dice),
    Case("ntxent", (X, GROUPS), lambda x, y: nt_xent(x, y, 0.07)),
    Case(
        "triplet_margin_loss",
        (X, T, U),
        lambda a, p, n: triplet(a, p, n, 2, 1.0, 1e-6),
        differentiable=(0, 1, 2),
    ),
    Case(
        "triplet_margin_loss",
        (X, T, U),
        lambda a, p, n: triplet(a, p, n, 3, 0.5, 1e-6),
        {"norm_degree": 3, "margin": 0.5},
        (0, 1, 2),
        variant="cubic",
    ),
    Case("ranking_softmax_loss", (X, P), lambda x, y: cross_entropy(x, y).mean(), differentiable=(0, 1)),
    Case(
        "make_fenchel_young_loss",
        (X, P),
        lambda x, y: special.logsumexp(x, -1) - (x * y).sum(-1),
        differentiable=(0, 1),
        loss=lambda x, y: losses.make_fenchel_young_loss(log_sum_exp)(x, y),
    ),
]
