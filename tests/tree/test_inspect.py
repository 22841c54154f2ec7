import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import tree

F16, BF16, F32 = (jnp.zeros(2, d) for d in (jnp.float16, jnp.bfloat16, jnp.float32))


def test_size():
    t = {"a": jnp.ones((2, 3)), "b": None, "s": 1.0, "e": jnp.zeros((0, 4))}
    assert tree.size(t) == 7
    assert tree.size({}) == 0
    assert type(tree.size({"s": jax.ShapeDtypeStruct((5,), jnp.float32)})) is int


@pytest.mark.parametrize("handler", [None, "promote", "highest", "lowest"])
def test_dtype_of_one_kind_of_leaves(handler):
    assert tree.dtype({"a": BF16, "n": None, "b": BF16}, handler) == jnp.bfloat16
    assert tree.dtype({}, handler) == jnp.float32
    assert tree.dtype([1.0, np.ones(2)], handler) == jnp.float32


@pytest.mark.parametrize(
    ("leaves", "promoted", "highest", "lowest"),
    [
        ((F16, F32), "float32", "float32", "float16"),
        ((F16, BF16, F32), "float32", "float32", None),
        ((F16, BF16), "float32", None, None),
        ((F32, jnp.zeros(1, jnp.complex64)), "complex64", "complex64", "float32"),
        ((jnp.zeros(1, jnp.int8), jnp.zeros(1, jnp.int32)), "int32", "int32", "int8"),
        ((jnp.zeros(1, jnp.int32), BF16), "bfloat16", "bfloat16", "int32"),
    ],
)
def test_dtype_of_mixed_leaves(leaves, promoted, highest, lowest):
    t = {str(i): x for i, x in enumerate(leaves)}
    with pytest.raises(ValueError, match=r"leaves must have one dtype; got .* at '0', .* at '1'"):
        tree.dtype(t)
    assert tree.dtype(t, "promote") == jnp.dtype(promoted)
    for handler, wanted in (("highest", highest), ("lowest", lowest)):
        if wanted:
            assert tree.dtype(t, handler) == jnp.dtype(wanted)
        else:
            with pytest.raises(ValueError, match=f"no {handler} dtype"):
                tree.dtype(t, handler)


def test_dtype_refuses_an_unknown_handler():
    with pytest.raises(ValueError, match="argument 'mixed_dtype_handler' must be None, 'promote'"):
        tree.dtype({}, "widest")


X = {"a": jnp.array([1.0, -2.0]), "n": None, "e": jnp.zeros((0,))}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1e-6, 1e-4, 1.0])
def test_allclose(shift, jit):
    y = X | {"a": X["a"] + shift}
    f = jax.jit(tree.allclose) if jit else tree.allclose
    assert bool(f(X, y)) == np.allclose(X["a"], y["a"])
    assert bool(f(X, y, atol=2.0))
    assert bool(f(X, y, rtol=2.0))


def test_allclose_with_infinities_and_nan():
    inf, nan = jnp.array([jnp.inf]), jnp.array([jnp.nan])
    assert tree.allclose(inf, inf)
    assert not tree.allclose(inf, -inf)
    assert not tree.allclose(jnp.array([1.0]), inf)
    assert not tree.allclose(nan, nan)
    assert tree.allclose(nan, nan, equal_nan=True)


def test_allclose_of_other_leaves():
    assert tree.allclose({}, {})
    assert not tree.allclose({"a": None}, {"a": 1.0})
    assert tree.allclose(jnp.array([1, 2]), jnp.array([1.0, 2.0], jnp.bfloat16))
    assert not tree.allclose(jnp.array([1j]), jnp.array([1.0]))
    large = jnp.array([2**24, 2**24])  # float32 has no 2**24 + 1
    assert tree.allclose(large, large, 0.0, 0.0)
    assert not tree.allclose(large, large + jnp.array([0, 1]), 0.0, 0.0)
    assert tree.allclose(large, large + 1, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"the leaves at 'a' must have equal shapes; got \(2,\) and \(1,\)"):
        tree.allclose({"a": jnp.ones(2)}, {"a": jnp.ones(1)})
    with pytest.raises(ValueError, match="trees must have one structure; at 'a'"):
        tree.allclose({"a": jnp.ones(2)}, {})
