"""Packed trees: what goes in comes out, one buffer a dtype, and parameters are still chosen by path."""

import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from program_size import copied_arrays, count_equations
from trees import MIXED, filled

import gradflow as gf
from gradflow import packed
from gradflow.packed._layout import BLOCK
from gradflow.packed._pack import unpack_all


def many(leaves: int, seed: int = 0) -> Any:
    """A tree of matrices and vectors in turn."""
    rng = np.random.default_rng(seed)
    return {
        f"layer{i}": {"kernel": jnp.asarray(rng.normal(size=(5, 4)), jnp.float32), "bias": jnp.ones(4)}
        for i in range(leaves // 2)
    }


def assert_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16, jnp.complex64, jnp.int32, MIXED])
def test_what_is_packed_is_unpacked(dtype: Any) -> None:
    tree = filled(0, dtype)
    node = packed.pack(tree)
    assert_equal(packed.unpack(node), tree)
    assert_equal(jax.jit(packed.unpack)(jax.jit(packed.pack)(tree)), tree)
    assert len(node.buffers) == len({leaf.dtype for leaf in jax.tree.leaves(tree)})
    assert all(buffer.size % BLOCK == 0 for buffer in node.buffers)


@pytest.mark.parametrize("tree", [{}, {"a": None}, [], jnp.ones(()), jnp.zeros((0, 3)), {"z": jnp.ones(128)}])
def test_small_and_empty_trees(tree: Any) -> None:
    node = packed.pack(tree)
    assert_equal(packed.unpack(node), tree)
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1, mask=lambda p: jax.tree.map(lambda x: True, p)))
    state = tx.init(node)
    updates, _ = tx.update(node, state, node)
    expected, _ = tx.update(tree, tx.init(tree), tree)
    assert jax.tree.structure(packed.unpack(updates)) == jax.tree.structure(expected)


def test_equal_trees_have_equal_layouts_and_survive_a_pickle() -> None:
    a, b = packed.pack(filled(0)), packed.pack(filled(1))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert hash(a.layout) == hash(b.layout)
    assert_equal(pickle.loads(pickle.dumps(a)), a)
    assert jax.tree.structure(packed.pack(jax.eval_shape(lambda: filled(0)))) == jax.tree.structure(a)


def test_the_gradient_of_unpacking_is_one_concatenation() -> None:
    tree = many(20)
    node = packed.pack(tree)

    def loss(p: Any) -> jax.Array:
        return gf.tree.norm(p, squared=True)

    grads = jax.grad(lambda p: loss(packed.unpack(p)))(node)
    assert jax.tree.structure(grads) == jax.tree.structure(node)
    np.testing.assert_allclose(grads.buffers[0], 2 * node.buffers[0], rtol=1e-6)
    text = str(jax.make_jaxpr(jax.vjp(packed.unpack, node)[1])(tree))
    assert text.count("concatenate") == 1
    assert "pad" not in text.replace("pad_", "")


def test_unpacking_is_linear_under_every_transformation() -> None:
    node = packed.pack(filled(0))
    direction = packed.pack(filled(1))
    _, tangent = jax.jvp(packed.unpack, (node,), (direction,))
    assert_equal(tangent, filled(1))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), node, direction)
    both = jax.vmap(packed.unpack)(stacked)
    assert_equal(jax.tree.map(lambda x: x[1], both), filled(1))


def test_parameters_are_chosen_by_path_and_shape() -> None:
    tree = many(8)
    node = packed.pack(tree)
    tx = gf.partition({"layer0/**": gf.set_to_zero(), gf.ndim(2): gf.muon(0.1), "**": gf.adamw(0.1)})
    expected, _ = tx.update(tree, tx.init(tree), tree)
    state = tx.init(node)
    for params in (node, None):  # without parameters the state has what was chosen
        made = gf.partition({"kernels": gf.trace(0.9), "rest": gf.scale(-1.0)}, _labels)
        got, _ = made.update(node, made.init(node), params)
        assert_equal(packed.unpack(got), made.update(tree, made.init(tree), tree)[0])
    updates, state = tx.update(node, state, node)
    assert_close(packed.unpack(updates), expected)
    with pytest.raises(ValueError, match=r"'layre0/\*\*' matches no parameter. Did you mean"):
        gf.freeze("layre0/**").init(node)


def _labels(params: Any) -> Any:
    return jax.tree.map(lambda x: "kernels" if x.ndim == 2 else "rest", params)


def assert_close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), a, b)


@pytest.mark.parametrize("count", [8, 80])
def test_a_mask_of_many_runs_is_that_of_the_tree(count: int) -> None:
    tree = many(count)
    odd = {name: {"kernel": i % 3 == 0, "bias": i % 2 == 0} for i, name in enumerate(tree)}
    tx = gf.adamw(0.1, weight_decay=0.5, mask=odd)
    node = packed.pack(tree)
    updates, _ = tx.update(node, tx.init(node), node)
    assert_close(packed.unpack(updates), tx.update(tree, tx.init(tree), tree)[0])


def test_norms_of_leaves_are_right_from_the_smallest_to_the_largest_numbers() -> None:
    sizes = (1e-30, 1e-10, 1.0, 1e15, 1e30)
    tree = {str(size): jnp.full((3, 70), size, jnp.float32) for size in sizes}
    tx = gf.clip_by_block_rms(1.0)
    updates, _ = tx.update(packed.pack(tree), tx.init(tree))
    jax.tree.map(
        lambda u, size: np.testing.assert_allclose(u, min(size, 1.0), rtol=1e-6),
        packed.unpack(updates), {str(size): size for size in sizes},
    )  # fmt: skip


def test_a_checkpoint_does_not_depend_on_the_layout() -> None:
    tree = many(6)
    node = packed.pack(tree)
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.partition({gf.ndim(2): gf.muon(0.1), "**": gf.adamw(0.1)}))
    _, of_tree = tx.update(tree, tx.init(tree), tree)
    _, of_node = tx.update(node, tx.init(node), node)
    saved, packed_saved = (gf.checkpoint.state_dict(tx, state) for state in (of_tree, of_node))
    names = set(saved) - {"gradflow_state"}
    assert names == set(packed_saved) - {"gradflow_state"}
    assert "chain.partition.**.adamw.scale_by_adam.mu/layer0/bias" in names
    loaded, report = gf.checkpoint.load_state_dict(tx, node, saved)
    assert not report.new
    assert not report.dropped
    assert_close(loaded, of_node)
    back, _ = gf.checkpoint.load_state_dict(tx, tree, packed_saved)
    assert_close(back, of_tree)


def test_what_is_said_of_packed_parameters_is_said_of_the_tree() -> None:
    tree = many(6)
    node = packed.pack(tree)
    tx = gf.with_metrics(gf.adamw(0.1, weight_decay=0.1), {"kernels": gf.ndim(2)})
    assert "72 parameters in 6 leaves" in str(gf.summary(tx, node))
    assert "1 of 2" not in str(gf.check(tx, node))
    expected, got = (gf.metrics(tx.update(t, tx.init(t), t)[1]) for t in (tree, node))
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)
    clipped = gf.with_metrics(gf.clip(1.5))
    fractions = [gf.metrics(clipped.update(t, clipped.init(t), t)[1])["fraction"] for t in (tree, node)]
    assert fractions[0] == fractions[1] > 0


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="exact figures are those of jax 0.10")
def test_a_thousand_leaves_are_a_few_equations_and_no_scratch() -> None:
    node = packed.pack({f"{i}": jnp.full((4, 300), 0.1) for i in range(1000)})
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1, mask=gf.ndim(2)))
    state = tx.init(node)
    assert len(jax.tree.leaves(state)) == 4

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gf.apply_updates(params, updates), state

    traced = jax.jit(step, donate_argnums=(0, 1)).trace(node, state, node)
    assert count_equations(traced.jaxpr.jaxpr, set()) < 150
    assert count_equations(traced.jaxpr.jaxpr, set(), -1) < 185  # on an accelerator
    compiled = traced.lower().compile()
    assert compiled.memory_analysis().temp_size_in_bytes < node.buffers[0].nbytes / 100
    assert copied_arrays(compiled.as_text()) == []


def test_training_on_packed_parameters() -> None:
    tree = many(8)
    target = many(8, seed=1)
    tx = gf.MultiSteps(gf.adamw(gf.cosine_decay_schedule(0.1, 50)), 2)

    def loss(p: Any) -> jax.Array:
        return gf.tree.norm(gf.tree.sub(p, target), squared=True)

    @jax.jit
    def train(params: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            grads = jax.grad(lambda p: loss(packed.unpack(p) if isinstance(p, packed.Packed) else p))(params)
            updates, state = tx.update(grads, state, params)
            return (gf.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, 40)[0][0]

    assert_close(packed.unpack(train(packed.pack(tree))), train(tree))


def test_a_buffer_is_sharded_evenly_over_a_mesh() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    tree = {"kernel": jnp.ones((64, 120)), "bias": jnp.linspace(0, 1, 120), "scale": jnp.ones(3 * BLOCK)}
    node = jax.device_put(packed.pack(tree), NamedSharding(mesh, PartitionSpec("x")))
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.lamb(0.1, weight_decay=0.1, mask=gf.ndim(2)))

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        grads = jax.grad(lambda p: gf.tree.norm(packed.unpack(p), squared=True))(params)
        updates, state = tx.update(grads, state, params)
        return gf.apply_updates(params, updates), state

    params, state = node, tx.init(node)
    expected, plain = packed.pack(tree), tx.init(packed.pack(tree))
    for _ in range(3):
        params, state = step(params, state)
        assert all(
            leaf.sharding.spec == PartitionSpec("x") for leaf in jax.tree.leaves((params, state)) if leaf.ndim
        )
    assert step._cache_size() == 1
    for _ in range(3):
        expected, plain = step(expected, plain)
    assert_close(packed.unpack(params), packed.unpack(expected))


def test_a_function_of_the_parameters_gets_them_packed() -> None:
    tree = {"a": jnp.asarray([1.0, -2.0]), "b": jnp.asarray([[3.0]])}
    node = packed.pack(tree)

    def loss(p: packed.Packed) -> jax.Array:
        return gf.tree.norm(packed.unpack(p), squared=True)

    value, grad = jax.value_and_grad(loss)(node)
    extra = {"value": value, "grad": grad, "value_fn": loss, "obj_fn": loss}
    for tx in (gf.lbfgs(), gf.sophia(0.1)):  # the one works on buffers, the other unpacks them
        updates, _ = tx.update(grad, tx.init(node), node, **extra)
        assert float(loss(gf.apply_updates(node, updates))) < float(value)


def test_mistakes_are_named() -> None:
    tree = many(4)
    node = packed.pack(tree)
    tx = gf.adam(0.1)
    state = tx.init(node)
    with pytest.raises(ValueError, match=r"at the root updates has a dict, params has a Packed.*unpack"):
        tx.update(tree, state, node)
    with pytest.raises(ValueError, match=r"params has a dict.*pack the gradients"):
        tx.update(node, tx.init(tree), tree)
    with pytest.raises(TypeError, match="adam: parameters must be packed as a whole; got a packed part"):
        tx.init({"part": node})
    with pytest.raises(TypeError, match="must not be packed already"):
        packed.pack(node)
    with pytest.raises(TypeError, match=r"'key' of argument 'tree' must be an array; got key<fry>\[\]"):
        packed.pack({"key": jax.random.key(0)})
    with pytest.raises(TypeError, match="must be a tree that pack returned; got a dict"):
        packed.unpack(tree)
    with pytest.raises(ValueError, match=r"must have the structure and shapes of 'tree': at '\w+' tree has "):
        packed.pack({"a": jnp.ones(3)}, node)
    with pytest.raises(ValueError, match=r"at 'a' tree has \(3,\), like has \(2,\)"):
        packed.pack({"a": jnp.ones(3)}, packed.pack({"a": jnp.ones(2)}))
    with pytest.raises(TypeError, match=r"leaves must be numeric arrays; got 1.0 at 'a/1'"):
        packed.pack({"a": [jnp.ones(2), 1.0]})
    other = packed.pack({**tree, "more": jnp.ones(2)})
    with pytest.raises(ValueError, match="must have one tree structure"):
        tx.update(other, state, node)


def test_gradients_of_another_dtype_take_the_layout_of_the_parameters() -> None:
    params = {"w": jnp.ones((3, 2), jnp.bfloat16), "b": jnp.ones(3)}
    node = packed.pack(params)
    grads = packed.pack(jax.tree.map(lambda p: jnp.full(p.shape, 0.5), params), node)
    tx = gf.adam(0.1)
    updates, _ = tx.update(grads, tx.init(node), node)
    assert [buffer.dtype for buffer in updates.buffers] == [jnp.float32, jnp.float32]


@pytest.mark.parametrize("tx", [gf.scale_by_lbfgs(3), gf.with_lawa(gf.trace(0.9))])
def test_the_memory_of_a_state_is_unpacked_like_the_parameters(tx: Any) -> None:
    """Some states hold several trees in one: their buffers have an axis before that of the numbers."""
    tree = filled(0, jnp.float32)
    node = packed.pack(tree)
    plain, state = tx.init(tree), tx.init(node)
    for k in range(2):
        grads = jax.tree.map(lambda x, k=k: (k + 1) * x, tree)
        _, plain = tx.update(grads, plain, tree)
        _, state = tx.update(packed.pack(grads), state, node)
    unpacked = unpack_all(state)
    assert jax.tree.structure(unpacked) == jax.tree.structure(plain)
    for a, b in zip(jax.tree.leaves(unpacked), jax.tree.leaves(plain), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    loaded, _ = gf.load_state_dict(tx, tree, gf.state_dict(tx, state))
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(unpacked), strict=True):
        np.testing.assert_array_equal(a, b)


def test_block_scales_before_a_search_are_those_of_the_tree() -> None:
    tree = filled(0, jnp.float32)
    node, loss = packed.pack(tree), functools.partial(gf.tree.norm, squared=True)
    tx = gf.chain(gf.scale_by_param_block_rms(), gf.scale(-1.0), gf.scale_by_backtracking_linesearch(5))
    given: dict[str, Any] = {"value": loss(tree), "value_fn": loss}
    expected, _ = tx.update(tree, tx.init(tree), tree, grad=tree, **given)
    found, _ = tx.update(node, tx.init(node), node, grad=node, **given)
    assert_close(packed.unpack(found), expected)
