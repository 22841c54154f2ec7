"""Steps compiled for an H100 and a TPU v5e: deterministic bars. Skipped without the compilers' wheels."""

import pytest

from benchmarks import aot

PLATFORMS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(aot.missing(name) is not None, reason=str(aot.missing(name))),
    )
    for name in aot.PLATFORMS
]


@pytest.fixture(scope="module", params=PLATFORMS)
def compiler(request: pytest.FixtureRequest) -> aot.Compiler:
    return aot.Compiler(request.param)


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd momentum"])
def test_an_elementwise_rule_is_one_pass_without_copies_or_scratch(compiler: aot.Compiler, name: str) -> None:
    row = measured(compiler, name)
    assert row.ours.cost.copies == 0
    assert row.ours.scratch <= row.largest_leaf
    assert row.ours.cost.moved <= 1.01 * row.least


def measured(compiler: aot.Compiler, name: str) -> aot.Row:
    row = aot.measured(compiler, "rules", name)
    assert isinstance(row, aot.Row), row
    return row


def test_a_missing_platform_is_named() -> None:
    why = aot.missing("h200")
    assert why == "no platform is called 'h200'; the known ones are h100, v5e"
