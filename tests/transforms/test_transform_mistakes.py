"""Wrong arguments, said when the stage is built or called."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf

BUILD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "clip -1": (lambda: gf.clip(-1.0), ValueError, "clip: argument 'max_delta'"),
    "clip None": (lambda: gf.clip(None), TypeError, "clip: argument 'max_delta'"),
    "clip array": (lambda: gf.clip(jnp.ones(2)), ValueError, "shape \\(2,\\)"),
    "norm nan": (lambda: gf.clip_by_global_norm(float("nan")), ValueError, "'max_norm'"),
    "norm text": (lambda: gf.clip_by_global_norm("1"), TypeError, "'max_norm'"),
    "axis number": (lambda: gf.clip_by_global_norm(1.0, axis_name=0), TypeError, "'axis_name'"),
    "axes mixed": (lambda: gf.clip_by_block_rms(1.0, axis_name=["a", 0]), TypeError, "'axis_name'"),
    "axis positional": (lambda: gf.clip_by_global_norm(1.0, "data"), TypeError, "clip_by_global_norm"),
    "decay 1.1": (lambda: gf.trace(1.1), ValueError, "trace: argument 'decay'"),
    "nesterov 2": (lambda: gf.trace(0.9, nesterov=2), TypeError, "'nesterov' must be True or False"),
    "dampening 2": (lambda: gf.dampened_trace(0.9, 2.0), ValueError, "'dampening'"),
    "ema 1": (lambda: gf.ema(1.0), ValueError, "ema: argument 'decay'"),
    "eta": (lambda: gf.add_noise(-1.0, 0.5, 0), ValueError, "'eta'"),
    "bool key": (lambda: gf.add_noise(1.0, 0.5, True), TypeError, "'key'"),
    "float key": (lambda: gf.add_noise(1.0, 0.5, jnp.ones(2)), TypeError, "one PRNG key"),
    "many keys": (
        lambda: gf.add_noise(1.0, 0.5, jax.random.split(jax.random.key(0), 3)),
        TypeError,
        "one PRNG key",
    ),
    "channel": (lambda: gf.centralize(channel_axis=1), ValueError, "'channel_axis' must be 0 or -1"),
    "channel True": (lambda: gf.centralize(channel_axis=True), TypeError, "'channel_axis'"),
    "unit axis": (lambda: gf.adaptive_grad_clip(0.1, axis="in"), TypeError, "'axis'"),
    "unit eps": (lambda: gf.adaptive_grad_clip(0.1, eps=-1.0), ValueError, "'eps'"),
    "trust": (lambda: gf.scale_by_trust_ratio(-1.0), ValueError, "'min_norm'"),
    "elsewhere": (lambda: gf.masked(gf.identity(), True, elsewhere="drop"), ValueError, "'elsewhere'"),
    "no stage": (lambda: gf.masked(gf.trace, True), TypeError, "masked"),
}


@pytest.mark.parametrize("case", BUILD)
def test_refused_when_built(case: str) -> None:
    build, error, words = BUILD[case]
    with pytest.raises(error, match=words):
        build()


@pytest.mark.parametrize(
    "tx",
    [
        gf.adaptive_grad_clip(0.1), gf.scale_by_trust_ratio(), gf.scale_by_param_block_norm(),
        gf.scale_by_param_block_rms(), gf.keep_params_nonnegative(),
    ],
    ids=repr,
)  # fmt: skip
def test_stages_that_need_the_parameters_say_so(tx: Any) -> None:
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


@pytest.mark.parametrize("tx", [gf.clip(1.0), gf.keep_params_nonnegative()], ids=repr)
def test_complex_numbers_have_no_order(tx: Any) -> None:
    with pytest.raises(TypeError, match="real"):
        tx.init({"a": jnp.ones(3, jnp.complex64)})


def test_an_axis_that_a_leaf_does_not_have_is_named() -> None:
    tx = gf.adaptive_grad_clip(0.1, axis=(0, 1))
    params = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}
    with pytest.raises(ValueError, match=r"adaptive_grad_clip: argument 'axis'.*got \(0, 1\).*'bias'"):
        tx.update(params, tx.init(params), params)


def test_examples_must_agree() -> None:
    with pytest.raises(ValueError, match=r"per_example_global_norm_clip: .*4 examples .*'b'"):
        gf.per_example_global_norm_clip({"a": jnp.ones((4, 2)), "b": jnp.ones((3, 2))}, 1.0)
    with pytest.raises(ValueError, match=r"per_example_layer_norm_clip: .*must have examples .*'a'"):
        gf.per_example_layer_norm_clip({"a": jnp.ones(())}, 1.0)
