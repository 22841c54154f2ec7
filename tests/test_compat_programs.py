"""Programs as people write them for Optax, run with `gradflow.compat` in its place.

Each takes the module that it would have imported as `optax`; both must end at the same numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

optax = pytest.importorskip("optax")

from gradflow import compat  # noqa: E402  # after the check for the library that it stands in for

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.standard_normal((48, 12)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 3, 48))
TARGETS = IMAGES @ jnp.asarray(RNG.standard_normal(12), jnp.float32)


def network() -> Any:
    rng = np.random.default_rng(1)
    return {
        "hidden": {
            "kernel": jnp.asarray(rng.standard_normal((12, 16)) / 4, jnp.float32),
            "bias": jnp.zeros(16),
        },
        "out": {"kernel": jnp.asarray(rng.standard_normal((16, 3)) / 4, jnp.float32), "bias": jnp.zeros(3)},
    }


def apply(params: Any, x: Any) -> Any:
    x = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return x @ params["out"]["kernel"] + params["out"]["bias"]


def classify(optax: Any) -> Any:
    """A classifier: warm-up and cosine decay, clipping, decoupled decay on kernels only."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0, peak_value=1e-2, warmup_steps=5, decay_steps=30, end_value=1e-4
    )
    kernels = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2, mask=kernels)
    )
    params = network()
    opt_state = optimizer.init(params)

    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        return optax.losses.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

    @jax.jit
    def train_step(params: Any, opt_state: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for step in range(30):
        batch = slice(16 * (step % 3), 16 * (step % 3) + 16)
        params, opt_state, loss = train_step(params, opt_state, IMAGES[batch], LABELS[batch])
    count = optax.tree_utils.tree_get(opt_state, "count", filtering=lambda path, value: "Adam" in str(path))
    return params, loss, count


def finetune(optax: Any) -> Any:
    """Two groups and a frozen bias; accumulation; a rate that is turned down by hand."""
    labels = {"hidden": "body", "out": {"kernel": "head", "bias": "frozen"}}
    optimizer = optax.MultiSteps(
        optax.multi_transform(
            {
                "body": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
                "head": optax.sgd(0.1, momentum=0.9, nesterov=True),
                "frozen": optax.set_to_zero(),
            },
            labels,
        ),
        every_k_schedule=2,
    )
    params = network()
    state = optimizer.init(params)
    grad_fn = jax.jit(
        jax.grad(lambda p, x, y: optax.softmax_cross_entropy(apply(p, x), jax.nn.one_hot(y, 3)).mean())
    )
    update = jax.jit(optimizer.update)
    for step in range(12):
        if step == 6:
            inner = state.inner_opt_state.inner_states["body"].inner_state
            inner.hyperparams["learning_rate"] = inner.hyperparams["learning_rate"] / 10
        grads = grad_fn(params, IMAGES[step::12], LABELS[step::12])
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert bool(optimizer.has_updated(state))
    return params


def guarded_regression(optax: Any) -> Any:
    """Lookahead around a guarded optimizer, with a schedule joined from two, in a scan."""
    rate = optax.join_schedules([optax.linear_schedule(0.0, 0.05, 10), optax.constant_schedule(0.05)], [10])
    fast = optax.apply_if_finite(optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(rate)), 3)
    tx = optax.lookahead(fast, sync_period=5, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced({"w": jnp.zeros(12), "b": jnp.zeros(())})
    state = tx.init(params)

    def loss(fast_params: Any) -> Any:
        return optax.huber_loss(IMAGES @ fast_params["w"] + fast_params["b"], TARGETS).mean()

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        grads = jax.grad(loss)(params.fast)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, state), length=40)
    return params


def line_search(optax: Any) -> Any:
    """L-BFGS with its line search, the value and the gradient read back from the state."""
    solver = optax.lbfgs(memory_size=5)
    params = jnp.zeros(12)

    def value_fn(w: Any) -> Any:
        return jnp.mean(optax.l2_loss(IMAGES @ w, TARGETS)) + 1e-3 * jnp.sum(w**2)

    value_and_grad = optax.value_and_grad_from_state(value_fn)
    state = solver.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grad = value_and_grad(params, state=state)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    for _ in range(12):
        params, state = step(params, state)
    return params


def plateau(optax: Any) -> Any:
    """A rate that falls when the loss does not, and an average of the parameters."""
    tx = optax.chain(optax.adam(0.05), optax.contrib.reduce_on_plateau(factor=0.5, patience=2, cooldown=1))
    params = ema = jnp.zeros(12)
    state = tx.init(params)
    for _ in range(25):
        value, grads = jax.value_and_grad(lambda w: jnp.mean(jnp.abs(IMAGES @ w - TARGETS)))(params)
        updates, state = tx.update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
        ema = optax.incremental_update(params, ema, step_size=0.1)
    scale = optax.tree_utils.tree_get(state, "scale")
    return params, ema, scale


def averaged(optax: Any) -> Any:
    """Schedule-free AdamW, evaluated at its average."""
    tx = optax.contrib.schedule_free_adamw(learning_rate=0.02, b1=0.9)
    params = jnp.full(12, 0.1)
    state = tx.init(params)
    for _ in range(30):
        grads = jax.grad(lambda w: jnp.mean(optax.log_cosh(IMAGES @ w, TARGETS)))(params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return optax.contrib.schedule_free_eval_params(state, params)


def accumulated_in_bfloat16(optax: Any) -> Any:
    """A subclass of MultiSteps with a sum of its own, whose optimizer runs on the last micro-batch alone."""

    class AccumulateInBfloat16(optax.MultiSteps):
        def init(self, params: Any) -> Any:
            state = super().init(params)
            return state._replace(acc_grads=optax.tree.cast(state.acc_grads, jnp.bfloat16))

        def update(self, updates: Any, state: Any, params: Any, **extra: Any) -> Any:
            skip, skip_state = self._should_skip_update_fn(updates, state.gradient_step, params)
            acc_grads = jax.tree.map(
                lambda g, acc: self._acc_update(g.astype(jnp.bfloat16), acc, n_acc=state.mini_step).astype(
                    jnp.bfloat16
                ),
                updates,
                state.acc_grads,
            )

            def last(acc_grads: Any) -> Any:
                mean = optax.tree.cast(acc_grads, jnp.float32)
                out, inner = self._opt.update(mean, state.inner_opt_state, params=params, **extra)
                return out, optax.MultiStepsState(
                    mini_step=jnp.zeros([], jnp.int32),
                    gradient_step=optax.safe_increment(state.gradient_step),
                    inner_opt_state=inner,
                    acc_grads=jax.tree.map(jnp.zeros_like, acc_grads),
                    skip_state=skip_state,
                )

            def middle(acc_grads: Any) -> Any:
                return optax.tree.zeros_like(params), state._replace(
                    mini_step=optax.safe_increment(state.mini_step), acc_grads=acc_grads
                )

            k = self._every_k_schedule(state.gradient_step)
            return jax.lax.cond(~skip & (state.mini_step == k - 1), last, middle, acc_grads)

    tx = AccumulateInBfloat16(optax.adam(0.05), every_k_schedule=3)
    params = jnp.zeros(12)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for step in range(9):
        grads = jax.grad(lambda w: jnp.mean((IMAGES[step::9] @ w - TARGETS[step::9]) ** 2))(params)  # noqa: B023
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, tx.has_updated(state)


PROGRAMS: list[Callable[[Any], Any]] = [
    classify, finetune, guarded_regression, line_search, plateau, averaged, accumulated_in_bfloat16,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_ends_where_it_did(program: Callable[[Any], Any]) -> None:
    # The programs and the other library rely on the usual promotion of dtypes and ranks.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        ours, theirs = program(compat), program(optax)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-5)
