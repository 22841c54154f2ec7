"""`gradflow.compat` in the place of Optax: its names, its private modules, and `install()`."""

import copy
import functools
import importlib
import inspect
import pickle
import subprocess
import sys
import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import compat

optax = pytest.importorskip("optax")

MODULES = [
    "", "assignment", "contrib", "experimental", "losses", "microbatching", "perturbations", "projections",
    "schedules", "second_order", "transforms", "tree", "tree_utils",
]  # fmt: skip


def at(root: Any, path: str) -> Any:
    for name in path.split(".") if path else []:
        root = getattr(root, name)
    return root


@pytest.mark.parametrize("path", MODULES)
def test_every_name_of_the_installed_peer_is_there(path: str) -> None:
    theirs, ours = at(optax, path), at(compat, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        names = [name for name in dir(theirs) if not name.startswith("_")]
        if path:  # the others import modules for their own use
            names = [name for name in names if not isinstance(getattr(theirs, name), types.ModuleType)]
        absent = {name for name in names if not hasattr(ours, name)}
    assert not absent


DEPRECATED = {
    "global_norm": "tree.norm", "tree_utils.tree_l2_norm": "tree.norm", "tree_l2_norm": "tree.norm",
    "tree_utils.tree_scalar_mul": "tree.scale", "tree_scalar_mul": "tree.scale",
    "tree_utils.tree_add_scalar_mul": "tree.add_scale", "tree_utils.tree_l1_norm": "ord=1",
    "tree_utils.tree_linf_norm": "ord=jnp.inf", "optimistic_adam": "optimistic_adam_v2",
    "InjectHyperparamsState": "InjectStatefulHyperparamsState",
    "convex_kl_divergence": "generalized_kl_divergence",
    "losses.convex_kl_divergence": "generalized_kl_divergence",
    "schedules.inject_stateful_hyperparams": "inject",
    "second_order.hvp": "jax.jvp", "_src.linear_algebra.global_norm": "tree.norm",
}  # fmt: skip


@pytest.mark.parametrize("path", DEPRECATED)
def test_deprecated_names_say_what_to_call(path: str) -> None:
    name = path.rpartition(".")[2]
    with pytest.warns(DeprecationWarning, match=f"{name} is deprecated; use .*{DEPRECATED[path]}") as caught:
        assert at(compat, path) is not None
    assert caught[0].filename == __file__ or "test_compat_names" in caught[0].filename


@pytest.fixture
def quietly() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.mark.usefixtures("quietly")
def test_deprecated_names_compute_what_they_did() -> None:
    t = {"a": jnp.array([3.0, -4.0]), "b": jnp.array([[12.0]])}
    assert compat.global_norm(t) == compat.tree_l2_norm(t) == compat.tree_utils.tree_l2_norm(t) == 13
    assert compat.tree_utils.tree_l1_norm(t) == 19
    assert compat.tree_utils.tree_linf_norm(t) == 12
    np.testing.assert_array_equal(compat.tree_scalar_mul(2.0, t)["a"], [6, -8])
    np.testing.assert_array_equal(compat.tree_utils.tree_add_scalar_mul(t, 2.0, t)["a"], [9, -12])
    state = compat.inject_hyperparams(compat.sgd)(0.1).init(t)
    assert isinstance(state, compat.InjectHyperparamsState)


@pytest.mark.usefixtures("quietly")
def test_optimistic_adam_is_the_peers() -> None:
    params = jnp.array([0.5, -1.0, 2.0])
    found = []
    for module in (compat, optax):
        for tx in (module.optimistic_adam(0.1), module.optimistic_adam(0.1, 0.3, nesterov=False)):
            state = tx.init(params)
            for scale in (1.0, 2.0, 3.0):
                with jax.numpy_dtype_promotion("standard"):
                    updates, state = tx.update(jnp.array([1.0, -2.0, 0.5]) * scale, state, params)
            found.append(updates)
    np.testing.assert_allclose(found[0], found[2], rtol=2e-5)
    np.testing.assert_allclose(found[1], found[3], rtol=2e-5)


@pytest.mark.usefixtures("quietly")
def test_second_order_of_a_known_hessian() -> None:
    def loss(p: Any, x: Any, y: Any) -> Any:
        return jnp.sum(x * p["a"] ** 2) + p["b"] ** 3 + y * p["a"][0] * p["b"]

    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.float32(3.0)}
    x, y = jnp.array([4.0, 5.0]), jnp.float32(7.0)
    product = compat.second_order.hvp(loss, jnp.array([1.0, 0.0, 2.0]), params, x, y)
    np.testing.assert_allclose(product["a"], [8 + 14, 0])
    np.testing.assert_allclose(product["b"], 7 + 36)
    np.testing.assert_allclose(compat.second_order.hessian_diag(loss, params, x, y), [8, 10, 18])
    slope = np.array([8 + 21, 20, 27 + 7], np.float32)
    np.testing.assert_allclose(compat.second_order.fisher_diag(loss, params, x, y), slope**2)


def test_multisteps_is_a_type() -> None:
    tx = compat.MultiSteps(compat.sgd(0.1), every_k_schedule=2)
    assert isinstance(tx, compat.MultiSteps)
    assert isinstance(tx, compat.transforms.MultiSteps)
    assert not isinstance(compat.sgd(0.1), compat.MultiSteps)
    assert tx == gf.MultiSteps(gf.sgd(0.1), 2)


def test_a_subclass_of_multisteps_is_the_class_that_it_says() -> None:
    class Counting(compat.MultiSteps):
        def __init__(self, opt: Any, every_k_schedule: Any, tag: str = "") -> None:
            super().__init__(opt, every_k_schedule, use_grad_mean=False)
            self.tag, self.calls = tag, 0

        def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            self.calls += 1
            return super().update(updates, state, params, **extra)

    class Unchanged(compat.MultiSteps):
        pass

    tx = Counting(compat.sgd(0.5), 2, tag="ours")
    assert isinstance(tx, compat.MultiSteps)
    assert isinstance(tx, Counting)
    assert not isinstance(compat.MultiSteps(compat.sgd(0.5), 2), Counting)
    assert list(inspect.signature(Counting).parameters) == ["opt", "every_k_schedule", "tag"]
    assert inspect.signature(Unchanged) == inspect.signature(compat.MultiSteps)
    state = tx.init(jnp.ones(2))
    for _ in range(2):
        updates, state = tx.update(jnp.ones(2), state)
    assert (tx.tag, tx.calls, tx.inner_opt) == ("ours", 2, compat.sgd(0.5))
    np.testing.assert_array_equal(updates, [-1, -1])
    assert tx.has_updated(state)
    every = Unchanged(compat.sgd(0.5), lambda step: 1)
    pair = compat.chain(compat.clip(0.5), every.gradient_transformation())
    np.testing.assert_array_equal(pair.update(jnp.ones(2), pair.init(jnp.ones(2)))[0], [-0.25, -0.25])


def test_a_pair_assembled_by_hand_keeps_its_class() -> None:
    pair = compat.GradientTransformation(*compat.adam(0.1))
    inside = compat.chain(pair)
    for same in (pickle.loads(pickle.dumps(pair)), copy.deepcopy(pair), pair._replace(init=pair.init)):
        assert type(same) is compat.GradientTransformation
        assert same == pair
    assert type(gf.replace(pair, {"learning_rate": 0.2})) is compat.GradientTransformation
    assert type(pickle.loads(pickle.dumps(inside))) is compat.GradientTransformationExtraArgs


SRC = {
    "base": [
        "GradientTransformation",
        "EmptyState",
        "NO_PARAMS_MSG",
        "Params",
        "PyTree",
        "identity",
        "OptState",
    ],
    "transform": ["scale_by_adam", "ScaleByAdamState", "add_decayed_weights", "scale", "abs_sq"],
    "combine": ["chain", "named_chain"],
    "numerics": ["safe_int32_increment", "safe_norm", "abs_sq"],
    "utils": ["canonicalize_dtype", "canonicalize_key", "cast_tree", "scale_gradient"],
    "wrappers": ["masked", "MultiSteps", "apply_if_finite"],
}


@pytest.mark.parametrize("name", SRC)
def test_private_modules_that_libraries_import_from(name: str) -> None:
    module = importlib.import_module(f"gradflow.compat._src.{name}")
    for attribute in SRC[name]:
        getattr(module, attribute)
    assert importlib.import_module("gradflow.compat.contrib._muon").muon is gf.muon
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_helpers_of_private_modules() -> None:
    utils = compat._src.utils
    assert utils.canonicalize_dtype(None) is None
    assert utils.canonicalize_dtype(jnp.bfloat16) == jnp.bfloat16
    for key in (7, jnp.int32(7), jax.random.key(7)):
        assert utils.canonicalize_key(key) == jax.random.key(7)
    np.testing.assert_array_equal(utils.canonicalize_key(jax.random.PRNGKey(7)), jax.random.PRNGKey(7))
    assert compat._src.numerics.abs_sq(jnp.complex64(3 + 4j)) == 25


@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_the_orthogonal_factor_of_muon(preconditioning: str) -> None:
    theirs = importlib.import_module("optax.contrib._muon").orthogonalize_via_newton_schulz
    ours = compat.contrib._muon.orthogonalize_via_newton_schulz
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 5)), jnp.float32)
    row = jnp.array([3.4445, -4.775, 2.0315])
    for coefficients in (row, jnp.stack([row] * 3)):
        single = functools.partial(ours, ns_coeffs=coefficients, preconditioning=preconditioning)
        expected = theirs(x[0], coefficients, preconditioning=preconditioning)
        np.testing.assert_allclose(single(x[0]), expected, atol=2e-5)
        np.testing.assert_allclose(jax.jit(jax.vmap(single))(x)[0], expected, atol=2e-5)
    numbers = ((0, 1), (2,))
    expected = theirs(x, row, dimension_numbers=optax.contrib.MuonDimensionNumbers(*numbers))
    found = ours(x, row, dimension_numbers=compat.contrib.MuonDimensionNumbers(*numbers))
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("shape", [(), (300,), (128, 300), (300, 4, 128), (200, 127), (128, 128, 128)])
def test_private_names_of_adafactor(shape: tuple[int, ...]) -> None:
    theirs = importlib.import_module("optax._src.factorized")
    ours = importlib.import_module("gradflow.compat._src.factorized")
    assert ours._factored_dims(shape, False, 128) is None
    dims, expected = ours._factored_dims(shape, True, 128), theirs._factored_dims(shape, True, 128)
    if expected is None or len(set(shape)) == len(shape):
        assert dims == expected
    else:  # of equal axes the later ones
        assert dims == (1, 2)
    decay = jnp.stack([ours._decay_rate_pow(len(shape), 0.7), ours._decay_rate_pow(jnp.int32(len(shape)))])
    np.testing.assert_allclose(decay, 1 - (len(shape) + 1.0) ** -np.array([0.7, 0.8]), rtol=1e-6, atol=1e-7)


def test_helpers_of_shapes_and_precision() -> None:
    utils = compat._src.utils
    matrices, diagonals = np.arange(18.0).reshape(2, 3, 3), np.arange(6.0).reshape(2, 3) + 100
    found = np.asarray(utils.set_diags(jnp.asarray(matrices), jnp.asarray(diagonals)))
    np.testing.assert_array_equal(np.diagonal(found, axis1=1, axis2=2), diagonals)
    np.testing.assert_array_equal(np.where(np.eye(3), 0, found), np.where(np.eye(3), 0, matrices))
    np.testing.assert_array_equal(utils.tile_second_to_last_dim(jnp.arange(3.0)), [[0] * 3, [1] * 3, [2] * 3])
    with pytest.raises(ValueError, match=r"shapes \(n, d, d\) and \(n, d\)"):
        utils.set_diags(jnp.asarray(matrices), jnp.ones((3, 2)))
    with utils.x64_precision(True):
        assert jnp.ones(1).dtype == np.float64
    assert jnp.ones(1).dtype == np.float32
    utils.check_subdtype(jnp.ones(1), jnp.floating)
    utils.check_rank(jnp.ones(1), 1)
    utils.check_shapes_equal(jnp.ones(1), np.ones(1))
    for check, *arguments in (
        (utils.check_subdtype, 1, jnp.floating), (utils.check_rank, 1, 1), (utils.check_shapes_equal, 1, [1])
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=check.__name__):
            check(*arguments)


def test_arguments_are_split_between_functions() -> None:
    split = compat._src.linesearch._extract_fns_kwargs
    own, rest = split((lambda a, b: a, lambda c, b: c), {"b": 1, "c": 2, "d": 3})
    assert own == [{"b": 1}, {"b": 1, "c": 2}]
    assert rest == {"d": 3}


@pytest.mark.parametrize(
    "path", ["assignment", "experimental", "microbatching", "perturbations", "projections"]
)
def test_rooms_and_their_private_modules_are_imported(path: str) -> None:
    theirs = importlib.import_module(f"optax.{path}")
    ours = importlib.import_module(f"gradflow.compat.{path}")
    assert getattr(compat, path) is ours
    (part,) = (name for name in vars(theirs) if name.startswith("_") and not name.startswith("__"))
    private = importlib.import_module(f"gradflow.compat.{path}.{part}")
    names = [name for name in dir(ours) if hasattr(getattr(theirs, part), name)]
    assert names
    assert all(getattr(private, name) is getattr(ours, name) for name in names)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_installed_it_is_what_libraries_import() -> None:
    done = run("""
import sys, gradflow, gradflow.compat
gradflow.compat.install()
gradflow.compat.install()
import optax, optax.contrib._muon, optax.tree_utils as otu
from optax._src import base, transform, combine, numerics, utils, wrappers
from optax.losses import l2_loss
from optax import contrib, schedules
import flax.training.train_state as train_state, jax.numpy as jnp
assert optax is gradflow.compat and optax.adam is gradflow.adam
assert otu.tree_add is gradflow.tree.add and l2_loss is gradflow.l2_loss
assert optax.__version__.startswith("0.")
state = train_state.TrainState.create(apply_fn=None, params={"w": jnp.ones(2)}, tx=optax.sgd(0.5))
assert state.apply_gradients(grads={"w": jnp.ones(2)}).params["w"][0] == 0.5
files = [str(getattr(module, "__file__", "")) for module in sys.modules.values()]
assert not any("site-packages/optax/" in file for file in files)
""")
    assert done.returncode == 0, done.stderr


def test_install_after_the_real_one_is_refused() -> None:
    done = run("import optax, gradflow.compat; gradflow.compat.install()")
    assert "must be called before optax is imported" in done.stderr


@pytest.mark.parametrize("name", ["losses", "tree_utils"])
def test_private_modules_of_the_rooms_have_their_names(name: str) -> None:
    theirs = importlib.import_module(f"optax.{name}")
    parts = [part for part in dir(theirs) if isinstance(getattr(theirs, part), types.ModuleType)]
    parts = [part for part in parts if part.startswith("_")]
    assert len(parts) > 3
    for part in parts:
        ours = importlib.import_module(f"gradflow.compat.{name}.{part}")
        public = [n for n in vars(getattr(theirs, part)) if n in dir(getattr(compat, name))]
        assert public
        assert all(getattr(ours, n) is getattr(getattr(compat, name), n) for n in public)


def test_star_imports_give_public_names_and_what_the_module_imports() -> None:
    done = run("""
import gradflow, gradflow.compat
gradflow.compat.install()
from optax import *
from optax.losses import *
from optax.tree_utils import *
from optax._src.transform import *
from optax._src.linear_algebra import lax
assert adam is gradflow.adam and l2_loss is gradflow.l2_loss and tree_add is gradflow.tree.add
assert scale_by_adam is gradflow.scale_by_adam and base.EmptyState is gradflow.EmptyState
assert issubclass(NamedTuple("State", [("count", Optional[int])]), tuple) and jnp.ones(1) == lax.abs(-1.0)
""")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("shape", "numbers"), [((3, 4), (0, 1)), ((2, 3, 4, 5), ((-1, 1), (0,))), ((4, 2, 3), (2, (0,)))]
)
def test_muon_helpers_that_rules_of_others_are_written_with(shape: Any, numbers: Any) -> None:
    theirs = importlib.import_module("optax.contrib._muon")
    ours = compat.contrib._muon
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    there, back = ours._compute_muon_reshape(x, ours.MuonDimensionNumbers(*numbers))
    expected, _ = theirs._compute_muon_reshape(x, theirs.MuonDimensionNumbers(*numbers))
    np.testing.assert_array_equal(there(x), expected(x))
    np.testing.assert_array_equal(back(2 * there(x)), 2 * x)
    for name in ("_normalize_axes", "_get_shape_products"):
        found = getattr(ours, name)(x, ours.MuonDimensionNumbers(*numbers))
        assert found == getattr(theirs, name)(x, theirs.MuonDimensionNumbers(*numbers)), name
    coefficients = jnp.array([3.4445, -4.775, 2.0315])
    for name in ("_base_ns_iterator", "_aol_ns_iterator", "_schatten_ns_iterator"):
        for i in (0, 1):
            mine = getattr(ours, name)(i, there(x)[0], coefficients)
            np.testing.assert_allclose(
                mine, getattr(theirs, name)(i, there(x)[0], coefficients), rtol=1e-4, atol=1e-5
            )
    for wrong in (((0, 1), 1), (0, -len(shape))):
        with pytest.raises(ValueError, match="disjoint"):
            ours._compute_muon_reshape(x, ours.MuonDimensionNumbers(*wrong))
    with pytest.raises(ValueError, match="two axes or more"):
        ours._compute_muon_reshape(x[0, 0].ravel(), ours.MuonDimensionNumbers())


def test_the_product_with_an_inverse_hessian() -> None:
    rng = np.random.default_rng(0)
    draw = lambda *shape: {"w": jnp.asarray(rng.standard_normal(shape), jnp.float32)}  # noqa: E731
    arguments = (draw(5), draw(4, 5), draw(4, 5), jnp.array([0.3, 0.1, 0.0, 0.4]), 0.7)
    theirs = importlib.import_module("optax._src.transform")._precondition_by_lbfgs
    for oldest in (0, jnp.int32(3)):
        found = jax.jit(compat._src.transform._precondition_by_lbfgs)(*arguments, oldest)
        np.testing.assert_allclose(found["w"], theirs(*arguments, oldest)["w"], rtol=1e-5, atol=1e-5)


def test_other_private_names() -> None:
    make_pert, inject = compat.perturbations._make_pert, compat.schedules._inject
    assert jax.value_and_grad(lambda x: make_pert._magicbox(3 * x))(2.0) == (1, 3)
    assert inject._convert_floats(0.5, jnp.bfloat16).dtype == jnp.bfloat16
    assert inject._convert_floats(jnp.float32(0.5), jnp.bfloat16).dtype == jnp.float32
    assert inject._convert_floats("word", jnp.bfloat16) == "word"
    assert len(jax.tree.leaves(compat._src.factorized._UpdateResult(1, 2, 3, 4))) == 1
    with pytest.warns(DeprecationWarning, match="scale_by_learning_rate"):
        assert compat._src.alias._scale_by_learning_rate is gf.scale_by_learning_rate
