"""Packed parameters give the numbers of the tree that was packed; nothing is written after a leaf."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from specs import PACKABLE_PARTS, build, over_all

from gradflow import packed
from gradflow.packed._layout import BLOCK
from laws.support import assert_close, run_interpreted


def tree(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (4, 3), "bias": (3,), "deep": {"scale": (), "wide": (2, 70), "cube": (2, 3, 2)}}
    filled = jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes, is_leaf=lambda x: isinstance(x, tuple),
    )  # fmt: skip
    return {**filled, "absent": None}


def assert_nothing_behind_the_leaves(node: packed.Packed) -> None:
    refilled = packed.pack(packed.unpack(node), node)
    for ours, clean in zip(node.buffers, refilled.buffers, strict=True):
        assert ours.size % BLOCK == 0
        np.testing.assert_array_equal(ours, clean)


@over_all("packed is unpacked", PACKABLE_PARTS)
def test_packed_gives_the_numbers_of_the_tree(case: str) -> None:
    params, gradients = tree(0), [tree(2), tree(3)]
    tx = build(case)
    *expected, _ = run_interpreted(tx, params, gradients)
    history, after, _ = run_interpreted(tx, packed.pack(params), [packed.pack(g) for g in gradients])
    for node in (*history, after):
        assert_nothing_behind_the_leaves(node)
    assert_close([[packed.unpack(u) for u in history], packed.unpack(after)], expected, rtol=2e-5, atol=2e-6)
