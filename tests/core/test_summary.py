"""summary: what each stage keeps, in exact bytes, without allocating any."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from laws.support import extras
from specs import build, over_all
from trees import small

import gradflow as gf

PARAMS = {
    "embedding": jax.ShapeDtypeStruct((1000, 64), jnp.bfloat16),
    "layer": {
        "kernel": jax.ShapeDtypeStruct((64, 64), jnp.float32),
        "bias": jax.ShapeDtypeStruct((64,), jnp.float32),
    },
}
TX = gf.chain(
    gf.clip_by_global_norm(1.0),
    gf.partition(
        {"embedding": gf.adamw(1e-3), "**/kernel": gf.sgd(0.1, momentum=0.9), "**": gf.set_to_zero()}
    ),
)


def test_bytes_are_counted_by_stage_and_by_group() -> None:
    rows = {row.stage: row for row in gf.summary(TX, PARAMS).rows}
    adam = rows["partition.embedding.adamw.scale_by_adam"]
    assert (adam.parameters, adam.state_bytes) == (64_000, 64_000 * (2 + 4) + 4)
    assert adam.dtypes == ("bfloat16", "float32")
    assert adam.donated is True
    assert adam.bytes_per_parameter == pytest.approx(6.0, abs=1e-3)
    assert rows["partition.**/kernel.sgd.trace"].state_bytes == 64 * 64 * 4
    assert rows["partition.**.set_to_zero"] == ("partition.**.set_to_zero", 64, 0, (), None)
    assert rows["clip_by_global_norm"].parameters == 64_000 + 64 * 64 + 64


def test_it_prints_as_a_table_and_is_one_in_a_notebook() -> None:
    summary = gf.summary(TX, PARAMS)
    text = str(summary)
    assert text.splitlines()[0].startswith("68.16 k parameters in 3 leaves, 144.6 kB; state ")
    assert [line.split()[0] for line in text.splitlines()[1:3]] == ["stage", "clip_by_global_norm"]
    assert text.splitlines()[-1].startswith("total")
    page = summary._repr_html_()
    assert page.count("<tr>") == len(summary.rows) + 2
    assert "partition.**.set_to_zero" in page.replace("<wbr>", "")
    assert summary.to_dict()["state_bytes"] == sum(row["state_bytes"] for row in summary.to_dict()["rows"])


def test_a_billion_parameters_allocate_nothing() -> None:
    shapes = {str(i): jax.ShapeDtypeStruct((10_000, 10_000), jnp.bfloat16) for i in range(15)}
    summary = gf.summary(gf.adamw(1e-3), shapes)
    assert summary.parameters == 1_500_000_000
    assert summary.state_bytes == 6 * 1_500_000_000 + 4 + 4


def test_a_state_that_changes_its_type_cannot_be_donated() -> None:
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return updates, jax.tree.map(lambda s: s.astype(jnp.float16), state)

    tx = gf.GradientTransformation(
        lambda params: jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params), update
    )
    (row,) = gf.summary(tx, PARAMS).rows
    assert row.donated is False
    assert gf.summary(gf.momo(), PARAMS).rows[0].donated is None  # it needs the loss
    assert gf.summary(gf.momo(), PARAMS, value=jnp.float32(1.0)).rows[0].donated is True


def test_mistakes() -> None:
    with pytest.raises(TypeError, match="It is a factory: call it"):
        gf.summary(gf.adam, PARAMS)
    with pytest.raises(TypeError, match="summary: the leaf at 'w' of argument 'params' must be an array"):
        gf.summary(gf.adam(0.1), {"w": "w"})


@over_all("summary")
def test_every_byte_of_a_state_is_some_stages(case: str) -> None:
    tx = build(case)
    params = small(0)
    summary = gf.summary(tx, params, **extras(tx, params, small(1)))
    leaves = jax.tree.leaves(tx.init(params))
    assert summary.state_bytes == sum(x.size * x.dtype.itemsize for x in leaves)
    assert all(row.donated is not False for row in summary.rows)
