"""Arguments that are wrong when a transformation is built: named, with what was expected and what came."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow._expressions._arguments import Interval, LearningRate
from gradflow._expressions._registry import OWN_FACTORIES

RATES: list[Any] = [
    -math.inf,
    math.nan,
    math.inf,
    None,
    "0.1",
    True,
    [0.1],
    np.array([0.1, 0.2]),
    jnp.ones(2),
    1j,
]
DECAYS: list[Any] = [1.0, 1.5, -0.1, math.nan, None, "x", np.float32(1.0), jnp.float32(1.0)]


@pytest.mark.parametrize(
    ("name", "rate"),
    [(name, rate) for name in ("adam", "sgd") for rate in RATES]
    + [("lion", math.nan), ("scale_by_learning_rate", None)],
    ids=repr,
)
def test_a_wrong_rate(name: str, rate: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{name}: argument 'learning_rate' must be a number"):
        getattr(gf, name)(rate)


@pytest.mark.parametrize(("argument", "decay"), [*(("b1", d) for d in DECAYS), ("b2", 1.0)], ids=repr)
def test_a_wrong_decay(argument: str, decay: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"adam: argument '{argument}' must be a number in"):
        gf.adam(0.1, **{argument: decay})


def _intervals() -> list[Any]:
    found = []
    for name, factory in OWN_FACTORIES.items():
        for argument, spec in factory.checked.items():
            if isinstance(spec.kind, Interval):
                found.append(pytest.param(name, argument, id=f"{name}.{argument}"))
    return found


@pytest.mark.parametrize(("name", "argument"), _intervals())
def test_every_number_refuses_what_is_none(name: str, argument: str) -> None:
    factory = OWN_FACTORIES[name]
    spec = factory.checked[argument]
    wrong: list[Any] = ["x", math.nan, jnp.ones(2), object()]
    wrong += [] if spec.optional else [None]
    is_rate = isinstance(spec.kind, LearningRate)  # a negative one ascends
    wrong += [-math.inf if is_rate else spec.kind.low - 1] if spec.kind.low > -math.inf else []
    if spec.kind.infinite:
        spec.check(name, argument, math.inf)
    else:
        wrong += [math.inf]
    wrong += [spec.kind.high + 1] if spec.kind.high < math.inf else []
    for value in wrong:
        with pytest.raises((ValueError, TypeError)) as caught:
            spec.check(name, argument, value)
        message = str(caught.value)
        assert message.startswith(f"{name}: argument '{argument}' must be")
        assert "got" in message


def test_a_concrete_array_is_checked_and_a_tracer_is_not() -> None:
    with pytest.raises(ValueError, match="must be a number >= 0"):
        gf.adam(jnp.float32(jnp.nan))
    with pytest.raises(ValueError, match="got an array of shape"):
        jax.jit(lambda x: gf.adam(x).init({"w": x}))(jnp.ones(2))
    jax.jit(lambda x: gf.adam(x).init({"w": x}))(jnp.float32(-0.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gf.adam(), "adam: missing a required argument: 'learning_rate'"),
        (lambda: gf.adam(0.1, learning_rte=0.1), "adam: got an unexpected keyword argument 'learning_rte'"),
        (lambda: gf.adam(0.1, 0.9, 0.99, 1e-8, 0.0, None, True), "adam: too many positional arguments"),
        (lambda: gf.adam(0.1, learning_rate=0.2), "adam: multiple values for argument 'learning_rate'"),
        (lambda: gf.adam(0.1, nesterov="yes"), "adam: argument 'nesterov' must be True or False; got 'yes'"),
        (lambda: gf.adam(0.1, eps=-1.0), "adam: argument 'eps' must be a number >= 0"),
        (lambda: gf.scale("2"), "scale: argument 'step_size' must be a finite number"),
    ],
)
def test_wrong_calls(call: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_negative_rate_ascends_with_one_warning_and_a_finding() -> None:
    """Adversarial games train one side so: `rmsprop(-1e-4)`."""
    params, grads = {"w": jnp.ones(3)}, {"w": jnp.array([1.0, -2.0, 3.0])}
    with pytest.warns(UserWarning, match=r"the learning rate -0\.00012 is negative.*ascend") as caught:
        up = gf.rmsprop(-1.2e-4)
    assert len(caught) == 1
    down = gf.rmsprop(1.2e-4)
    for tx in (up, gf.from_config(gf.to_config(up))):  # built again without another warning
        (rising, _), (falling, _) = (t.update(grads, t.init(params), params) for t in (tx, down))
        np.testing.assert_array_equal(rising["w"], -falling["w"])
    assert "learning_rate = -0.00012 is negative" in str(gf.check(up, params))
    assert "negative" not in str(gf.check(down, params))


@pytest.mark.parametrize("name", ["madgrad", "momo", "rprop", "momo_adam"])
def test_a_negative_rate_is_refused_where_it_has_no_meaning(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: argument 'learning_rate' must be a number >= 0"):
        getattr(gf, name)(-0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda limit: gf.clip(limit),
        lambda limit: gf.clip_by_global_norm(limit),
        lambda limit: gf.clip_by_block_rms(limit),
        lambda limit: gf.adaptive_grad_clip(limit),
        lambda limit: gf.adaptive_grad_clip(limit, eps=0.0),
    ],
)
def test_an_infinite_limit_changes_nothing(make: Any) -> None:
    params = {"w": jnp.array([0.0, 1.0, 2.0]), "b": jnp.zeros(2)}
    for number in (0.0, 1e-30, 1.0, 1e30, jnp.inf):
        grads = {"w": jnp.array([1.0, -2.0, number]), "b": jnp.full(2, number)}
        for tx in (make(jnp.inf), make(float("inf")), make(1e30)):
            updates, _ = tx.update(grads, tx.init(params), params)
            if tx == make(float("inf")):
                jax.tree.map(np.testing.assert_array_equal, updates, grads)


@pytest.mark.parametrize(
    ("unlimited", "plain"),
    [
        (
            lambda: gf.adafactor(0.1, clipping_threshold=jnp.inf),
            lambda: gf.adafactor(0.1, clipping_threshold=None),
        ),
        (lambda: gf.polyak_sgd(jnp.inf), lambda: gf.polyak_sgd(1e30)),
        (lambda: gf.rprop(0.1, max_step_size=jnp.inf), lambda: gf.rprop(0.1)),
    ],
)
def test_an_infinite_limit_in_an_optimizer(unlimited: Any, plain: Any) -> None:
    params, grads = {"w": jnp.ones((4, 3))}, {"w": jnp.linspace(-1.0, 2.0, 12).reshape(4, 3)}
    found = []
    for tx in (unlimited(), plain()):
        updates, state = tx.update(grads, tx.init(params), params, value=jnp.float32(3.0))
        updates, _ = tx.update(grads, state, params, value=jnp.float32(3.0))
        found.append(updates["w"])
    np.testing.assert_array_equal(*found)


def test_an_eps_of_zero_divides_by_the_root_alone() -> None:
    params, grads = {"w": jnp.ones(3)}, {"w": jnp.array([1e-6, -2.0, 3.0])}
    for make in (gf.adam, gf.adamw, gf.adamax, gf.amsgrad, gf.adabelief, gf.rmsprop, gf.adagrad, gf.lamb):
        tx = make(0.1, eps=0.0)
        updates, _ = tx.update(grads, tx.init(params), params)
        assert np.all(np.isfinite(updates["w"])), make
    np.testing.assert_allclose(
        gf.adam(0.1, eps=0.0).update(grads, gf.adam(0.1).init(params))[0]["w"],
        -0.1 * np.sign(grads["w"]),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"w": True}, "the mask must cover every parameter; got none at 'b'"),
        ({"w": True, "b": 0.5}, "leaves of a mask must be True or False; got 0.5 at 'b'"),
        ({"w": True, "b": True, "c": True}, "a leaf at 'c', where there is no parameter"),
        (lambda params: {"w": True}, "cover every parameter; got none at 'b'"),
    ],
)
def test_wrong_masks(mask: Any, message: str) -> None:
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    with pytest.raises((ValueError, TypeError), match=message):
        gf.adamw(0.1, mask=mask).init(params)


def test_masks_match_by_path() -> None:
    params = {"layers": [jnp.ones(2), jnp.ones(3)], "head": {"w": jnp.ones(1), "b": jnp.ones(1)}}
    grads = jax.tree.map(jnp.zeros_like, params)
    for mask in (
        {"layers": (True, False), "head": True},
        {"layers": [True, False], "head": {"w": True, "b": True}},
        lambda p: {"layers": [True, False], "head": True},
    ):
        tx = gf.add_decayed_weights(1.0, mask)
        updates, _ = tx.update(grads, tx.init(params), params)
        sums = [float(jnp.sum(u)) for u in jax.tree.leaves(updates)]
        assert sums == [1.0, 1.0, 2.0, 0.0]


def test_a_callable_pytree_is_a_mask_and_no_function() -> None:
    @jax.tree_util.register_pytree_with_keys_class
    class Module:
        def __init__(self, w: Any) -> None:
            self.w = w

        def __call__(self, x: Any) -> Any:
            raise AssertionError("a mask was called")

        def tree_flatten_with_keys(self) -> Any:
            return [(jax.tree_util.GetAttrKey("w"), self.w)], None

        @classmethod
        def tree_unflatten(cls, aux: Any, children: Any) -> Any:
            return cls(*children)

    params = Module(jnp.ones(2))
    tx = gf.add_decayed_weights(1.0, Module(False))
    updates, _ = tx.update(Module(jnp.zeros(2)), tx.init(params), params)
    np.testing.assert_array_equal(updates.w, 0.0)


@pytest.mark.parametrize("dtype", [jnp.int8, "int32", "nonsense", 3, bool])
def test_wrong_dtypes(dtype: Any) -> None:
    with pytest.raises(TypeError, match="adam: argument 'mu_dtype' must be a floating-point dtype"):
        gf.adam(0.1, mu_dtype=dtype)


def test_an_integer_array_is_the_number_that_it_stands_for() -> None:
    params = {"w": jnp.ones(2)}
    for make in (lambda b: gf.adam(0.1, b1=b), lambda b: gf.ema(b), lambda b: gf.scale(b)):
        tx, plain = make(jnp.array(0)), make(0.0)
        got, _ = tx.update(params, tx.init(params), params)
        want, _ = plain.update(params, plain.init(params), params)
        np.testing.assert_array_equal(got["w"], want["w"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: gf.trace(0.9, accumulator_dtype=jnp.float32),
        lambda: gf.ema(0.9, debias=False, accumulator_dtype=jnp.float32),
        lambda: gf.adam(0.1, mu_dtype=jnp.bfloat16),
        lambda: gf.MultiSteps(gf.scale(1.0), 1),
    ],
)
def test_a_real_accumulator_keeps_the_imaginary_part(make: Any) -> None:
    params = {"w": jnp.full(2, 1j, jnp.complex64)}
    tx = make()
    updates, _ = tx.update(params, tx.init(params), params)
    assert np.all(np.abs(np.imag(updates["w"])) > 0.05)


STATE = gf.adam(0.1).init({"w": jnp.ones(2)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda w: gf.adam(0.1).update(w, jax.eval_shape(lambda: STATE), w),
            r"^adam: argument 'state' must have arrays .* at '0/count'. Only init takes shapes",
        ),
        (
            lambda w: gf.ema(0.9).update(jax.eval_shape(lambda: w), gf.ema(0.9).init(w)),
            r"^ema: argument 'updates' must have arrays .* at 'w'. Only init takes shapes",
        ),
        (
            lambda w: gf.dog().update(w, jax.tree.map(lambda x: "x", gf.dog().init(w)), w),
            r"^dog: argument 'state' must have arrays as its leaves; got 'x' at",
        ),
        (
            lambda w: gf.tunable(gf.adam(0.1)).init({"w": "x"}),
            r"^tunable: argument 'params' must have arrays as its leaves; got 'x' at 'w'",
        ),
    ],
)
def test_leaves_that_are_not_arrays_are_named_after_a_call_failed(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message) as found:
        call({"w": jnp.ones(2)})
    files = [entry.path.parent for entry in found.traceback]
    assert files.count(Path(gf.__file__).parent / "_core") == 1
    assert Path(gf.__file__).parent / "_calls" not in files


def test_an_error_of_a_users_stage_stays_beside_leaves_that_are_not_arrays() -> None:
    """A name without an update may be in the parameters, and text in a state."""
    pair = gf.GradientTransformation(lambda params: {"made by": "me"}, lambda *_: {}["a key"])
    tx = gf.chain(pair)
    with pytest.raises(KeyError, match="a key"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    pair = gf.GradientTransformation(lambda params: len(3), pair.update)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'params' must have arrays") as found:
        gf.chain(pair).init({"w": jnp.ones(2), "name": "x"})
    assert "has no len()" in str(found.value.__cause__)


def test_a_transformation_in_a_tree_is_searched_by_its_fields() -> None:
    # Its children in jax are the arrays among its arguments, and not its two functions.
    assert gf.tree.get({"tx": gf.adam(0.1), "count": 3}, "count") == 3
