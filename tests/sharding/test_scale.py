"""The arithmetic of large models, against compiled programs of small ones."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradflow as gf
from gradflow import sharding

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import scale  # noqa: E402  # it lies beside the package

DATA, MODEL, COUNT = 4, 2, 8


def test_formulas_are_what_compiled_programs_do() -> None:
    mesh = jax.make_mesh((DATA, MODEL), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    spec = P(None, "model")
    leaf = jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=NamedSharding(mesh, spec))
    params = {f"w{i}": leaf for i in range(COUNT)}
    tx = gf.shard_state(gf.spread(gf.scale_by_muon(ns_steps=1)), mesh, specs=spec)
    wanted = scale.per_device(COUNT * 16 * 8, scale.state_bytes(gf.scale_by_muon()), DATA, MODEL)
    found = {row.kind: row.bytes for row in sharding.communication(tx, params).rows}
    assert found == {"all-gather": wanted.updates, "all-to-all": wanted.matrices}
    shapes: Any = jax.eval_shape(tx.init, params)
    placed = sharding.state_sharding(tx, params)
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(placed), strict=True)
    held = sum(int(np.prod(s.shard_shape(x.shape))) * 4 for x, s in pairs if x.ndim == 2)
    assert held == COUNT * 16 * 8 * 4 / DATA / MODEL
    assert abs(held - wanted.zero_state) < 1, "beside counters"


@pytest.mark.parametrize("name", ["kron", "shampoo", "soap"])
def test_what_each_rule_on_matrices_exchanges(name: str) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    leaf = jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=NamedSharding(mesh, P()))
    tx = gf.shard_state(gf.spread(getattr(gf, f"scale_by_{name}")()), mesh)
    share = 16 * 8 * 4  # of eight matrices on eight devices
    found = sharding.communication(tx, {f"w{i}": leaf for i in range(8)}).rows
    sent = {
        where: sum(row.bytes for row in found if (row.kind, row.where) == ("all-to-all", where)) / share
        for where in ("step", "branch")
    }
    assert (sent["step"], sent["branch"]) == scale.EXCHANGED[name].shares(16, 8)


def test_the_page_has_the_table() -> None:
    page = (ROOT / ".github" / "SCALE.md").read_text()
    assert "\n".join(scale.table()) in page
