"""Inside shard_map: the same numbers as on one device, or a refusal. Never a local norm."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import gradflow as gf

SPECS = {"kernel": P("data", "model"), "table": P("data"), "bias": P()}
SHAPES = {"kernel": (8, 6), "table": (4, 3), "bias": (5,)}


def mesh() -> Any:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def leaves(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def mapped(tx: Any, *, check_vma: bool = True, specs: Any = SPECS) -> Any:
    def step(grads: Any, params: Any) -> Any:
        return tx.update(grads, tx.init(params), params)[0]

    return jax.jit(
        jax.shard_map(step, mesh=mesh(), in_specs=(specs, specs), out_specs=specs, check_vma=check_vma)
    )


BOTH = ("data", "model")
NORMED = {
    "clip_by_global_norm": lambda axes: gf.clip_by_global_norm(1.0, axis_name=axes),
    "clip_by_block_rms": lambda axes: gf.clip_by_block_rms(0.5, axis_name=axes),
    "normalize_by_update_norm": lambda axes: gf.normalize_by_update_norm(axis_name=axes),
    "scale_by_trust_ratio": lambda axes: gf.scale_by_trust_ratio(axis_name=axes),
    "scale_by_param_block_norm": lambda axes: gf.scale_by_param_block_norm(axis_name=axes),
    "scale_by_param_block_rms": lambda axes: gf.scale_by_param_block_rms(axis_name=axes),
    "zero_nans": lambda axes: gf.zero_nans(axis_name=axes),
}
WITHOUT_AXES = {
    "adaptive_grad_clip": lambda: gf.adaptive_grad_clip(0.01),
    "centralize": lambda: gf.centralize(),
}


@pytest.mark.parametrize("name", NORMED)
def test_as_on_one_device(name: str) -> None:
    grads, params = leaves(0), leaves(1)
    plain = NORMED[name](None)
    expected, _ = plain.update(grads, plain.init(params), params)
    actual = mapped(NORMED[name](BOTH))(grads, params)
    for leaf in SHAPES:
        np.testing.assert_allclose(actual[leaf], expected[leaf], rtol=2e-6, err_msg=leaf)


@pytest.mark.parametrize("name", NORMED)
def test_as_on_one_device_where_types_do_not_tell(name: str) -> None:
    """Without check_vma no leaf is known to be replicated, so all must be pieces along all axes."""
    specs = {"kernel": P("data", "model"), "table": P(("data", "model"))}
    grads, params = ({"kernel": t["kernel"], "table": jnp.ones((8, 3))} for t in (leaves(0), leaves(1)))
    plain = NORMED[name](None)
    expected, _ = plain.update(grads, plain.init(params), params)
    actual = mapped(NORMED[name](BOTH), check_vma=False, specs=specs)(grads, params)
    for leaf in specs:
        np.testing.assert_allclose(actual[leaf], expected[leaf], rtol=2e-6, err_msg=leaf)


@pytest.mark.parametrize("name", [*NORMED, *WITHOUT_AXES, "add_noise"])
def test_refused_without_the_axes(name: str) -> None:
    tx = gf.add_noise(0.1, 0.5, 0) if name == "add_noise" else None
    tx = tx or (NORMED[name](None) if name in NORMED else WITHOUT_AXES[name]())
    with pytest.raises(ValueError, match=f"{name}: inside shard_map .*'data', 'model'") as caught:
        mapped(tx)(leaves(0), leaves(1))
    cure = "Call this stage outside" if name in WITHOUT_AXES else r"axis_name=('data', 'model')"
    assert cure in str(caught.value)


@pytest.mark.parametrize("name", [*NORMED, *WITHOUT_AXES])
@pytest.mark.parametrize("check_vma", [True, False])
def test_replicated_updates_need_no_axes(name: str, check_vma: bool) -> None:
    """Where types do not track axes, arrays count as whole, as they are after `pmean`."""
    specs = dict.fromkeys(SPECS, P())
    tx = NORMED[name](None) if name in NORMED else WITHOUT_AXES[name]()
    grads, params = leaves(0), leaves(1)
    expected, _ = tx.update(grads, tx.init(params), params)
    actual = mapped(tx, specs=specs, check_vma=check_vma)(grads, params)
    for leaf in SHAPES:
        np.testing.assert_allclose(actual[leaf], expected[leaf], rtol=2e-6)
    if name in ("clip_by_global_norm", "scale_by_trust_ratio"):
        for axes in ((), BOTH):  # known to be replicated, so counted once
            actual = mapped(NORMED[name](axes), specs=specs)(grads, params)
            np.testing.assert_allclose(actual["kernel"], expected["kernel"], rtol=2e-6)
        actual = mapped(NORMED[name](()), specs=specs, check_vma=False)(grads, params)
        np.testing.assert_allclose(actual["kernel"], expected["kernel"], rtol=2e-6)


def test_data_parallel_training_with_one_axis() -> None:
    """Gradients averaged over the data axis are replicated: clipping them needs no word more."""
    params = {"w": jnp.ones((3,), jnp.float32)}
    batch = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    tx = gf.chain(gf.clip_by_global_norm(0.1), gf.sgd(0.1))

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(batch @ params["w"]))

    def local(params: Any, batch: jax.Array) -> Any:
        # The mean over devices of their losses: its gradient comes out summed and replicated.
        grads = jax.grad(lambda p: jax.lax.pmean(loss(p, batch), "data"))(params)
        return gf.apply_updates(params, tx.update(grads, tx.init(params), params)[0])

    step = jax.shard_map(local, mesh=mesh(), in_specs=(P(), P("data")), out_specs=P())
    grads = jax.grad(loss)(params, batch)
    expected = gf.apply_updates(params, tx.update(grads, tx.init(params), params)[0])
    np.testing.assert_allclose(step(params, batch)["w"], expected["w"], rtol=1e-6)


def test_under_auto_sharding_nothing_is_asked() -> None:
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.scale_by_trust_ratio(), gf.centralize())
    grads, params = leaves(0), leaves(1)
    expected, _ = tx.update(grads, tx.init(params), params)
    shardings = {name: jax.NamedSharding(mesh(), spec) for name, spec in SPECS.items()}
    placed = jax.device_put((grads, params), (shardings, shardings))
    actual, _ = jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(*placed)
    for leaf in SHAPES:
        np.testing.assert_allclose(actual[leaf], expected[leaf], rtol=2e-5, atol=1e-6)


def test_along_an_axis_of_vmap() -> None:
    g = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    whole = gf.clip_by_global_norm(1.0, axis_name="pieces")
    u = jax.vmap(lambda x: whole.update(x, whole.init(x))[0], axis_name="pieces")(g)
    np.testing.assert_allclose(u, g / np.linalg.norm(g), rtol=1e-6)


def test_noise_differs_between_pieces_and_agrees_between_copies() -> None:
    tx = gf.add_noise(1.0, 0.5, 0, axis_name=BOTH)
    zeros = jax.tree.map(jnp.zeros_like, leaves(0))
    noise = mapped(tx)(zeros, zeros)
    pieces = np.asarray(noise["kernel"]).reshape(4, 2, 2, 3).swapaxes(1, 2).reshape(8, 6)
    assert len(np.unique(pieces)) == 48
    assert len(np.unique(noise["bias"])) == 5
    assert abs(np.std(np.asarray(noise["kernel"])) - 1) < 0.3


def test_states_do_not_differ_between_devices() -> None:
    """Else a scan over steps would refuse its carry."""
    tx = gf.chain(
        gf.zero_nans(axis_name=BOTH),
        gf.add_noise(0.0, 0.5, 0, axis_name=BOTH),
        gf.ema(0.9),
        gf.dampened_trace(0.9, 0.1),
    )

    def steps(params: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (gf.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, length=3)[0][0]

    specs = {"kernel": P("data", "model"), "table": P("data"), "bias": P()}
    # The smallest leaf of a device is a piece, so a counter made like it would differ between devices.
    params = {"kernel": jnp.ones((8, 6)), "table": jnp.ones((4, 1)), "bias": jnp.ones(5)}
    actual = jax.jit(jax.shard_map(steps, mesh=mesh(), in_specs=(specs,), out_specs=specs))(params)
    plain = gf.chain(gf.zero_nans(), gf.identity(), gf.ema(0.9), gf.dampened_trace(0.9, 0.1))
    state = plain.init(params)
    for _ in range(3):
        updates, state = plain.update(params, state, params)
        params = gf.apply_updates(params, updates)
    for leaf in SHAPES:
        np.testing.assert_allclose(actual[leaf], params[leaf], rtol=1e-6)


def test_an_axis_that_is_none_is_named() -> None:
    tx = gf.clip_by_global_norm(1.0, axis_name="rows")
    with pytest.raises(
        ValueError, match=r"clip_by_global_norm: argument 'axis_name' must name axes .*'rows'"
    ):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
    with pytest.raises(ValueError, match=r"chain.*axis_name 'rows'|'axis_name' must name axes .*'rows'"):
        mapped(gf.chain(tx))(leaves(0), leaves(1))
