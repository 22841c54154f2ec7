"""The code of accelerators, run on a CPU by a switch, beside the CPU's own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from platforms import accelerator_code, on_tpu

import gradflow as gf
from gradflow._rules import _unit_norm
from gradflow.tree import _bands

DTYPES = [jnp.bfloat16, jnp.float32]


def tree_of(dtype: Any, seed: int, scale: float = 1.0) -> Any:
    """A matrix, a vector, a scalar, five axes, and leaves of size one and zero."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (7, 5), "b": (6,), "s": (), "five": (2, 1, 3, 1, 2), "one": (1,), "none": (0, 3)}
    numbers = {name: scale * rng.normal(size=shape) for name, shape in shapes.items()}
    return {name: jax.device_put(np.asarray(x, dtype)) for name, x in numbers.items()}


def run(tx: Any, dtype: Any, steps: Callable[[int], Any]) -> Any:
    """Parameters and state after six jitted steps."""
    params = tree_of(dtype, 0)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for step in range(6):
        updates, state = update(steps(step), state, params)
        params = gf.apply_updates(params, updates)
    return params, state


def gradients(dtype: Any) -> Callable[[int], Any]:
    """The fourth one has a NaN."""

    def of(step: int) -> Any:
        grads = tree_of(dtype, step + 1)
        return {**grads, "b": grads["b"].at[2].set(jnp.nan)} if step == 3 else grads

    return of


def even(step: Any, **extra: Any) -> Any:
    return step % 2 == 0


BRANCHES = {
    "guard": lambda: gf.apply_if_finite(gf.adamw(1e-2), 3),
    "guard around a clip": lambda: gf.apply_if_finite(
        gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(1e-2)), 3
    ),
    "accumulation": lambda: gf.apply_if_finite(gf.MultiSteps(gf.adamw(1e-2), 2), 3),
    "accumulation with a branch": lambda: gf.apply_if_finite(
        gf.MultiSteps(gf.adamw(1e-2), 2, keep_branch=True), 3
    ),
    "mask": lambda: gf.apply_if_finite(gf.conditionally_mask(gf.lion(1e-2), even), 3),
    "transform": lambda: gf.apply_if_finite(gf.conditionally_transform(gf.adam(1e-2), even), 3),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_select_gives_what_the_branch_gives(name: str) -> None:
    tx = BRANCHES[name]()
    expected = [run(tx, dtype, gradients(dtype)) for dtype in DTYPES]
    with accelerator_code():
        found = [run(tx, dtype, gradients(dtype)) for dtype in DTYPES]
    for dtype, branch, select in zip(DTYPES, expected, found, strict=True):
        # The compiler may contract other products and sums where it fuses otherwise.
        rtol = 4 * float(jnp.finfo(dtype).eps)
        for a, b in zip(jax.tree.leaves(branch), jax.tree.leaves(select), strict=True):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol / 10, err_msg=dtype.__name__)


NORMS = {
    "clip": lambda: gf.clip_by_global_norm(1e-3),
    "block": lambda: gf.clip_by_block_rms(1e-3),
    "normalize": lambda: gf.normalize_by_update_norm(),
    "trust": lambda: gf.scale_by_trust_ratio(),
    "novograd": lambda: gf.novograd(1e-2),
}


SCALES = (1e-36, 1e-20, 1e-12, 1.0, 1e12, 1e20, 1e36)


@pytest.mark.parametrize("name", NORMS)
def test_norms_of_one_reading_are_those_of_two(name: str) -> None:
    tx = NORMS[name]()

    def runs() -> list[Any]:
        return [run(tx, jnp.float32, lambda t, s=scale: tree_of(jnp.float32, t + 1, s)) for scale in SCALES]

    expected = runs()
    with accelerator_code():
        found = runs()
    for scale, two, one in zip(SCALES, expected, found, strict=True):
        for a, b in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-37, err_msg=f"{scale}")


RULES = {
    "acprop": lambda: gf.acprop(1e-2),
    "adadelta": lambda: gf.adadelta(1.0),
    "adan": lambda: gf.adan(1e-2, weight_decay=0.1),
    "adopt": lambda: gf.adopt(1e-2),
    "dadapt": lambda: gf.dadapt_adamw(),
    "dog": lambda: gf.dog(1.0),
    "noise": lambda: gf.add_noise(0.1, 0.5, key=1),
    "optimistic": lambda: gf.optimistic_adam_v2(1e-2),
    "sm3": lambda: gf.sm3(1e-2),
    "sophia": lambda: gf.scale_by_sophia(update_interval=2, hessian_diagonal_fn=gf.scale(2.0)),
    "zero_nans": lambda: gf.zero_nans(),
}


def test_rules_give_what_they_give_on_a_cpu() -> None:
    """A leaf of each precision, three steps, and all rules in one program."""

    def leaves(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return {
            "w": jnp.asarray(rng.normal(size=(7, 5)), np.float32),
            "b": jnp.asarray(rng.normal(size=6), jnp.bfloat16),
        }

    def trained(params: Any, grads: list[Any]) -> Any:
        result = {}
        for name, make in RULES.items():
            tx, moved = make(), params
            state = tx.init(params)
            for each in grads:
                updates, state = tx.update(each, state, moved)
                moved = gf.apply_updates(moved, updates)
            result[name] = moved, state
        return result

    given = leaves(0), [leaves(step + 1) for step in range(3)]
    expected = jax.jit(trained)(*given)
    with accelerator_code():
        found = jax.jit(trained)(*given)

    def same(a: Any, b: Any) -> None:
        rtol = 1e-2 if a.dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=rtol, atol=rtol / 10)

    jax.tree.map(same, expected, found)


def exact(x: np.ndarray) -> float:
    largest = np.abs(x).max()
    return float(largest * np.sqrt(np.sum((x.astype(np.longdouble) / largest) ** 2)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_reading_is_right_for_every_mixture_of_sizes(dtype: Any) -> None:
    """Numbers of two magnitudes, of which the larger one is rare, so that both count."""
    with jax.enable_x64(dtype == np.float64), accelerator_code():
        norm = jax.jit(gf.tree.norm)
        info = np.finfo(dtype)
        rng = np.random.default_rng(0)
        exponents = np.linspace(info.minexp + 2, info.maxexp - 20, 24).astype(int)
        for high in exponents:
            for below in (0, 3, 6, 9):
                x = np.ldexp(rng.uniform(1, 2, 4096), max(high - below, info.minexp)).astype(dtype)
                x[7] = np.ldexp(dtype(1.5), high)
                assert float(norm(jnp.asarray(x))) == pytest.approx(exact(x), rel=32 * float(info.eps))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e25, 1e37])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("sums", [_unit_norm._each, _unit_norm._jointly])
def test_norms_of_units_from_one_reading_are_right(sums: Any, axes: tuple[int, ...], scale: float) -> None:
    """Of two arrays of other sizes, in one kernel of a GPU or each by itself."""
    rng = np.random.default_rng(0)
    x = (scale * rng.normal(size=(5, 7, 2)) @ [1, 1j] * [1, 1, 0, 1, 1, 1, 1]).astype(np.complex64)
    arrays = (jnp.asarray(x), jnp.asarray(x[::-1] / np.float32(scale)))
    norms, dots = jax.jvp(lambda *each: _unit_norm._one_reading(each, axes, sums), arrays, arrays)
    for array, (size, power), (along, _) in zip(arrays, norms, dots, strict=True):
        assert size.shape == tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
        wide = np.asarray(array, complex)
        expected = np.linalg.norm(wide, axis=axes[0] if len(axes) == 1 else None, keepdims=True)
        np.testing.assert_allclose(np.float64(size) / power, expected, rtol=1e-6)
        np.testing.assert_allclose(np.float64(along), np.float64(size), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e37])
def test_three_sums_of_their_own_are_the_sums_of_one_reduction(
    monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    x = (scale * np.random.default_rng(0).normal(size=(5, 7, 2)) @ [1, 1j]).astype(np.complex64)
    together = _bands.banded_square_sums(jnp.asarray(x), np.dtype(np.float32))
    monkeypatch.setattr(_bands, "by_platform", on_tpu)
    apart = _bands.banded_square_sums(jnp.asarray(x), np.dtype(np.float32), beside=True)
    np.testing.assert_allclose(apart, together, rtol=4e-7)
    root, factor = _bands.join_bands(apart)
    assert float(root) * float(factor) == pytest.approx(np.linalg.norm(x.astype(complex)), rel=1e-6)


def test_what_is_not_chosen_leaves_nothing_in_the_program() -> None:
    step = jax.jit(gf.clip_by_global_norm(1.0).update)
    text = step.lower(tree_of(jnp.float32, 0), gf.clip_by_global_norm(1.0).init(None)).compile().as_text()
    assert text.count(" while(") == 1
    with accelerator_code():
        text = step.lower(tree_of(jnp.float32, 0), gf.clip_by_global_norm(1.0).init(None)).compile().as_text()
        assert text.count(" while(") == 0


@pytest.mark.parametrize("is_hidden", [False, True])
def test_derivatives_through_a_skipped_step_are_finite(is_hidden: bool) -> None:
    """The inner update runs on an accelerator even where its result is not taken.

    The rate is an argument, whose derivative the guard can see, or hidden in a user's function.
    """
    params = {"w": jnp.ones(3)}
    bad = {"w": jnp.array([1.0, jnp.nan, 2.0])}

    def after(rate: Any, grads: Any) -> Any:
        given = (lambda step: rate) if is_hidden else rate
        tx = gf.apply_if_finite(gf.chain(gf.scale_by_adam(), gf.scale_by_learning_rate(given)), 3)
        updates, _ = tx.update(grads, tx.init(params), params)
        return jnp.sum(updates["w"])

    def check(by_rate: Any, by_gradient: Any) -> None:
        assert by_rate == 0
        np.testing.assert_array_equal(by_gradient["w"], 0)

    with accelerator_code():
        assert jax.grad(after)(0.1, bad) == 0
        check(*jax.grad(after, argnums=(0, 1))(0.1, bad))
    if not is_hidden:
        check(*jax.grad(after, argnums=(0, 1))(0.1, bad))


@pytest.mark.parametrize("make", [lambda: gf.soap(1e-2, precondition_frequency=2), lambda: gf.kron(1e-2)])
def test_refreshed_statistics_of_equal_leaves(make: Callable[[], Any]) -> None:
    """A CPU branches and loops over leaves; a GPU loops at most once, and takes one leaf after the other."""
    rng = np.random.default_rng(3)
    grads = [[jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in range(4)] for _ in range(4)]

    def trained() -> tuple[Any, str]:
        tx = make()
        params = [jnp.zeros((4, 3)) for _ in range(4)]
        state = tx.init(params)
        update = jax.jit(tx.update)
        for step in grads:
            updates, state = update(step, state, params)
            params = gf.apply_updates(params, updates)
        return params, update.lower(grads[0], state, params).as_text()

    params, text = trained()
    with accelerator_code():
        others, other_text = trained()
    assert "optimization_barrier" in other_text
    assert text.count("stablehlo.while") > other_text.count("stablehlo.while")
    for x, y in zip(params, others, strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)
        assert np.any(x)
