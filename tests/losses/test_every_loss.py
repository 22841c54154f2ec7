"""What holds for every loss: its formula, its gradients, its dtypes, and how it takes mistakes."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import OPTIMIZED

from gradflow import losses
from losses.cases import CASES, Case, compare

over_cases = pytest.mark.parametrize("case", CASES, ids=str)


def total(case: Case) -> Any:
    """A scalar to differentiate, in which every element of the loss has a weight of its own."""

    def f(*args: Any) -> Any:
        out = case(*args)
        weights = 1.0 + jnp.cos(jnp.arange(out.size, dtype=out.dtype))
        return jnp.sum(out.ravel() * weights), out

    return jax.value_and_grad(f, case.differentiable, has_aux=True)


def test_every_public_loss_has_a_case() -> None:
    assert {case.name for case in CASES} | {"ctc_loss_with_forward_probs"} == set(losses.__all__)
    assert {name for name in dir(losses) if not name.startswith("_")} == set(losses.__all__)


@pytest.mark.parametrize("name", losses.__all__)
def test_docstrings_are_short_and_complete(name: str) -> None:
    doc = inspect.getdoc(getattr(losses, name)) or ""
    assert 1 <= len(doc.splitlines()) <= 25
    assert all(
        p.annotation is not p.empty for p in inspect.signature(getattr(losses, name)).parameters.values()
    )


CURVED = (
    "log_cosh cosine_similarity triplet_margin_loss sigmoid_focal_loss softmax_cross_entropy kl_divergence "
    "multiclass_sparsemax_loss ctc_loss ntxent"
)


@over_cases
def test_formula_and_derivatives_in_float64(case: Case) -> None:
    with jax.enable_x64(True):
        args = case.inputs(jnp.float64)
        run = jax.jit(total(case))
        (_, out), gradients = run(*args)
        assert out.dtype == jnp.float64
        compare(out, case.reference(*case.args), rtol=1e-12, atol=1e-14)

        step = 1e-6
        for i, gradient in zip(case.differentiable, gradients, strict=True):

            def at(x: Any, i: int = i) -> Any:
                return run(*args[:i], x, *args[i + 1 :])

            for index in range(args[i].size):
                nudge = np.zeros(args[i].size)
                nudge[index] = step
                nudge = nudge.reshape(args[i].shape)
                numeric = (at(args[i] + nudge)[0][0] - at(args[i] - nudge)[0][0]) / (2 * step)
                compare(np.ravel(gradient)[index], numeric, rtol=1e-6, atol=1e-7)

        if case.name in CURVED.split():  # forward through reverse
            direction = jnp.cos(jnp.arange(args[0].size, dtype=jnp.float64)).reshape(args[0].shape)
            slope = jax.jit(lambda x: jax.jvp(lambda x: total(case)(x, *args[1:])[1][0], (x,), (direction,)))
            ahead, behind = (run(args[0] + s * direction, *args[1:])[1][0] for s in (step, -step))
            compare(slope(args[0])[1], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)


@over_cases
def test_jit_of_vmap_is_an_eager_loop(case: Case) -> None:
    first, *rest = case.inputs(jnp.float32)
    scales = jnp.asarray([1.0, 0.5, -2.0], jnp.float32)
    many = jax.jit(jax.vmap(lambda s: case(first * s, *rest)))(scales)
    compare(many, jnp.stack([case(first * s, *rest) for s in scales]), rtol=2e-5, atol=2e-6)


@over_cases
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_rounded_once(case: Case, dtype: Any) -> None:
    args = case.inputs(dtype)

    @jax.jit
    def run(*args: Any) -> Any:
        wide = [a.astype(jnp.float32) if a.dtype == dtype else a for a in args]
        if dtype == jnp.float16:  # the one with a narrow range
            (_, out), gradients = total(case)(*args)
            return out, case(*wide), gradients
        return case(*args), case(*wide), ()

    out, precise, gradients = run(*args)
    assert out.dtype == dtype
    assert not out.weak_type
    compare(out, np.asarray(precise).astype(dtype), rtol=float(jnp.finfo(dtype).eps), atol=1e-6)
    for i, gradient in zip(case.differentiable, gradients, strict=False):
        assert gradient.dtype == dtype
        assert gradient.shape == args[i].shape
        assert jnp.all(jnp.isfinite(gradient))


@over_cases
def test_mixed_dtypes_promote(case: Case) -> None:
    floats = [i for i, a in enumerate(case.args) if a.dtype.kind == "f"]
    if case.name.startswith("ctc") or len(floats) < 2 or case.name == "smooth_labels":
        floats = floats[:1]  # the other ones are not data
    narrow, wide = case.inputs(jnp.bfloat16), case.inputs(jnp.float32)
    mixed = [wide[i] if i in floats[1:] else narrow[i] for i in range(len(narrow))]
    assert jax.eval_shape(case, *mixed).dtype == (jnp.float32 if floats[1:] else jnp.bfloat16)


@over_cases
def test_extreme_inputs_are_finite(case: Case) -> None:
    first, *rest = case.inputs(jnp.float32)

    @functools.partial(jax.jit, compiler_options=OPTIMIZED)
    def run(scale: Any) -> Any:
        x = first * scale
        if "kl" in case.name:  # logarithms of probabilities
            x = -jnp.abs(x)
        others = [x[::-1], *rest[1:]] if case.name == "kl_divergence_with_log_targets" else rest
        return total(case)(x, *others)

    for scale in (1e4, -1e4, 0.0):
        (_, out), gradients = run(jnp.asarray(scale, jnp.float32))
        assert jnp.all(jnp.isfinite(out))
        assert all(jnp.all(jnp.isfinite(g)) for g in gradients)


@over_cases
def test_an_empty_batch(case: Case) -> None:
    args = [a[:0] if a.ndim else a for a in case.inputs(jnp.float32)]
    out = jax.jit(case)(*args)
    full = np.shape(case.reference(*case.args))
    assert out.shape == ((0, *full[1:]) if full else ())


LABELLED = [c for c in CASES if len(c.args) > 1 and c.args[1].dtype.kind == "i" and "ctc" not in c.name]


@pytest.mark.parametrize("case", LABELLED, ids=str)
def test_labels_must_be_integers_of_the_right_shape(case: Case) -> None:
    x, y = case.inputs(jnp.float32)
    if case.name == "sparsemax_loss":  # of two classes, like losses that take targets of 0.0 and 1.0
        compare(case(x, y.astype(jnp.float32)), case(x, y), rtol=0)
    else:
        with pytest.raises(TypeError, match=rf"{case.name}: argument 'labels' must be integers.*float32"):
            case(x, y.astype(jnp.float32))
    with pytest.raises(ValueError, match=rf"{case.name}: argument 'labels' .*\(6,.*got \(1, 6"):
        case(x, y[None])
    for kind in (jnp.uint8, jnp.int16):
        compare(case(x, y.astype(kind)), case(x, y), rtol=0)


INDEXED = [c for c in LABELLED if c.name not in ("ntxent", "sparsemax_loss")]


@pytest.mark.parametrize("case", INDEXED, ids=str)
def test_a_label_that_is_no_class_gives_nan(case: Case) -> None:
    x, y = case.inputs(jnp.float32)
    for bad in (-1, -5, 5):
        out = case(x, y.at[2].set(bad))
        assert np.isnan(out[2])
        compare(np.delete(out, 2), np.delete(case(x, y), 2), rtol=0)


@pytest.mark.parametrize("case", INDEXED, ids=str)
def test_large_labels_do_not_wrap_around(case: Case) -> None:
    x, y = case.args

    def put(dtype: Any, bad: int) -> Any:
        labels = y.astype(dtype)
        labels[2] = bad
        return labels

    with jax.enable_x64(True):
        run = jax.jit(case)
        for bad in (2**32 + 1, -(2**32) + 1):
            assert np.isnan(run(x, put(np.int64, bad))[2])
        assert np.isnan(run(x, put(np.uint64, 2**32 + 1))[2])


PAIRED = [c for c in CASES if len(c.args) == 2 and c.args[0].shape == c.args[1].shape]


# Where the field broadcasts, programs use it; squared errors are refused there too.
BROADCAST = (
    "huber",
    "log_cosh",
    "sigmoid",
    "softmax_cross",
    "poly",
    "kl_div",
    "generalized_kl",
    "convex",
    "hinge",
)
BROADCAST += ("binary_hinge", "safe_softmax", "kl_divergence")


def broadcasts(case: Case) -> bool:
    return case.name.startswith(BROADCAST)


@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_shapes_that_do_not_fit_are_named(case: Case) -> None:
    x, y = case.inputs(jnp.float32)
    name = "fenchel_young_loss" if "fenchel" in case.name else case.name.removeprefix("binary_")
    if broadcasts(case):
        with pytest.raises(ValueError, match=rf"{name}: .* must have the shape of .*, or broadcast; got"):
            case(x, y[..., :-1])
        return
    with pytest.raises(ValueError, match=rf"{name}: .* must have the shape of .*; got"):
        case(x.ravel(), y.ravel()[:, None, None])
    if "cosine" not in name:  # which takes all pairs of two sets
        with pytest.raises(ValueError, match=name):
            case(x, y[:1])
    with pytest.raises(ValueError, match=name):
        case(x, y[..., :1])


@pytest.mark.parametrize("case", [case for case in PAIRED if broadcasts(case)], ids=str)
def test_broadcasting_is_that_of_equal_shapes(case: Case) -> None:
    x, y = case.inputs(jnp.float32)
    for row in (y[:1], y[0]):
        np.testing.assert_allclose(case(x, row), case(x, jnp.broadcast_to(row, x.shape)), rtol=1e-6)
    with pytest.warns(UserWarning, match=rf"{case.name}: .* a loss for every pair"):
        outer = case(x[:, None], y)
    both = (jnp.broadcast_to(a, (len(x), *x.shape)) for a in (x[:, None], y))
    np.testing.assert_allclose(outer, case(*both), rtol=1e-6)


@over_cases
def test_predictions_must_be_real_floating_point_numbers(case: Case) -> None:
    args = case.inputs(jnp.float32)
    name = {"make_fenchel_young_loss": "fenchel_young_loss", "ctc_loss_with_forward_probs": "ctc_loss"}
    for dtype in (jnp.int32, jnp.complex64, jnp.bool_):
        with pytest.raises(
            TypeError, match=f"^{name.get(case.name, case.name)}: .* (floating|real).*{jnp.dtype(dtype)}"
        ):
            case(args[0].astype(dtype), *args[1:])
    with pytest.raises(TypeError, match=name.get(case.name, case.name)):
        case(jax.random.key(0), *args[1:])
    with pytest.raises(TypeError, match=name.get(case.name, case.name)):
        case(None, *args[1:])


@over_cases
def test_numpy_and_lists_are_taken(case: Case) -> None:
    args = [np.asarray(a) for a in case.inputs(jnp.float32)]
    compare(case(*args), case(*map(jnp.asarray, args)), rtol=0)
    assert isinstance(case(*args), jax.Array)


MASKED: list[tuple[str, Any]] = [
    ("softmax_cross_entropy", None),
    ("poly_loss_cross_entropy", None),
    ("kl_divergence", None),
    ("kl_divergence_with_log_targets", None),
    ("generalized_kl_divergence", None),
    ("cosine_similarity", None),
    ("cosine_distance", None),
    ("smooth_labels", 0.1),
    ("ranking_softmax_loss", None),
]


@pytest.mark.parametrize(("name", "extra"), MASKED, ids=[name for name, _ in MASKED])
def test_what_where_leaves_out_does_not_matter(name: str, extra: Any) -> None:
    case = next(c for c in CASES if c.name == name)
    x, y = case.args
    mask = np.random.default_rng(1).random(x.shape) < 0.6
    mask[0] = False
    mask[1] = True

    def f(x: Any, y: Any, **kwargs: Any) -> Any:
        return getattr(losses, name)(x, y if extra is None else extra, **kwargs)

    @jax.jit
    def both(x: Any, y: Any) -> Any:
        def value(x: Any, y: Any) -> Any:
            out = f(x, y, where=mask)
            return jnp.sum(jnp.sin(out)), out

        (_, out), gradients = jax.value_and_grad(value, (0, 1), has_aux=True)(x, y)
        return out, gradients

    with jax.enable_x64(True):
        y = y if y.ndim else x
        clean, clean_gradients = both(x, y)
        # Where nothing is included there is nothing to pay; a full row is as without a mask.
        if clean.ndim == 1 and name != "cosine_distance":
            assert clean[0] == 0.0
        if clean.ndim:
            compare(clean[1], f(x[1], y[1]), rtol=1e-12)
        for poison in (np.nan, np.inf, -np.inf):
            out, gradients = both(np.where(mask, x, poison), np.where(mask, y, poison))
            compare(out, clean, rtol=1e-12)
            for gradient, expected in zip(gradients, clean_gradients, strict=True):
                compare(gradient, expected, rtol=1e-12)
                assert not np.any(np.asarray(gradient)[~mask])


ROWS = ["softmax_cross_entropy", "kl_divergence", "cosine_similarity", "poly_loss_cross_entropy"]


@pytest.mark.parametrize("name", ROWS)
def test_where_may_name_whole_rows(name: str) -> None:
    case = next(c for c in CASES if c.name == name)
    x, y = case.inputs(jnp.float32)
    rows = np.arange(6) % 2 == 0
    f = functools.partial(getattr(losses, name), x, y)
    expected = np.where(rows, f(), 0)
    for where in (
        rows,
        rows[:, None],
        rows[:, None].repeat(5, 1),
        rows.astype(np.float32),
        rows.astype(np.int32),
    ):
        compare(f(where=jnp.asarray(where)), expected, rtol=0)
    compare(f(where=True), f(), rtol=0)
    with pytest.raises(
        ValueError, match=rf"{name}: argument 'where' must have the shape.*\(6, 5\).*got \(5,\)"
    ):
        f(where=np.ones(5, bool))


AXES = [
    "softmax_cross_entropy",
    "kl_divergence",
    "cosine_similarity",
    "smooth_labels",
    "poly_loss_cross_entropy",
]


@pytest.mark.parametrize("name", AXES)
def test_axis_is_an_int_a_tuple_or_none(name: str) -> None:
    rng = np.random.default_rng(2)
    x, y = (jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32) for _ in range(2))
    x, y = jax.nn.log_softmax(x, (0, 1, 2)), jax.nn.softmax(y, (0, 1, 2))
    labels_only = name == "smooth_labels"

    def f(x: Any, y: Any, axis: Any) -> Any:
        return (
            getattr(losses, name)(y, 0.1, axis=axis)
            if labels_only
            else getattr(losses, name)(x, y, axis=axis)
        )

    def moved(x: Any, y: Any, axes: tuple[int, ...]) -> Any:
        rest = tuple(i for i in range(3) if i not in axes)
        flat = [a.transpose(rest + axes).reshape(*(a.shape[i] for i in rest), -1) for a in (x, y)]
        out = f(*flat, axis=-1)
        if labels_only:
            shape = [x.shape[i] for i in rest + axes]
            out = out.reshape(shape).transpose(np.argsort(rest + axes))
        return out

    for axis, axes in (
        (-2, (1,)),
        ((2, 0), (0, 2)),
        (None, (0, 1, 2)),
        ([1], (1,)),
    ):
        both = jax.jit(functools.partial(f, axis=axis)), jax.jit(functools.partial(moved, axes=axes))
        compare(both[0](x, y), both[1](x, y), rtol=1e-5, atol=1e-6)
    for bad in (3, -4, (1, 1), (0, 7)):
        with pytest.raises(ValueError, match=f"{name}: argument 'axis' must name distinct axes of 3-dim"):
            f(x, y, bad)
    for wrong in (1.0, "x", (0, "y")):
        with pytest.raises(TypeError, match=f"{name}: argument 'axis' must be an int"):
            f(x, y, wrong)
