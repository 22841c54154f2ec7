"""Rules over quantized leaves: the loop of a CPU and the kernel of a TPU against the whole arrays."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.export import export

import gradflow as gf
from gradflow import _platform
from gradflow._coding._make import quantized_leaf, rounded_leaf
from gradflow._rules._block_kernel import kernel
from gradflow._rules._block_loop import loop
from gradflow._rules._block_triton import gpu_kernel, tiles
from gradflow._rules._blockwise import Layout, Program, layout_of, matrices_of, part_of, run_block
from gradflow._rules._elementwise import is_elementwise, jaxpr_of
from gradflow._rules._nan_kept import nan_kept

NUMBERS = tuple(map(jnp.float32, (0.9, 0.1, 0.99, 0.01, 3.7, 33.0, 1e-8)))
F32 = np.dtype(np.float32)


def body(g: Any, mu: Any, nu: Any, *scalars: Any) -> Any:
    """Adam's rule with positional scalars."""
    b1, c1, b2, c2, debias1, debias2, eps = scalars
    mu = b1 * mu + c1 * jnp.clip(g, -1e9, 1e9)
    nu = b2 * nu + c2 * g * g
    return debias1 * mu / (jnp.sqrt(debias2 * nu) + eps), mu, nu


def whole(leaves: Any, scalars: Any) -> Any:
    """Decoded, computed and coded as whole arrays."""
    g, mu, nu = leaves
    u, new_mu, new_nu = body(g.astype(F32), mu.decode(), nu.decode(), *scalars)
    return u.astype(g.dtype), mu.encode(new_mu), nu.encode(new_nu)


def operands(shape: tuple[int, int], kind: str, seed: Any) -> Any:
    """Gradients and moments, the first coded as `kind`."""
    g, m, v = (jnp.asarray(np.random.default_rng(k).normal(size=shape), jnp.float32) for k in range(3))
    if kind == "bfloat16":
        mu: Any = rounded_leaf(0.1 * m, seed, jnp.dtype(kind))
        g = g.astype(kind)
    else:
        mu = quantized_leaf(0.1 * m, seed, "mean", int(kind), 128)
    return g, mu, quantized_leaf(0.01 * v * v, seed, "square", 8, 128)


def on_gpu(program: Program) -> Any:
    """The kernel of a GPU, interpreted."""
    tile = tiles(program.layout)
    assert tile is not None
    return gpu_kernel(program, tile, interpret=True)


CASES = {
    "rows, 4 bits": ((1152, 160), "4", Layout(1152, 160, 0, 128, 160)),
    "rows, bfloat16": ((128, 2048), "bfloat16", Layout(128, 2048, 0, 128, 2048)),
    "columns": ((520, 128), "8", Layout(520, 128, 1, 128, 128)),
}


def assert_same_state(news: Any, olds: Any) -> None:
    """Equal codes, but for one in ten thousand: which products XLA joins with sums differs between CPUs."""
    assert jax.tree.structure(news) == jax.tree.structure(olds)
    for new, old in zip(jax.tree.leaves(news), jax.tree.leaves(olds), strict=True):
        assert new.dtype == old.dtype
        if old.dtype == F32:
            np.testing.assert_allclose(new, old, rtol=1e-6)  # scales
        else:
            assert np.mean(np.asarray(new != old)) <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_loop_and_kernel_give_the_numbers_of_whole_arrays(name: str) -> None:
    shape, kind, layout = CASES[name]
    leaves = operands(shape, kind, jnp.uint32(7))
    assert layout_of(leaves) == layout
    program = Program(body, layout, tuple(map(part_of, leaves)), 3)
    u, *state = jax.jit(whole)(leaves, NUMBERS)
    for run in (loop(program), kernel(program, interpret=True), on_gpu(program)):
        made, *news = jax.jit(run)(leaves, NUMBERS)
        assert made.dtype == u.dtype
        np.testing.assert_allclose(
            made.astype(F32), u.astype(F32), rtol=0.01 if kind == "bfloat16" else 1e-6, atol=1e-7
        )
        assert_same_state(news, state)


def test_tiles_of_a_gpu_fill_the_matrix_with_powers_of_two() -> None:
    assert tiles(Layout(1024, 4096, 0, 256, 4096)) == (256, 16)
    assert tiles(Layout(50257, 768, 1, 256, 768)) == (1, 256)
    assert tiles(Layout(1000, 1024, 0, 250, 1024)) is None
    assert tiles(Layout(1024, 1000, 0, 256, 1000)) is None, "8 columns are a half of what is read at once"
    assert tiles(Layout(2**16, 2**16, 0, 256, 2**16)) is None, "its indices have more than 31 bits"
    with jax.enable_x64(True):
        assert tiles(Layout(1024, 4096, 0, 256, 4096)) is None


def test_a_piece_draws_the_numbers_of_the_whole() -> None:
    leaves = operands((512, 256), "8", jnp.uint32(7))
    _, *state = jax.jit(whole)(leaves, NUMBERS)
    rows, columns = slice(256, 512), slice(128, 256)
    piece = jax.tree.map(lambda x: x[rows.start // (512 // len(x)) :, columns] if x.ndim else x, leaves)
    program = Program(body, Layout(256, 128, 0, 128, 256), tuple(map(part_of, piece)), 3)
    for run in (loop(program), kernel(program, interpret=True), on_gpu(program)):
        _, *news = jax.jit(run)(piece, NUMBERS, 256 * rows.start + columns.start)
        for new, old in zip(news, state, strict=True):
            assert_same_state((new.codes, new.scales), (old.codes[rows, columns], old.scales[2:, columns]))


DROPS = {
    "max": np.fmax,
    "min": np.fmin,
    "clamp": lambda low, x, high: np.fmin(np.fmax(low, x), high),
    "reduce_max": np.fmax.reduce,
    "reduce_min": np.fmin.reduce,
}


def as_triton_computes(function: Any, *operands: Any) -> list[Any]:
    """The arrays that a function returns, where the largest and the least number never are a NaN."""

    def evaluated(program: Any, operands: Any) -> list[Any]:
        jaxpr = jaxpr_of(program)
        values = dict(zip(jaxpr.invars, operands, strict=True))
        values |= dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True))

        def read(variable: Any) -> Any:
            return variable.val if hasattr(variable, "val") else values[variable]

        for equation in jaxpr.eqns:
            name, inputs = equation.primitive.name, list(map(read, equation.invars))
            inner = [x for x in equation.params.values() if jaxpr_of(x) is not None]
            if inner:
                made: Any = evaluated(inner[0], inputs)
            elif name in DROPS:
                axes = {"axis": equation.params["axes"]} if "axes" in equation.params else {}
                made = [jnp.asarray(DROPS[name](*map(np.asarray, inputs), **axes))]
            else:
                made = equation.primitive.bind(*inputs, **equation.params)
                made = made if equation.primitive.multiple_results else [made]
            values.update(zip(equation.outvars, made, strict=True))
        return list(map(read, jaxpr.outvars))

    return evaluated(jax.make_jaxpr(function)(*operands), jax.tree.leaves(operands))


def test_a_nan_stays_one_in_a_kernel_of_a_gpu() -> None:
    g, mu, nu = operands((128, 2), "8", ())
    leaves = g.at[3, 1].set(jnp.nan), mu, nu
    program = Program(body, Layout(128, 2, 0, 128, 2), tuple(map(part_of, leaves)), 3)
    block = functools.partial(run_block, program)
    arguments = [matrices_of(leaf) for leaf in leaves], NUMBERS, [None] * 3, jnp.zeros((128, 2), jnp.uint32)
    wanted = jax.tree.leaves(block(*arguments))
    assert not np.array_equal(as_triton_computes(block, *arguments)[2], wanted[2], equal_nan=True)
    for made, each in zip(as_triton_computes(nan_kept(block), *arguments), wanted, strict=True):
        np.testing.assert_array_equal(made, each)
    assert [np.isnan(x[..., 1]).sum() for x in wanted] == [1, 0, 1, 0, 1], "an update and two scales"


def test_elementwise_rules_are_known_by_their_operations() -> None:
    x, s = ((2, 2), F32), ((), F32)
    assert is_elementwise(body, x, x, x, *[s] * len(NUMBERS))
    assert is_elementwise(jax.jit(lambda g, s: jnp.where(g > s, jnp.tanh(g), jnp.full_like(g, 2))), x, s)
    for rule in (
        lambda g, s: g / jnp.sum(g),
        lambda g, s: g.T,
        lambda g, s: jnp.cumsum(g, 0),
        lambda g, s: g + jnp.broadcast_to(jnp.arange(2.0), g.shape),
        lambda g, s: jax.jit(lambda x: x[::-1])(g),
        lambda g, s: g @ g,
        lambda g, s: jax.lax.cond(s > 0, lambda: g, lambda: g.T),
        lambda g, s: g / g.size,
        lambda g, s: jnp.sign(g) * jnp.float32(g.shape[0]),
        lambda g, s: jax.jit(lambda x: x / x.shape[1])(g),
    ):
        assert not is_elementwise(rule, x, s)
    assert not is_elementwise(lambda g, s: g if g.ndim == 1 else -g, ((4,), F32), s)
    assert not is_elementwise(lambda g, s: g * s[None], x, ((2,), F32)), "a number for each column"


def is_loop(tx: Any, shape: tuple[int, ...], devices: int = 1) -> bool:
    """Whether an update on so many CPUs is lowered to a loop."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:devices]), ("x",))
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = {"w": jax.ShapeDtypeStruct(shape, F32, sharding=here)}
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), jax.eval_shape(tx.init, params)
    )
    return "stablehlo.while" in jax.jit(tx.update).lower(params, state, params).as_text()


def test_large_quantized_leaves_are_a_loop_on_one_cpu_alone() -> None:
    coded = gf.quantize_state(gf.adamw(1e-3))
    assert is_loop(coded, (512, 128))
    assert not is_loop(coded, (512, 128), devices=2)
    assert not is_loop(gf.adamw(1e-3), (512, 128))
    assert not is_loop(coded, (256, 128)), "small"
    assert not is_loop(coded, (521, 131)), "no block divides an axis"
    assert not is_loop(gf.cast_state(gf.adamw(1e-3), {"mean": "bfloat16"}), (512, 128)), "has no blocks"


def exported(rule: Any, *platforms: str) -> str:
    """The program of an update of a quantized leaf for machines that this one is not."""
    tx = gf.quantize_state(rule)
    params = jax.ShapeDtypeStruct((1024, 256), F32)
    update = jax.jit(lambda g, state: tx.update(g, state, g))
    return str(export(update, platforms=platforms)(params, jax.eval_shape(tx.init, params)).mlir_module())


def test_a_tpu_has_a_kernel_where_its_language_has_the_operations() -> None:
    assert "tpu_custom_call" in exported(gf.scale_by_adam(), "tpu")
    program = exported(gf.scale_by_adam(), "cpu", "cuda")
    assert "tpu_custom_call" not in program
    assert "triton" not in program, "it may run on a GPU that lacks the language"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        has_kernel = "tpu_custom_call" in exported(gf.scale_by_lion(), "tpu")
    assert not has_kernel or jax.__version_info__ < (0, 10), "signs need a TPU at hand"
    assert has_kernel or "could not be lowered for a TPU" in str(said[0].message), "the reason is visible"
    with jax.enable_x64(True):
        assert "tpu_custom_call" not in exported(gf.scale_by_adam(), "tpu"), "its loops would count in int64"


def test_a_gpu_has_a_kernel_unless_its_program_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_platform, "_capability", lambda device: 9.0)
    assert "triton" not in exported(gf.scale_by_adam(), "cuda"), "jax refuses to export it"
    tx = gf.quantize_state(gf.scale_by_adam(), 4)
    like = jax.ShapeDtypeStruct((1024, 256), F32)
    traced = jax.jit(tx.update).trace(like, jax.eval_shape(tx.init, like))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a kernel for quantized leaves could not be lowered for a GPU")
        has_kernel = "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()
    assert has_kernel or jax.__version_info__ >= (0, 11), "it needs a GPU at hand"


def test_under_vmap_and_differentiation_arrays_are_whole() -> None:
    tx = gf.quantize_state(gf.scale_by_adam())
    g = jnp.asarray(np.random.default_rng(0).normal(size=(2, 512, 128)), jnp.float32)
    state = jax.eval_shape(jax.vmap(tx.init), g)
    mapped = jax.make_jaxpr(jax.vmap(lambda g, s: tx.update(g, s)[0]))(g, state)
    assert mapped.out_avals[0].shape == g.shape
    assert "on_one_device" not in str(mapped)

    def size(scale: jax.Array) -> jax.Array:
        return jnp.sum(tx.update(scale * g[0], tx.init(g[0]))[0] ** 2)

    assert np.isfinite(jax.grad(size)(jnp.float32(1.0)))
