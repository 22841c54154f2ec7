"""What a compiled program launches and moves, read from texts in the manner of both compilers."""

from pathlib import Path

import pytest

from benchmarks import aot
from benchmarks.aot import results, table
from benchmarks.hlo import Cost, cost, held, type_bytes

GPU = """HloModule jit_step, is_scheduled=true

%fused_select (param_0.1: s32[]) -> s32[] {
  %param_0.1 = s32[] parameter(0)
  ROOT %select.1 = s32[] add(%param_0.1, %param_0.1)
}

%taken (arg.1: (f32[1024], f32[1024])) -> (f32[1024]) {
  %arg.1 = (f32[1024]{0}, f32[1024]{0}) parameter(0)
  %a.1 = f32[1024]{0} get-tuple-element(%arg.1), index=0
  %sum.1 = f32[1024]{0} fusion(%a.1), kind=kLoop, calls=%fused_select
  %copy.1 = f32[1024]{0} copy(%sum.1)
  ROOT %result.1 = (f32[1024]{0}) tuple(%copy.1)
}

%skipped (arg.2: (f32[1024])) -> (f32[1024]) {
  %arg.2 = (f32[1024]{0}) parameter(0)
  %a.2 = f32[1024]{0} get-tuple-element(%arg.2), index=0
  ROOT %result.2 = (f32[1024]{0}) tuple(%a.2)
}

%body (arg.3: (s32[])) -> (s32[]) {
  %arg.3 = (s32[]) parameter(0)
  %i.3 = s32[] get-tuple-element(%arg.3), index=0
  %next.3 = s32[] fusion(%i.3), kind=kLoop, calls=%fused_select
  ROOT %result.3 = (s32[]) tuple(%next.3)
}

%condition (arg.4: (s32[])) -> pred[] {
  %arg.4 = (s32[]) parameter(0)
  %i.4 = s32[] get-tuple-element(%arg.4), index=0
  ROOT %less.4 = pred[] fusion(%i.4), kind=kLoop, calls=%fused_select
}

ENTRY %main.9 (count: s32[], g: f32[1024], m: bf16[1024]) -> (s32[], f32[1024]) {
  %count = s32[] parameter(0)
  %g = f32[1024]{0} parameter(1), metadata={op_name="g"}
  %m = bf16[1024]{0} parameter(2)
  %next = s32[] fusion(%count), kind=kLoop, calls=%fused_select, metadata={op_name="add(%m)"}
  %product = f32[32,32]{1,0} custom-call(%g, %m), custom_call_target="__cublas$gemm"
  %small = s32[] copy(%count)
  %given = (f32[1024]{0}, f32[1024]{0}) tuple(%g, %g)
  %chosen = (f32[1024]{0}) conditional(%less, %given, %other), branch_computations={%taken, %skipped}
  %loop = (s32[]) while(%given), condition=%condition, body=%body
  ROOT %all = (s32[], f32[1024]{0}) tuple(%next, %g)
}
"""

TPU = """HloModule jit_step, is_scheduled=true

ENTRY %main.9 (scale: f32[], g: f32[8,1024]) -> f32[8,1024] {
  %scale = f32[]{:T(128)} parameter(0)
  %g = f32[8,1024]{1,0:T(8,128)} parameter(1)
  %copy.1 = f32[]{:T(128)S(6)} copy(%scale), backend_config={"flag_configs":[]}
  %ahead = (f32[8,1024]{1,0:T(8,128)S(1)}, f32[8,1024]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%g)
  %part = ((f32[8,1024]{1,0:T(8,128)}), f32[4,1024]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%g), slice={[0:4], [0:1024]}
  %ready = f32[8,1024]{1,0:T(8,128)S(1)} copy-done(%ahead)
  %kept = (f32[8,1024]{1,0:T(8,128)}, f32[8,1024]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%g)
  %joined = f32[8,1024]{1,0:T(8,128)S(1)} custom-call(%part), custom_call_target="ConcatBitcast"
  ROOT %sum = f32[8,1024]{1,0:T(8,128)} fusion(%ready, %g, %copy.1), kind=kLoop, calls=%f, backend_config={"flag_configs":[],"estimated_cycles":"1234"}
}
"""  # noqa: E501


def test_bytes_of_a_type() -> None:
    assert type_bytes("(f32[2,3]{1,0}, bf16[4]{0}, pred[8], s32[])") == 24 + 8 + 8 + 4
    assert type_bytes("f32[8,128]{1,0:T(8,128)S(1)}") == 0
    assert type_bytes("f8e4m3fn[16]{0}") == 16


def test_branches_calls_and_copies_of_a_gpu_program() -> None:
    entry = 2 * 4 + (4096 + 4096 + 2048) + 2 * 4  # the counter, the product, the small copy
    branch, loop = 4 * 4096, 2 * 4 + 5
    found = cost(GPU)
    assert found == Cost(kernels=7, copies=1, calls=1, moved=entry + branch + loop, branches=((2, 0),))


def test_reads_ahead_and_cycles_of_a_tpu_program() -> None:
    leaf = 4 * 8 * 1024
    read_ahead, part, kept, fused = leaf, leaf // 2, 2 * leaf, 2 * leaf
    found = cost(TPU)
    assert found.kernels == 2
    assert found.copies == 1
    assert found.calls == 0
    assert found.cycles == 1234
    assert found.moved == read_ahead + part + kept + fused + 4


def test_arrays_beside_arguments_and_results_are_held() -> None:
    """The largest branch holds an array that is neither; a result and reads ahead count for nothing."""
    assert held(GPU) == 2 * 4 * 1024
    assert held(TPU) == 0


@pytest.mark.parametrize("platform", aot.PLATFORMS)
def test_the_page_has_the_stored_rows(platform: str) -> None:
    """Figures, what a row misses, and what its excess pays for."""
    page = Path(results.__file__).parents[1].joinpath("README.md").read_text()
    lines = table.markdown(results.stored_rows(platform)).splitlines()
    assert not set(lines) - set(page.splitlines())
