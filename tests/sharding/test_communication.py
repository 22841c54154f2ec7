"""Where states lie on a mesh, and what updates communicate there."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from specs import CASES, EXTRA, build

import gradflow as gf
from gradflow import _shardings, optimizers, sharding
from gradflow.sharding import Collective
from gradflow.sharding._collectives import collectives

AXES = {"x": 4, "y": 2}


@functools.cache
def mesh(kind: AxisType = AxisType.Auto, sides: tuple[int, ...] = (4, 2)) -> Mesh:
    return jax.make_mesh(sides, ("x", "y")[: len(sides)], axis_types=(kind,) * len(sides))


def shape(*sides: int, spec: Any = (), on: Mesh | None = None) -> Any:
    return jax.ShapeDtypeStruct(sides, jnp.float32, sharding=NamedSharding(on or mesh(), P(*spec)))


def leaves(kind: AxisType = AxisType.Auto) -> dict[str, Any]:
    on = mesh(kind)
    return {"kernel": shape(16, 8, spec=("x", "y"), on=on), "bias": shape(8, spec=("y",), on=on)}


def leaves_on_one_axis(kind: AxisType) -> dict[str, Any]:
    on = mesh(kind, (8,))
    return {"kernel": shape(16, 8, spec=("x",), on=on), "bias": shape(8, spec=("x",), on=on)}


def on_devices(like: Any) -> Any:
    return jax.tree.map(lambda s: jax.device_put(jnp.ones(s.shape), s.sharding), like)


def each(names: list[str], kind: AxisType = AxisType.Auto) -> tuple[Any, Any]:
    """One transformation that applies each case to leaves of its own, and the leaves."""
    labels = {name: jax.tree.map(lambda _, name=name: name, leaves()) for name in names}
    return gf.partition({name: build(name) for name in names}, labels), {n: leaves(kind) for n in names}


def slices(names: list[str], size: int = 20) -> list[list[str]]:
    """A program of 150 cases takes half as long again to compile as eight of 20."""
    return [names[i : i + size] for i in range(0, len(names), size)]


def takes_more(case: str) -> bool:
    return bool(build(case).update.stage.takes & EXTRA.keys())


# Sums that wait for others: how many collectives they make along the axis that has most of them.
CHAINS = {
    "adafactor-factored": 2,  # the vectors, and the sums that take them
    "adamp": 3, "sgdp": 3,  # largest numbers, sums of products, the largest cosine; the vectors of channels
    "adaptive_normalize": 2,  # the norm that keeps the other one in range
    "apply_if_finite-state": 2,  # whether the gradients are finite, then whether the new state is
    "came": 3,  # the vectors, their means, the norm of the quotient
    "dadapt_adamw": 2,  # on a CPU the new averages wait for the gain, and their norm with them; on a TPU 1
    "gsam": 2, "looksam": 3,  # the norm of the ascent, the products of both gradients
    "mars": 2, "mars_correction": 2,  # the largest number, which keeps the norm in range, before the norm
    "step_on_hyperball": 2,  # the norms, then that of the point
    # The norms, then their product, then the norm of the point. A CPU has one more, as XLA writes the same
    # groups of y in two ways.
    "step_with_radial_brake": 4,
}  # fmt: skip
# All sums of these are ready at once.
SUMS = {
    "adafactor", "adafactor-given_decay", "adagc", "adagc-warm", "adam_mini", "adaptive_grad_clip",
    "apply_if_finite", "cautious", "cautious-mean", "cautious_adamw", "cautious_lion", "centralize", "chain",
    "clip_by_block_rms", "clip_by_global_norm", "dog", "dog-distance", "dog-learning_rate", "dowg",
    "dowg-distance", "fista", "fromage", "lamb", "lars", "lars-mask", "lazy_rows", "measure_with_ema",
    "mechanize", "msam", "normalize", "normalize_by_update_norm", "novograd", "prodigy", "prodigy-official",
    "projected", "row_floor", "scale_by_adam_mini", "scale_by_distance_over_gradients", "scale_by_dog",
    "scale_by_dowg", "scale_by_novograd", "scale_by_param_block_norm", "scale_by_param_block_rms",
    "scale_by_sm3", "scale_by_stable_adam", "scale_by_trust_ratio", "scion-outputs", "scion-roles", "sm3",
    "sm3-averaging", "snapshot", "stable_adamw", "stable_adamw-mask", "step_relative", "step_relative-units",
    "tunable", "with_loss_scale", "with_metrics", "with_metrics-groups", "zclip", "zclip-warm", "zero_nans",
}  # fmt: skip
# Products of whole matrices: `spread` places them.
MATRICES = {
    "adamuon", "dion2", "kron", "muon", "muown", "normuon", "splus", "step_by_muown",
    "orthogonalize", "scion", "shampoo", "soap", "soap_muon",
    "differentially_private_aggregate", "dpsgd",
}  # fmt: skip
OPTIMIZERS = [name for name in optimizers.__all__ if name in CASES]
NAMED = [name for name in OPTIMIZERS if not name.startswith("scale_by_")]
# Products of matrices, and more variants of what stands above. `flatten` has the numbers of all leaves in one
# vector, and L-BFGS adds up its products one after the other.
OTHERS = {
    "adamp-projected", "adamuon-unsigned", "apollo-mini", "apollo-projected", "dadapt_adamw-official",
    "flatten", "flatten-adamw", "galore-lion", "galore-projected", "kron-half", "lbfgs-rate",
    "muon-adaptive", "muon-aol", "muon-schatten", "muon-spectral", "muon-torch", "neuron_norm-longer",
    "remove_radial", "sam", "sam-adaptive", "scale_by_adamuon", "scale_by_came", "scale_by_dion2",
    "scale_by_kron", "scale_by_lbfgs", "scale_by_muon", "scale_by_neuron_norm", "scale_by_scion",
    "scale_by_shampoo", "scale_by_soap", "scale_by_splus", "scion-inputs", "shampoo-2018",
    "shampoo-grafted", "shampoo-one_sided", "soap-matrices", "soap-refresh_first", "soap-whitened",
    "stacked", "step_on_hyperball-adam", "step_on_hyperball-units", "step_with_radial_brake-decay",
}  # fmt: skip
# Everything else that is listed communicates nothing.
SILENT = [
    name
    for name in CASES
    if name not in {*SUMS, *MATRICES, *CHAINS, *OTHERS, "galore", "apollo"} and not takes_more(name)
]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_elementwise_cases_communicate_nothing(kind: AxisType) -> None:
    assert len(SILENT) >= 150
    # Parts compute alike on both; on an explicit mesh the optimizers alone cost a third of the time.
    names = SILENT if kind == AxisType.Auto else [name for name in SILENT if name in NAMED]
    for some in slices(names):
        tx, params = each(some, kind)
        found = sharding.communication(tx, params)
        assert found.rows == (), (some, found)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_elementwise_optimizers_communicate_nothing_on_one_axis(kind: AxisType) -> None:
    """Of the other cases the coded states alone do: these blocks of 4 places lie on two devices."""
    for some in slices([name for name in SILENT if name in NAMED]):
        tx, _ = each(some)
        found = sharding.communication(tx, dict.fromkeys(some, leaves_on_one_axis(kind)))
        assert found.rows == (), (some, found)


def most_along_an_axis(found: sharding.Communication) -> int:
    return max(sum(row.count for row in found.step if axis in row.axes) for axis in AXES)


def test_sums_are_communicated_together() -> None:
    for name in sorted(SUMS):
        found = sharding.communication(build(name), leaves())
        assert {row.kind for row in found.rows} == {"all-reduce"}, (name, found)
        assert most_along_an_axis(found) == 1, (name, found)


@pytest.mark.parametrize("name", CHAINS)
def test_sums_that_wait_for_others(name: str) -> None:
    """As many for any number of leaves."""
    kernels = {f"kernel{i}": shape(16, 8, spec=("x", "y")) for i in range(4)}
    found = sharding.communication(build(name), {**kernels, "bias": leaves()["bias"]})
    assert {row.kind for row in found.rows} == {"all-reduce"}
    assert most_along_an_axis(found) == CHAINS[name], found


def test_each_rule_on_matrices_takes_two_exchanges() -> None:
    """Where types carry shardings. A vector in a rule with factors or norms is gathered besides."""
    rules = {"adamuon": 1, "dion2": 1, "muown": 1, "normuon": 2, "splus": 1}
    tx, params = each(list(rules), AxisType.Explicit)
    found = sharding.communication(tx, params)
    assert {row.kind for row in found.step} == {"all-to-all"}
    assert found.count == 2 * sum(rules.values()), found


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_the_table_of_a_clip(kind: AxisType) -> None:
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(1e-3))
    found = sharding.communication(tx, leaves(kind))
    # Both leaves are summed along y, the kernel along x too.
    assert found.step == (
        Collective("all-reduce", ("y",), "step", 1, 8),
        Collective("all-reduce", ("x",), "step", 1, 4),
    )
    assert {row.where for row in found.rows} == {"step", "branch"}, "extreme norms are read again in a branch"
    assert (found.count, found.bytes) == (2, 12)
    assert found.parameter_bytes == (16 * 8 // 8 + 8 // 2) * 4
    assert str(found).startswith(
        "2 collectives per step on x=4, y=2: 12 bytes per device, 0.15 x its 80 bytes"
    )
    assert "all-reduce  y     step        1      8" in str(found)
    assert found == sharding.communication(tx, leaves(kind))
    assert found != sharding.communication(gf.sgd(0.1), leaves(kind))
    assert found.to_dict()["rows"][0]["axes"] == ("y",)
    assert "<table>" in found._repr_html_()


def test_functions_among_the_extra_arguments() -> None:
    tx = gf.polyak_sgd(1.0)
    assert sharding.communication(tx, leaves(), value=jnp.float32(1.0)).count == 2
    found = sharding.communication(gf.sam(gf.sgd(0.1), gf.sgd(0.05), 1), leaves(), grad_fn=lambda p, i: p)
    assert found.rows == ()


def test_a_training_step_and_its_gradients() -> None:
    data = Mesh(np.array(jax.devices()), ("data",))
    w = jax.device_put(jnp.ones((8, 4)), NamedSharding(data, P()))
    batch = jax.device_put(jnp.ones((16, 8)), NamedSharding(data, P("data")))
    step = jax.jit(lambda w, x: w - 0.1 * jax.grad(lambda w: jnp.sum(jnp.square(x @ w)))(w))
    found = sharding.communication_of(step.lower(w, batch).compile(), data, w)
    assert found.rows == (Collective("all-reduce", ("data",), "step", 1, 8 * 4 * 4),)


def test_states_lie_where_eager_ones_do() -> None:
    tx, _ = each(NAMED)
    placed = {name: on_devices(leaves()) for name in NAMED}
    state = tx.init(placed)
    found = sharding.state_sharding(tx, placed)
    for (path, leaf), own in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(found), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(own, leaf.ndim), jax.tree_util.keystr(path)


def test_factors_of_the_shape_of_their_leaf_stay_whole() -> None:
    """Those of a square matrix, and the diagonal one of a vector, whose leaves are cut."""
    params = {"soap": shape(8, 8, spec=("x", "y")), "kron": shape(8, spec=("y",))}
    tx = gf.partition({name: build(name) for name in params}, {name: name for name in params})
    state = sharding._placement.placed_state(tx, params, mesh())
    after = jax.jit(tx.update).lower(params, state, params).compile().output_shardings[1]
    for (path, leaf), own in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(own, len(leaf.shape)), jax.tree_util.keystr(path)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_moments_of_leaves_of_one_shape_lie_as_each_of_them(kind: AxisType) -> None:
    specs = {"rows": P("x", None), "columns": P(None, "y"), "whole": P(None, None), "turned": P("y", "x")}
    params = {name: shape(8, 8, spec=spec, on=mesh(kind)) for name, spec in specs.items()}
    compiled = jax.jit(gf.adamw(1e-3).init).lower(params).compile()
    for moment in (compiled.output_shardings[0].mu, compiled.output_shardings[0].nu):
        for name, leaf in params.items():
            assert moment[name].is_equivalent_to(leaf.sharding, 2), name
    assert compiled.memory_analysis().temp_size_in_bytes == 0
    assert not re.search(r" (select|compare)\(", compiled.as_text()), "nothing is read to place the zeros"


@pytest.mark.parametrize("spec", [P(), P(None, "y")])
def test_what_is_computed_lies_as_what_it_replaces(spec: P, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `shard_alike`, which newer versions of jax do not have."""
    monkeypatch.setattr(_shardings, "_shard_alike", None)
    g, old = (shape(8, 8, spec=own, on=mesh()) for own in (("x", "y"), spec))

    def lies(replace: Any) -> Any:
        step = jax.jit(lambda g, old: replace(old + g @ g.T, old))
        return step.lower(g, old).compile().output_shardings

    assert lies(_shardings.computed_alike).is_equivalent_to(old.sharding, 2)
    assert not lies(lambda y, _: y).is_equivalent_to(old.sharding, 2), "the partitioner's own choice"


def test_state_sharding_takes_shapes_and_fits_out_shardings() -> None:
    tx = gf.adamw(1e-3)
    found = sharding.state_sharding(tx, leaves())
    state = jax.jit(tx.init, out_shardings=found)(on_devices(leaves()))
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, state, found))
    assert found[0].mu["kernel"] == NamedSharding(mesh(), P("x", "y"))
    assert jax.tree.leaves(sharding.state_sharding(tx, {"w": jnp.ones(3)})), "one device needs no mesh"


def test_mistakes_are_named() -> None:
    other = Mesh(np.array(jax.devices()).reshape(8), ("data",))
    two = {**leaves(), "head": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=NamedSharding(other, P()))}
    some = {**leaves(), "free": jax.ShapeDtypeStruct((8,), jnp.float32)}
    for f in (sharding.state_sharding, sharding.communication):
        with pytest.raises(ValueError, match=r"'bias' is on the mesh x=4, y=2 .*'head' on the mesh data=8"):
            f(gf.adam(0.1), two)
        with pytest.raises(ValueError, match=r"the leaf at 'free' has no sharding on a mesh"):
            f(gf.adam(0.1), some)
        with pytest.raises(TypeError, match=f"{f.__name__}: the first argument must be"):
            f("adam", leaves())
    with pytest.raises(ValueError, match="'params' must be on a mesh; got float32"):
        sharding.communication(gf.adam(0.1), {"w": jnp.ones(3)})
    with pytest.raises(TypeError, match="'compiled' must be a compiled program"):
        sharding.communication_of(gf.adam(0.1), mesh())
    with pytest.raises(TypeError, match=r"'mesh' must be a jax.sharding.Mesh"):
        sharding.communication_of(jax.jit(jnp.sin).lower(1.0).compile(), "x")


def test_arrays_on_other_devices_are_named() -> None:
    def placed(devices: list[Any]) -> Any:
        own = NamedSharding(Mesh(np.array(devices), ("data",)), P("data"))
        return {"w": jax.device_put(jnp.ones(8), own), "b": jax.device_put(jnp.ones(16), own)}

    tx, eight, four = gf.adam(0.1), placed(jax.devices()), placed(jax.devices()[:4])
    two = {"w": eight["w"], "b": four["b"]}
    one, other = (jax.device_put(jnp.ones(3), device) for device in jax.devices()[:2])
    places = (
        r"int32\[\] at '0/count' on the mesh data=4 of devices 0, 1, 2, 3, and 'params' at 'b' on the mesh"
    )
    with pytest.raises(ValueError, match=f"adam: argument 'state' must .* devices of 'params'; got {places}"):
        tx.update(eight, tx.init(four), eight)
    places = r"float32\[8\] at 'w' on the mesh data=8 .*, and the leaf at 'b' on the mesh data=4 of"
    with pytest.raises(ValueError, match=f"'params' must have all leaves on the same devices; got {places}"):
        tx.update(two, tx.init(two), two)
    last = placed(jax.devices()[4:])
    both = r"argument updates\['b'\] of adam_update .* and argument state\[0\].count of adam"
    with pytest.raises(ValueError, match=both):  # after the trace, which knows of no devices: jax's own error
        jax.jit(tx.update)(four, tx.init(last), four)
    places = r"float32\[3\] at the root on device 1, and 'params' at the root on device 0\.$"
    with pytest.raises(ValueError, match=f"argument 'updates' must have its leaves on .*; got {places}"):
        tx.update(other, tx.init(one), one)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_traced_arrays_on_other_meshes_are_named(kind: AxisType) -> None:
    """Types have the sides of a mesh. Of equally many other devices jax's own error names the argument."""

    def leaf(on: Mesh, name: str) -> Any:
        return jax.ShapeDtypeStruct((8,), jnp.float32, sharding=NamedSharding(on, P(name)))

    four = Mesh(np.array(jax.devices()[:4]), ("x",), axis_types=(kind,))
    tx, w, few = gf.adam(0.1), leaf(mesh(kind), "x"), leaf(four, "x")
    state = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
        jax.eval_shape(tx.init, few), sharding.state_sharding(tx, few),
    )  # fmt: skip
    update, step = jax.jit(tx.update), jax.jit(gf.make_step(jnp.sum, tx))
    places = r"got int32\[\] at '0/count' on the mesh x=4, and 'params' at the root on the mesh x=4, y=2"
    for call in (lambda: update.lower(w, state, w), lambda: step.lower(w, state)):
        with pytest.raises(ValueError, match=rf"adam: argument 'state' must have .*; {places}\. Move it"):
            call()
    pieces = r"got float32\[8\] at '1' on the mesh x=4, and the leaf at '0' on the mesh x=4, y=2\."
    with pytest.raises(ValueError, match=rf"adam: argument 'params' must have all leaves on .*; {pieces}"):
        jax.jit(tx.init).lower([w, few])
    with pytest.raises(ValueError, match=r"spread: argument 'mesh' must be the mesh of all .* got x=4, and"):
        jax.jit(gf.spread(gf.orthogonalize(), four, P("x")).update).lower(w, gf.EmptyState())
    product, turned = gf.make_step(lambda p: jnp.sum(p[0] * p[1]), tx), leaf(mesh(kind, (8,)), "x")
    if kind == AxisType.Auto:
        assert jax.jit(tx.init).lower([w, turned]).compile(), "two meshes of the same devices"
    else:
        with pytest.raises(
            ValueError, match=r"make_step: argument 'params' must have all leaves on the same mesh"
        ):
            jax.jit(product).lower([w, turned], None)


def test_a_pair_of_another_library_whose_zeros_lie_on_no_mesh() -> None:
    """Compiled, the zeros of its `init` know nothing of the parameters: they are whole on each device."""
    with jax.numpy_dtype_promotion("standard"):
        found = sharding.state_sharding(optax.adam(1e-3), leaves())
        assert {s.spec for s in jax.tree.leaves(found)} == {P()}
        assert sharding.communication(optax.adam(1e-3), leaves()).count > 0
    assert sharding.communication(gf.adam(1e-3), leaves()).count == 0


def program(*lines: str) -> str:
    return "\n".join(["ENTRY %main (p: f32[4]) -> f32[4] {", *(f"  {line}" for line in lines), "}", ""])


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("y",)),
        ("replica_groups={{0,2,4,6},{1,3,5,7}}", ("x",)),
        ("replica_groups={}", ("x", "y")),
        ("replica_groups=[4,2]<=[8]", ("y",)),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", ("x",)),
        ("replica_groups=[1,8]<=[8]", ("x", "y")),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", ("y",)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}", ("y",)),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}", ("x", "y")),
        ("source_target_pairs={{0,1},{1,0}}", ("y",)),
        ("source_target_pairs={{0,3},{3,0}}", ("x", "y")),
        ("replica_groups={{0},{1}}", ()),
    ],
)
def test_the_axes_of_every_form_of_groups(groups: str, axes: tuple[str, ...]) -> None:
    text = program(f"%a = f32[4]{{0}} all-reduce(%p), channel_id=1, {groups}, to_apply=%add")
    assert collectives(text, AXES) == (Collective("all-reduce", axes, "step", 1, 16),)


def test_every_form_of_collective() -> None:
    groups = "replica_groups={{0,1},{2,3},{4,5},{6,7}}"
    text = "\n".join([
        "%scattered (p.1: f32[8]) -> f32[4] {",
        f"  %r = f32[8]{{0}} all-reduce(%p.1), {groups}, to_apply=%add",
        "}",
        "%all-reduce-scatter.1 (p.2: f32[8]) -> f32[4] {",
        "  %p.2 = f32[8]{0} parameter(0)",
        f"  %r.1 = f32[8]{{0}} all-reduce(%p.2), {groups}, to_apply=%add",
        "}",
        "%again (p.3: f32[4]) -> f32[4] {",
        "  %p.3 = f32[4]{0} parameter(0)",
        f"  %r.2 = f32[4]{{0}} all-reduce(%p.3), {groups}, to_apply=%add",
        "}",
        "",
        program(
            "%p = f32[4]{0} parameter(0)",
            "%q = f32[8]{0} parameter(1)",
            f"%g = (f32[4]{{0}}, f32[8]{{0}}) all-gather-start(%p), {groups}",
            "%gd = f32[8]{0} all-gather-done(%g)",
            "%s = f32[4]{0} fusion(%q), kind=kCustom, calls=%all-reduce-scatter.1",
            f"%t = (bf16[2,2]{{1,0}}, bf16[2,2]{{1,0}}) all-to-all(%p, %p), {groups}",
            "%c = f32[4]{0} conditional(%k, %p, %p), branch_computations={%again, %other}",
            "%w = f32[4]{0} while(%p), condition=%ends, body=%again",
            "%x = f32[4]{0} while(%p), condition=%ends, body=%again, "
            'backend_config={"known_trip_count":{"n":"3"}}',
        ),
    ])  # fmt: skip
    assert set(collectives(text, AXES)) == {
        Collective("all-gather", ("y",), "step", 1, 32),
        Collective("reduce-scatter", ("y",), "step", 1, 32),
        Collective("all-to-all", ("y",), "step", 1, 32),
        Collective("all-reduce", ("y",), "branch", 1, 16),
        Collective("all-reduce", ("y",), "loop", 4, 64),
    }


def test_the_reader_misses_no_collective() -> None:
    """As many as a search for their names in the text finds, of which none is left out by its place."""
    compiled = sharding._communication.lower(gf.muon(0.1), leaves(), mesh()).compile()
    found = sharding.communication_of(compiled, mesh())
    plain = re.findall(r" (?:all-reduce|all-gather|collective-permute|all-to-all)\(", compiled.as_text())
    assert sum(row.count for row in found.rows) == len(plain) > 10
