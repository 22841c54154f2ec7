"""gradflow in the hands of other libraries, unmodified: one small program for each."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import interop
from gradflow.interop._export import state_types

optax = pytest.importorskip("optax")

X = np.linspace(-1.0, 1.0, 24, dtype=np.float32).reshape(8, 3)
Y = np.sin(X.sum(axis=1, keepdims=True)).astype(np.float32)


def _optimizers() -> dict[str, Any]:
    return {
        "adamw": gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.05)),
        "schedule": gf.sgd(gf.cosine_decay_schedule(0.2, 20), momentum=0.9),
        "tunable": gf.tunable(gf.adam(0.05)),
        "accumulated": gf.MultiSteps(gf.adam(0.05), 2),
    }


several = pytest.mark.parametrize("name", _optimizers())


@pytest.fixture
def lenient() -> Iterator[None]:
    """For what Optax itself does."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# pytestmark = pytest.mark.usefixtures("lenient")


def _falls(losses: list[Any]) -> None:
    numbers = [float(loss) for loss in losses]
    assert np.isfinite(numbers).all()
    assert numbers[-1] < 0.7 * numbers[0], numbers


# flax


@several
def test_flax_train_state(name: str) -> None:
    linen = pytest.importorskip("flax.linen")
    train_state = pytest.importorskip("flax.training.train_state")
    model = linen.Sequential([linen.Dense(4), linen.tanh, linen.Dense(1)])
    params = model.init(jax.random.key(0), X)["params"]
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=_optimizers()[name])

    @jax.jit
    def step(state: Any) -> tuple[Any, jax.Array]:
        def loss(params: Any) -> jax.Array:
            return jnp.mean((state.apply_fn({"params": params}, X) - Y) ** 2)

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    losses = []
    for _ in range(20):
        state, loss = step(state)
        losses.append(loss)
    _falls(losses)
    # A train state made again of equal parts is not traced again, by its number of steps neither: flax's
    # own begins as a Python integer.
    traced = step._cache_size()
    assert traced <= 2
    step(train_state.TrainState.create(apply_fn=model.apply, params=params, tx=_optimizers()[name]))
    assert step._cache_size() == traced


def _nnx_model() -> Any:
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.first = nnx.Linear(3, 4, rngs=rngs)
            self.norm = nnx.LayerNorm(4, rngs=rngs)
            self.last = nnx.Linear(4, 1, rngs=rngs)
            self.calls = nnx.Variable(jnp.zeros((), jnp.int32))  # not for the optimizer

        def __call__(self, x: Any) -> Any:
            self.calls[...] += 1
            return self.last(jnp.tanh(self.norm(self.first(x))))

    return Model(nnx.Rngs(0))


def _nnx_train(model: Any, optimizer: Any, steps: int) -> list[Any]:
    from flax import nnx

    @nnx.jit
    def step(model: Any, optimizer: Any) -> Any:
        value, grads = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        optimizer.update(model, grads)
        return value

    return [step(model, optimizer) for _ in range(steps)]


@several
def test_flax_nnx_optimizer(name: str) -> None:
    nnx = pytest.importorskip("flax.nnx")
    model = _nnx_model()
    optimizer = nnx.Optimizer(model, _optimizers()[name], wrt=nnx.Param)
    _falls(_nnx_train(model, optimizer, 20))
    assert int(optimizer.step[...]) == int(model.calls[...]) == 20


@pytest.mark.usefixtures("lenient")
def test_flax_nnx_paths_are_the_parameters_own() -> None:
    nnx = pytest.importorskip("flax.nnx")
    # Optax's decay by a mask that is a function of the leaves, gradflow's by paths: one and the same.
    runs = []
    for tx in (
        optax.adamw(0.05, weight_decay=0.5, mask=lambda p: jax.tree.map(lambda x: x.ndim == 2, p)),
        gf.adamw(0.05, weight_decay=0.5, mask=~gf.paths("**/bias", "norm/**")),
        gf.adamw(0.05, weight_decay=0.5, mask=gf.paths("*/kernel")),
        gf.partition({"*/kernel": gf.adamw(0.05, weight_decay=0.5), "**": gf.adam(0.05)}),
    ):
        model = _nnx_model()
        _nnx_train(model, nnx.Optimizer(model, tx, wrt=nnx.Param), 3)
        runs.append(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    for run in runs[1:]:
        chex.assert_trees_all_close(run, runs[0], rtol=1e-4, atol=1e-5)


def test_flax_nnx_trains_what_wrt_selects() -> None:
    nnx = pytest.importorskip("flax.nnx")
    model = _nnx_model()
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    wrt = nnx.All(nnx.Param, nnx.PathContains("last"))
    optimizer = nnx.Optimizer(model, gf.adamw(0.05), wrt=wrt)
    grads = nnx.grad(lambda m: jnp.mean((m(X) - Y) ** 2), argnums=nnx.DiffState(0, wrt))(model)
    optimizer.update(model, grads)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    chex.assert_trees_all_equal(after["first"], before["first"])
    assert not np.array_equal(after["last"]["kernel"], before["last"]["kernel"])


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="nnx.as_pure is of a flax that needs jax 0.10")
@pytest.mark.usefixtures("lenient")
def test_flax_nnx_run_that_optax_began() -> None:
    nnx = pytest.importorskip("flax.nnx")
    model, expected = _nnx_model(), _nnx_model()
    theirs = nnx.Optimizer(model, optax.adamw(0.05), wrt=nnx.Param)
    whole = nnx.Optimizer(expected, optax.adamw(0.05), wrt=nnx.Param)
    _nnx_train(expected, whole, 6)
    _nnx_train(model, theirs, 3)
    tx = gf.adamw(0.05)
    ours = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    state = interop.from_optax_state(tx, nnx.as_pure(theirs.opt_state), params)
    nnx.update(ours.opt_state, nnx.state(state))
    _nnx_train(model, ours, 3)
    chex.assert_trees_all_close(
        nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        nnx.to_pure_dict(nnx.state(expected, nnx.Param)),
        rtol=1e-4,
        atol=1e-5,
    )


# equinox


@several
def test_equinox(name: str) -> None:
    eqx = pytest.importorskip("equinox")
    tx = _optimizers()[name]
    model = eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    # Activation functions are leaves of the module: `filter` leaves None in their place.
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        loss, grads = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(X) - Y) ** 2))(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(20):
        model, state, loss = step(model, state)
        losses.append(loss)
    _falls(losses)


def test_equinox_selectors_and_frozen_parts() -> None:
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    grads = jax.tree.map(jnp.zeros_like, params)
    tx = gf.chain(gf.add_decayed_weights(1.0, mask=~gf.paths("**/bias")), gf.freeze("layers/1/**"))
    updates, _ = tx.update(grads, tx.init(params), params)
    chex.assert_trees_all_equal(updates.layers[0].weight, params.layers[0].weight)
    for zero in (updates.layers[0].bias, updates.layers[1].weight, updates.layers[1].bias):
        assert not zero.any()


def test_a_transformation_is_a_field_of_an_equinox_module() -> None:
    eqx = pytest.importorskip("equinox")

    class Trainer(eqx.Module):
        tx: Any = eqx.field(static=True)
        state: Any

        def step(self, grads: Any) -> Any:
            updates, state = self.tx.update(grads, self.state)
            return updates, Trainer(self.tx, state)

    grads = {"w": jnp.ones(3)}
    trainer = Trainer(gf.adam(0.1), gf.adam(0.1).init(grads))
    traces = []

    @eqx.filter_jit
    def run(trainer: Any) -> Any:
        traces.append(1)
        return trainer.step(grads)

    run(trainer)
    run(Trainer(gf.adam(0.1), trainer.state))
    assert len(traces) == 1


# haiku


@several
def test_haiku(name: str) -> None:
    hk = pytest.importorskip("haiku")
    tx = _optimizers()[name]
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([4, 1], activation=jnp.tanh)(x)))
    params = model.init(jax.random.key(0), X)
    step = jax.jit(gf.make_step(lambda p: jnp.mean((model.apply(p, X) - Y) ** 2), tx))
    state, losses = tx.init(params), []
    for _ in range(20):
        params, state, result = step(params, state)
        losses.append(result.value)
    _falls(losses)


def test_haiku_paths() -> None:
    hk = pytest.importorskip("haiku")
    model = hk.transform(lambda x: hk.nets.MLP([4, 1], name="body")(x))
    params = model.init(jax.random.key(0), X)
    assert gf.paths("body/linear_0/w")(params)["body/~/linear_0"]["w"]
    tx = gf.freeze(gf.paths("body/*/w"))
    updates, _ = tx.update(params, tx.init(params), params)
    assert not updates["body/~/linear_1"]["w"].any()


# numpyro


@pytest.mark.parametrize("name", ["adamw", "plateau"])
def test_numpyro_svi(name: str) -> None:
    numpyro = pytest.importorskip("numpyro")
    from numpyro import distributions, infer

    def model(y: Any) -> None:
        mean = numpyro.sample("mean", distributions.Normal(0.0, 10.0))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", distributions.Normal(mean, 1.0), obs=y)

    # A stage that asks for the loss gets it from numpyro's adapter.
    plateau = gf.chain(gf.adam(0.3), gf.reduce_on_plateau(patience=20))
    tx = plateau if name == "plateau" else _optimizers()[name]
    optimizer = numpyro.optim.optax_to_numpyro(interop.to_optax(tx))
    guide = infer.autoguide.AutoDelta(model)
    svi = infer.SVI(model, guide, optimizer, infer.Trace_ELBO())
    result = svi.run(jax.random.key(0), 100, jnp.asarray(Y[:, 0]) + 2.0, progress_bar=False)
    np.testing.assert_allclose(result.params["mean_auto_loc"], Y.mean() + 2.0, atol=0.3)


# optimistix


@pytest.mark.parametrize(
    "tx",
    [gf.adam(0.1), gf.sgd(0.1, momentum=0.5), gf.lbfgs(), gf.polyak_sgd()],
    ids=lambda tx: tx.expression.name,
)
def test_optimistix(tx: Any) -> None:
    optimistix = pytest.importorskip("optimistix")

    def bowl(y: Any, args: Any) -> Any:
        return jnp.sum((y["a"] - args) ** 2) + jnp.sum(y["b"] ** 2)

    solver = optimistix.OptaxMinimiser(tx, rtol=1e-4, atol=1e-4)
    start = {"a": jnp.zeros(3), "b": jnp.ones(2)}
    solution = optimistix.minimise(bowl, solver, start, args=jnp.arange(3.0), max_steps=300)
    np.testing.assert_allclose(solution.value["a"], np.arange(3.0), atol=1e-2)
    np.testing.assert_allclose(solution.value["b"], np.zeros(2), atol=1e-2)


@pytest.mark.parametrize(
    "search",
    [gf.scale_by_backtracking_linesearch(15), gf.scale_by_zoom_linesearch(3)],
    ids=["armijo", "wolfe"],
)
def test_optimistix_with_a_line_search_whose_first_trials_all_fail(search: Any) -> None:
    optimistix = pytest.importorskip("optimistix")

    def rosenbrock(y: Any, args: Any) -> Any:
        return jnp.sum(100 * jnp.square(y[1:] - jnp.square(y[:-1])) + jnp.square(1 - y[:-1]))

    solver = optimistix.OptaxMinimiser(gf.chain(gf.sgd(1.0), search), rtol=1e-4, atol=1e-4)
    solution = optimistix.minimise(rosenbrock, solver, jnp.zeros(4), max_steps=3000, throw=False)
    assert rosenbrock(solution.value, None) < 0.1


# orbax


def _trained(tx: Any, steps: int = 3) -> tuple[Any, Any]:
    params = {"layer": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}}
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(jax.tree.map(lambda p: p + 0.5, params), state, params)
        params = gf.apply_updates(params, updates)
    return params, state


@several
def test_orbax_saves_and_restores(name: str, tmp_path: Path) -> None:
    checkpoint = pytest.importorskip("orbax.checkpoint")
    tx = _optimizers()[name]
    params, state = _trained(tx)
    abstract = jax.eval_shape(tx.init, params)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", abstract)
    chex.assert_trees_all_equal(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    ours = tx.update(params, restored, params)
    chex.assert_trees_all_equal(ours, tx.update(params, state, params))


@pytest.mark.usefixtures("lenient")
def test_orbax_checkpoint_of_a_run_that_optax_began(tmp_path: Path) -> None:
    checkpoint = pytest.importorskip("orbax.checkpoint")
    params, state = _trained(optax.adamw(optax.linear_schedule(0.1, 0.0, 10)))
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        plain = checkpointer.restore(tmp_path / "state")
    tx = gf.adamw(gf.linear_schedule(0.1, 0.0, 10))
    chex.assert_trees_all_equal(
        interop.from_optax_state(tx, plain, params), interop.from_optax_state(tx, state, params)
    )


# jax.export


def _exported(tx: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    params = {"w": jnp.ones((2, 3)), "b": None}

    def step(params: Any, state: Any, x: Any) -> Any:
        grads = jax.grad(lambda p: jnp.sum((p["w"] @ x) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return gf.apply_updates(params, updates), state

    arguments = (params, tx.init(params), jnp.ones(3))
    return jax.export.export(jax.jit(step))(*arguments), arguments


def test_a_training_step_is_exported_and_runs() -> None:
    importlib.import_module("jax.export")
    interop.register_for_export()
    interop.register_for_export()
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(gf.linear_schedule(0.1, 0.0, 10)))
    exported, arguments = _exported(tx)
    again = jax.export.deserialize(exported.serialize())
    expected = jax.jit(exported.call)(*arguments)
    result = again.call(*arguments)
    chex.assert_trees_all_close(result, expected)
    assert jax.tree.structure(result[1]) == jax.tree.structure(arguments[1])


def test_an_update_of_any_number_of_rows_is_exported() -> None:
    importlib.import_module("jax.export")
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1))
    (rows,) = jax.export.symbolic_shape("rows")
    like = jax.ShapeDtypeStruct((rows, 3), jnp.float32)

    def update(g: Any) -> Any:
        return tx.update(g, tx.init(g), g)[0]

    exported = jax.export.export(jax.jit(update))(like)
    for count in (1, 4):
        g = jnp.arange(3.0 * count).reshape(count, 3)
        chex.assert_trees_all_close(exported.call(g), update(g), rtol=1e-5)


def test_updates_of_matrices_of_any_sides_are_exported() -> None:
    """Sizes that cannot be compared: either side of a product is right, and coded states stay plain."""
    importlib.import_module("jax.export")
    txs = [gf.adamw(0.1), gf.scion(0.1), gf.muon(0.1), gf.adamuon(0.1), gf.muown(0.1)]
    txs.append(gf.quantize_state(gf.adamw(0.1)))
    rows, columns = jax.export.symbolic_shape("rows, columns")
    like = {
        "w": jax.ShapeDtypeStruct((rows, columns), jnp.float32),
        "b": jax.ShapeDtypeStruct((columns,), jnp.float32),
    }

    def updates(g: Any) -> Any:
        return [tx.update(g, tx.init(g), g)[0] for tx in txs]

    exported = jax.export.export(jax.jit(updates))(like)
    for shape in ((2, 5), (5, 2)):
        g = {"w": jnp.cos(jnp.arange(10.0)).reshape(shape), "b": jnp.ones(shape[1])}
        chex.assert_trees_all_close(exported.call(g), updates(g), rtol=1e-4, atol=1e-5)


DECIDE_BY_SIZES = (
    "soap", "soap_muon", "kron", "shampoo", "dion2", "splus", "galore", "apollo", "adafactor", "adam_mini"
)  # fmt: skip


@pytest.mark.parametrize("name", DECIDE_BY_SIZES)
def test_a_size_that_must_be_a_number_is_named(name: str) -> None:
    importlib.import_module("jax.export")
    rows, columns = jax.export.symbolic_shape("rows, columns")
    like = {
        n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in (("b", (2, 3)), ("w", (rows, columns)))
    }
    tx = getattr(gf, name)(0.1)
    told = r"^scale_by_\w+: ('rows'|'columns')( and '\w+')? of the leaf at 'w' must be .* \(rows, columns\)"
    with pytest.raises(ValueError, match=told):
        jax.export.export(jax.jit(lambda g: tx.update(g, tx.init(g), g)[0]))(like)


def test_functions_of_arrays_of_any_size_are_exported() -> None:
    importlib.import_module("jax.export")

    def values(x: Any) -> Any:
        dice = gf.losses.multiclass_generalized_dice_loss
        return dice(x, x, ignore_background=True), gf.numerics.safe_root_mean_squares(x, 0.0)

    rows, columns = jax.export.symbolic_shape("rows, columns")
    exported = jax.export.export(jax.jit(values))(jax.ShapeDtypeStruct((rows, columns), jnp.float32))
    x = jnp.arange(6.0).reshape(2, 3)
    chex.assert_trees_all_close(exported.call(x), values(x), rtol=1e-6)


def test_an_exported_step_runs_in_another_process(tmp_path: Path) -> None:
    importlib.import_module("jax.export")
    interop.register_for_export()
    exported, _ = _exported(gf.adam(0.1))
    (tmp_path / "step").write_bytes(exported.serialize())
    script = f"""
import jax, jax.numpy as jnp, jax.export, gradflow, pathlib
gradflow.interop.register_for_export()
step = jax.export.deserialize(pathlib.Path({str(tmp_path / "step")!r}).read_bytes())
params = {{"w": jnp.ones((2, 3)), "b": None}}
params, state = step.call(params, gradflow.adam(0.1).init(params), jnp.ones(3))
assert type(state[0]) is gradflow.ScaleByAdamState, state
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)


def _named_tuples(tree: Any) -> set[type]:
    found: set[type] = set()

    def visit(node: Any) -> bool:
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            found.add(type(node))
        return False

    jax.tree.map(lambda _: None, tree, is_leaf=visit)
    return found


def test_every_state_has_a_name_for_export() -> None:
    from specs import build, cases
    from trees import small

    registered = set(state_types())
    names = [kind.__name__ for kind in registered]
    assert len(set(names)) == len(names)
    for case in cases():
        kinds = _named_tuples(jax.eval_shape(build(case).init, small(0)))
        own = {kind for kind in kinds if kind.__module__.startswith("gradflow")}
        assert own <= registered, f"{case}: {own - registered}"


def test_importing_the_room_imports_neither_optax_nor_export() -> None:
    script = """
import sys, jax
before = set(sys.modules)
import gradflow.interop
new = set(sys.modules) - before
assert not [name for name in new if name.split(".")[0] in ("optax", "flax", "chex")], new
assert "jax.export" not in new
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
