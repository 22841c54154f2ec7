"""Selectors: patterns of paths and predicates, their algebra, and the trees that they see alike."""

import dataclasses
import pickle
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradflow as gf

PARAMS = {
    "encoder": {"0": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}},
    "head": {"kernel": jnp.ones((2, 5), jnp.bfloat16), "bias": jnp.ones(5, jnp.bfloat16)},
    "scale": jnp.ones(()),
}


def chosen(selector: Any, params: Any = PARAMS) -> set[str]:
    picked = selector(params)
    assert jax.tree.structure(picked) == jax.tree.structure(params)
    return {path for path, c in zip(gf.tree.paths(params), jax.tree.leaves(picked), strict=True) if c}


ALL = set(gf.tree.paths(PARAMS))
BIASES = {"encoder/0/bias", "head/bias"}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (gf.paths("**/bias"), BIASES),
        (gf.paths("**"), ALL),
        (gf.paths("**/scale"), {"scale", "encoder/norm/scale"}),
        (gf.paths("*/bias", "scale"), {"head/bias", "scale"}),
        (gf.paths("encoder/**"), {"encoder/0/kernel", "encoder/0/bias", "encoder/norm/scale"}),
        (gf.paths("encoder/[0-9]/k*"), {"encoder/0/kernel"}),
        (gf.paths("**/0/**"), {"encoder/0/kernel", "encoder/0/bias"}),
        (~gf.paths("**/bias"), ALL - BIASES),
        (gf.paths("head/**") & gf.ndim(2), {"head/kernel"}),
        (gf.paths("head/*") | "scale", {"head/kernel", "head/bias", "scale"}),
        (gf.ndim(0, 2), {"scale", "encoder/0/kernel", "head/kernel"}),
        (gf.ndim(at_least=1, at_most=1), BIASES | {"encoder/norm/scale"}),
        (gf.dtype(jnp.bfloat16), {"head/kernel", "head/bias"}),
        (gf.dtype("float32") & gf.size(at_least=6), {"encoder/0/kernel"}),
        (gf.size(1), {"scale"}),
    ],
    ids=lambda value: repr(value) if isinstance(value, gf.Selector) else "",
)
def test_what_is_chosen(selector: Any, expected: set[str]) -> None:
    assert chosen(selector) == expected
    again = pickle.loads(pickle.dumps(selector))
    assert again == selector
    assert hash(again) == hash(selector)
    assert gf.from_config(gf.to_config(selector)) == selector


def test_selectors_print_as_they_are_typed() -> None:
    selector = gf.paths("a/*", "b") | ~(gf.ndim(2) & gf.size(at_least=1))
    assert repr(selector) == "paths('a/*', 'b') | ~(ndim(2) & size(at_least=1))"
    assert eval(repr(selector), vars(gf) | {n: getattr(gf, n) for n in ("paths", "ndim", "size")}) == selector
    assert repr(gf.paths("x", required=False)) == "paths('x', required=False)"


def test_a_pattern_that_matches_nothing_names_near_paths() -> None:
    with pytest.raises(ValueError, match=r"masked: the pattern '\*\*/biass' matches no .*'head/bias'"):
        gf.masked(gf.scale(2.0), ~gf.paths("**/bias", "**/biass")).init(PARAMS)
    with pytest.raises(ValueError, match=r"matches no parameter, only a subtree. Use 'encoder/\*\*'"):
        gf.freeze("encoder").init(PARAMS)
    assert chosen(gf.paths("**/biass", required=False)) == set()
    assert gf.paths("**/biass")({}) == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: gf.paths(), lambda: gf.paths(3), lambda: gf.ndim(), lambda: gf.size(2.5), lambda: gf.dtype(),
        lambda: gf.paths("a") | 3, lambda: gf.dtype("no such thing"),
    ],
)  # fmt: skip
def test_wrong_arguments(make: Any) -> None:
    with pytest.raises(TypeError):
        make()


def test_leaves_that_are_absent_are_neither_chosen_nor_missed() -> None:
    params = {"a": None, "b": jnp.ones(2), "c": gf.MaskedNode()}
    assert (~gf.paths("a"))(params) == {"a": None, "b": True, "c": None}
    assert gf.ndim(at_least=0)(params) == {"a": None, "b": True, "c": None}
    tx = gf.masked(gf.masked(gf.trace(0.9), gf.paths("b")), {"a": True, "b": True, "c": False})
    tx.init({"a": jnp.ones(1), "b": jnp.ones(2), "c": jnp.ones(3)})


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: Any
    bias: Any


class Dense(nnx.Module):
    def __init__(self) -> None:
        self.inner = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        self.value = nnx.Param(jnp.ones(()))


def test_paths_are_alike_in_every_kind_of_tree() -> None:
    arrays = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    boxed = {"inner": {"kernel": nn.Partitioned(arrays["kernel"], ("a", "b")), "bias": arrays["bias"]}}
    trees = {
        "dict": {"inner": arrays},
        "dataclass": {"inner": Layer(**arrays)},
        "linen": boxed,
        "haiku": {"net/~/inner": arrays},
        "list": [arrays],
    }
    for kind, params in trees.items():
        picked = gf.paths("**/kernel")(params)
        assert [bool(c) for c in jax.tree.leaves(picked)].count(True) == 1, kind
        tx = gf.adamw(0.1, mask=~gf.paths("**/bias"))
        tx.update(params, tx.init(params), params)
    assert chosen(gf.paths("net/inner/bias"), trees["haiku"]) == {"net/~/inner/bias"}


def test_flax_modules_have_one_path_in_and_out_of_their_boxes() -> None:
    boxed = nnx.state(Dense(), nnx.Param)
    pure = nnx.to_pure_dict(boxed)
    for params in (boxed, pure):
        assert sum(map(bool, jax.tree.leaves(gf.paths("inner/kernel")(params)))) == 1
        assert sum(map(bool, jax.tree.leaves(gf.paths("value")(params)))) == 1
    tx = gf.partition({"inner/kernel": gf.adam(0.1), "**": gf.sgd(0.1)})
    tx.update(boxed, tx.init(boxed), boxed)


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        (jnp.inexact, "whz"), (jnp.floating, "wh"), (np.floating, "wh"), (jnp.integer, "s"), ("integer", "s"),
        (jnp.signedinteger, "s"), (jnp.unsignedinteger, ""), (jnp.complexfloating, "z"), (jnp.number, "whzs"),
        (np.generic, "whzsf"), (jnp.bfloat16, "h"), ("float32", "w"), (np.dtype("float32"), "w"), (bool, "f"),
    ],
)  # fmt: skip
def test_dtypes_and_their_families(kind: Any, chosen: str) -> None:
    params = {
        "w": jnp.ones(3), "h": jnp.ones(2, jnp.bfloat16), "s": jnp.arange(4), "f": jnp.array(True),
        "z": jnp.ones(2, jnp.complex64),
    }  # fmt: skip
    selector = gf.dtype(kind)
    assert {name for name, flag in selector(params).items() if flag} == set(chosen)
    names = {"dtype": gf.dtype}
    again = eval(repr(selector), names)
    assert again == selector
    assert again(params) == selector(params)
    assert pickle.loads(pickle.dumps(selector)) == selector
    assert repr(eval(repr(~selector | gf.dtype("int8")), names)) == repr(~selector | gf.dtype("int8"))


def test_what_is_no_dtype_is_refused() -> None:
    for wrong in ("float33", 3.0, None, dict, [jnp.float32]):
        with pytest.raises(TypeError, match="dtype: arguments must be dtypes, as 'bfloat16', or families"):
            gf.dtype(wrong)
