"""The rules of matrix optimizers in NumPy and float64: what gradflow's are compared with.

Each takes parameters and gradients and returns the parameters after each step. Matrices are (inputs,
outputs). `tests/optimizers` runs them, and `python -m benchmarks.frontier` prints the largest difference.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradflow.linalg import NEWTON_SCHULZ_SAFETY, NEWTON_SCHULZ_TABLES

Array = Any
Arrays = list[Any]


def orthogonal(x: Array, table: str = "keller", eps: float = 1e-7) -> Array:
    """Newton-Schulz on the shorter side."""
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (NEWTON_SCHULZ_SAFETY.get(table, 1.0) * np.linalg.norm(x) + eps)
    for a, b, c in NEWTON_SCHULZ_TABLES[table]:
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def wide_factor(shape: tuple[int, ...]) -> float:
    """Muon's factor of a step."""
    return math.sqrt(max(1, shape[1] / shape[0]))


def nesterov(mu: Array, g: Array, beta: float, t: int) -> Array:
    """The corrected average with the next step's weight on the average and this one's on the gradient."""
    return beta * mu / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)


def nadamw(x: Array, grads: Arrays, rate: float, b1: float, b2: float, eps: float, decay: float) -> Arrays:
    """AdamW with Nesterov's momentum."""
    mu, nu, found = 0.0, 0.0, []
    for t, g in enumerate(grads, 1):
        mu, nu = b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * g**2
        x = x - rate * (nesterov(mu, g, b1, t) / (np.sqrt(nu / (1 - b2**t)) + eps) + decay * x)
        found.append(x)
    return found


def muon_on_hyperball(x: Array, grads: Arrays, rate: float, beta: float) -> Arrays:
    """Muon's direction, of length one, on the sphere of the first parameters."""
    mu, radius, found = 0.0, np.linalg.norm(x), []
    for t, g in enumerate(grads, 1):
        mu = beta * mu + (1 - beta) * g
        u = orthogonal(nesterov(mu, g, beta, t), eps=1e-8)
        x = x / radius - rate * u / np.linalg.norm(u)
        x = radius * x / np.linalg.norm(x)
        found.append(x)
    return found


def neuron_norm(xs: Arrays, b2: float, axis: str) -> Arrays:
    """NorMuon's second moment: every neuron of one size, the norm of the whole as before."""
    along = 1 if axis == "longer" and xs[0].shape[0] > xs[0].shape[1] else 0
    nu: Array = 0
    found = []
    for x in xs:
        nu = b2 * nu + (1 - b2) * np.mean(x**2, axis=along, keepdims=True)
        y = x / np.sqrt(np.maximum(nu, 1e-10)) if axis == "longer" else x / (np.sqrt(nu) + 1e-10)
        found.append(y * np.linalg.norm(x) / np.linalg.norm(y))
    return found


def normuon(x: Array, grads: Arrays, rate: float, beta: float, b2: float, decay: float, axis: str) -> Arrays:
    """Nesterov's corrected average, its orthogonal factor, neurons of one size, shape, decay."""
    mu, factors, found = 0.0, [], []
    for t, g in enumerate(grads, 1):
        mu = beta * mu + (1 - beta) * g
        factors.append(orthogonal(nesterov(mu, g, beta, t), eps=1e-8))
    for y in neuron_norm(factors, b2, axis):
        x = x - rate * (wide_factor(x.shape) * y + decay * x)
        found.append(x)
    return found


def adamuon(
    x: Array, grads: Arrays, rate: float, b1: float, b2: float, eps: float, decay: float, signed: bool
) -> Arrays:
    """Muon of the momentum's signs, divided by the root of its averaged square."""
    mu, nu, found = np.zeros(x.shape), np.zeros(x.shape), []
    for g in grads:
        mu = b1 * mu + g  # a sum in the paper, whose factor is the average's
        o = orthogonal(np.sign(mu) if signed else mu * (1 - b1))
        nu = b2 * nu + (1 - b2) * o * o
        y = o / (np.sqrt(nu) + eps)
        x = x - rate * (0.2 * math.sqrt(x.size) / np.linalg.norm(y) * y + decay * x)
        found.append(x)
    return found


def dion2(
    x: Array, grads: Arrays, rate: float, fraction: float, feedback: float, decay: float, rows: bool
) -> Arrays:
    """Muon of the largest rows, or columns, of a sum that decays where it was taken."""
    mu, found = np.zeros(x.shape), []
    for g in grads:
        mu = mu + g
        m = mu if rows else mu.T
        chosen = np.argsort(-np.abs(m).sum(1))[: math.ceil(fraction * len(m))]
        u = np.zeros_like(m)
        u[chosen] = orthogonal(m[chosen], "polar_express")
        m[chosen] *= feedback  # a view of mu
        x = x - rate * (math.sqrt(x.shape[1] / x.shape[0]) * (u if rows else u.T) + decay * x)
        found.append(x)
    return found


def muown(
    x: Array, grads: Arrays, rate: float, beta: float, b1: float, b2: float, eps: float, decay: float,
    rms: float | None, nesterov: bool,
) -> Arrays:  # fmt: skip
    """Muon for the directions of neurons, Adam for their norms; the momentum is a sum, as in the paper."""
    scale = wide_factor(x.shape) if rms is None else rms * math.sqrt(max(x.shape))
    gain, length, mu, found = np.linalg.norm(x, axis=0), np.linalg.norm(x, axis=0), np.zeros(x.shape), []
    m, n = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for t, g in enumerate(grads, 1):
        unit = x / gain
        of_gain = (g * unit).sum(0)
        of_direction = gain / length * (g - unit * of_gain)
        mu = beta * mu + of_direction
        ahead = of_direction + beta * mu if nesterov else mu
        v = unit * length - rate * scale * orthogonal(ahead, eps=1e-7 / (1 - beta))
        m, n = b1 * m + (1 - b1) * of_gain, b2 * n + (1 - b2) * of_gain**2
        gain = gain - rate * m / (1 - b1**t) / (np.sqrt(n / (1 - b2**t)) + eps)
        length = np.linalg.norm(v, axis=0)
        x = gain * v / length - rate * decay * x
        gain = np.sign(gain) * np.linalg.norm(x, axis=0)
        found.append(x)
    return found


def splus(x: Array, grads: Arrays, rate: float, b1: float, b2: float, every: int, decay: float) -> Arrays:
    """Signs in the eigenvectors of earlier gradients.

    For square matrices: of a gradient of lower rank than a side that side's eigenvectors are not unique.
    """
    m, n = x.shape
    mu, left, right, ql, qr, found = 0.0, np.zeros((m, m)), np.zeros((n, n)), np.eye(m), np.eye(n), []
    for t, g in enumerate(grads, 1):
        mu = b1 * mu + (1 - b1) * g
        x = x - rate * (2 / (m + n) * ql @ np.sign(ql.T @ mu @ qr) @ qr.T + decay * x)
        found.append(x)
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
        if t == 1 or t % every == 0:
            ql, qr = np.linalg.eigh(left)[1], np.linalg.eigh(right)[1]
    return found


def turned(factors: Sequence[Array], bases: Sequence[Array], nu: Array) -> tuple[Arrays, Array]:
    """Bases after one power iteration, their columns by size, and the second moment in that order."""
    orders = [np.argsort(-np.diag(q.T @ f @ q)) for f, q in zip(factors, bases, strict=True)]
    turns = zip(factors, bases, orders, strict=True)
    return [np.linalg.qr((f @ q)[:, order])[0] for f, q, order in turns], nu[orders[0]][:, orders[1]]


def soap(
    x: Array, grads: Arrays, rate: float, b1: float, b2: float, beta: float, eps: float, every: int,
    decay: float, table: str | None = None,
) -> Arrays:  # fmt: skip
    """Adam in the eigenvectors of the averaged outer products; with a table, its orthogonal factor.

    The first call only collects. For square matrices, whose first eigenvectors are unique.
    """
    mu, nu, found = np.zeros(x.shape), np.zeros(x.shape), []
    factors, bases = [np.zeros((n, n)) for n in x.shape], [np.eye(n) for n in x.shape]
    for t, g in enumerate(grads):
        if t == 1:
            bases = [np.linalg.eigh(f)[1][:, ::-1] for f in factors]
        elif t > 1 and (t - 1) % every == 0:
            bases, nu = turned(factors, bases, nu)
        u = np.zeros(x.shape)
        if t:
            left, right = bases
            mu = b1 * mu + (1 - b1) * g
            nu = b2 * nu + (1 - b2) * (left.T @ g @ right) ** 2
            corrected = math.sqrt(1 - b2**t) / (1 - b1**t)
            u = left @ (corrected * (left.T @ mu @ right) / (np.sqrt(nu) + eps)) @ right.T
            u = u if table is None else orthogonal(u, table)
        outer = (g @ g.T, g.T @ g)
        factors = [beta * f + (1 - beta) * square for f, square in zip(factors, outer, strict=True)]
        x = x - rate * (u + decay * x)
        found.append(x)
    return found


def inverse_root(a: Array, order: int, eps: float) -> Array:
    """(a + eps)^(-1 / order) of a symmetric matrix."""
    values, vectors = np.linalg.eigh(a)
    return (vectors * (np.maximum(values, 0) + eps) ** (-1 / order)) @ vectors.T


def grafted_shampoo(
    x: Array, grads: Arrays, rate: float, b1: float, beta: float, eps: float, every: int, b2: float
) -> Arrays:
    """Shampoo with averages without bias, roots renewed every few steps, and the norm of Adam's step."""
    m, n = x.shape
    left, right, mu, nu, found = np.zeros((m, m)), np.zeros((n, n)), np.zeros((m, n)), np.zeros((m, n)), []
    for t, g in enumerate(grads, 1):
        left, right = beta * left + (1 - beta) * g @ g.T, beta * right + (1 - beta) * g.T @ g
        if (t - 1) % every == 0:
            roots = [inverse_root(a / (1 - beta**t), 4, eps) for a in (left, right)]
        mu, nu = b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * g**2
        mean = mu / (1 - b1**t)
        adam = mean / (np.sqrt(nu / (1 - b2**t)) + 1e-8)
        u = roots[0] @ mean @ roots[1]
        x = x - rate * (adam if t == 1 else u * np.linalg.norm(adam) / np.linalg.norm(u))
        found.append(x)
    return found


def scion_direction(mu: Array, norm: str) -> Array:
    """The direction of length one in the norm of a role."""
    fan_in, fan_out = mu.shape
    if norm == "spectral":
        return math.sqrt(fan_out / fan_in) * orthogonal(mu)
    if norm == "sign":
        return np.sign(mu) / fan_in
    if norm == "inputs":
        return mu / (np.sqrt((mu**2).mean(1, keepdims=True)) + 1e-8)
    if norm == "outputs":
        return mu / (np.sqrt((mu**2).sum(0, keepdims=True)) * math.sqrt(fan_in) + 1e-8)
    return mu / (np.sqrt((mu**2).mean()) + 1e-8)


def scion(
    x: Array, grads: Arrays, rate: float, momentum: float, radius: float, norm: str, constrained: bool
) -> Arrays:
    """Steps of one length in the norm of a role, in its ball if constrained."""
    mu, found = np.zeros(x.shape), []
    for g in grads:
        mu = (1 - momentum) * mu + momentum * g
        x = (1 - rate * constrained) * x - rate * radius * scion_direction(mu, norm)
        found.append(x)
    return found


def kron_update(
    m: Array, factors: Sequence[Array], probe: Array, balance: bool, rate: float
) -> tuple[Arrays, Array]:
    """The factors after a step of PSGD Kron with a given probe, and the direction. Diagonals are vectors."""
    factors, moved = list(factors), []
    if balance:
        sizes = [np.abs(q).max() for q in factors]
        middle = np.exp(np.mean(np.log(sizes)))
        factors = [q * middle / size for q, size in zip(factors, sizes, strict=True)]
    a, b = m + np.sqrt(np.finfo(np.float32).eps) * np.abs(m).mean() * probe, probe
    for axis, q in enumerate(factors):
        a = times(q, a, axis)
        b = times(1 / q if q.ndim == 1 else np.linalg.inv(q).T, b, axis)
    for axis, q in enumerate(factors):
        aa, bb = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (a, b))
        aa, bb = aa @ aa.T, bb @ bb.T
        if q.ndim == 1:
            aa, bb = np.diag(aa), np.diag(bb)
            moved.append(q - rate / np.abs(aa + bb).max() * (aa - bb) * q)
            continue
        total = aa + bb
        x = total[:, np.argmax((total**2).sum(0))] @ total
        bound = np.linalg.norm(x / np.linalg.norm(x) @ total)
        moved.append(q - rate / bound * np.triu(aa - bb) @ q)
    u = m
    for axis, q in enumerate(moved):
        u = times(q * q if q.ndim == 1 else q.T @ q, u, axis)
    return moved, u * min(1, 1.1 / (np.sqrt((u**2).mean()) + 1e-6))


def times(q: Array, x: Array, axis: int) -> Array:
    """The product of a factor, a vector for a diagonal one, with one axis of an array."""
    return np.moveaxis(np.tensordot(np.diag(q) if q.ndim == 1 else q, x, (1, axis)), 0, axis)


def kron(
    x: Array, grads: Arrays, probes: Arrays, balances: Sequence[bool], rate: float, b1: float,
    factor_rate: float, diagonal: Sequence[bool],
) -> Arrays:  # fmt: skip
    """PSGD Kron without decay, whose factors move at each step by the given probes."""
    factors = [np.ones(n) if d else np.eye(n) for n, d in zip(x.shape, diagonal, strict=True)]
    mu, found = np.zeros(x.shape), []
    for t, (g, probe, balance) in enumerate(zip(grads, probes, balances, strict=True), 1):
        mu = b1 * mu + (1 - b1) * g
        factors, u = kron_update(mu / (1 - b1**t), factors, probe, balance, factor_rate)
        x = x - rate * u
        found.append(x)
    return found
