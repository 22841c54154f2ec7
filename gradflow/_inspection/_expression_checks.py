"""Findings from the expression alone."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from gradflow._core._call import UpdatePart
from gradflow._core._rates import number, sets_the_rate
from gradflow._core._stage import Stage
from gradflow._core._transformation import GradientTransformation, stage_of, stages_of
from gradflow._dtypes import is_inexact
from gradflow._expressions._addresses import addresses
from gradflow._expressions._keys import expression_of
from gradflow._inspection._findings import Finding
from gradflow._selection._masks import resolve_mask
from gradflow._types import Params
from gradflow.matrices._choice import is_table_or_head
from gradflow.matrices._resolve import recording_matrices
from gradflow.tree._paths import leaves_by_path, path_string, show


class Place(NamedTuple):
    """A stage that an update passes through, and the optimizer that contains it, or itself."""

    address: str
    stage: Stage
    owner: str


Sequence = tuple[Place, ...]


def _sequences(stage: Stage, address: str, owner: str | None = None) -> list[Sequence]:
    """The stages that an update passes through, in order; one sequence per group of parameters."""
    if isinstance(stage.update, UpdatePart):  # a named optimizer is the chain that its body returned
        return _sequences(stage.update.stage, address, owner or address)
    if not stage.children:
        return [(Place(address, stage, owner or address),)]
    inner = [
        _sequences(child, f"{address}.{child.label}" if child.label else address, owner)
        for child in stage.children
    ]
    if stage.expression.name in ("chain", "named_chain"):
        return [tuple(itertools.chain(*parts)) for parts in itertools.product(*inner)]
    own = Place(address, stage, owner or address)
    return [(*sequence, own) for branches in inner for sequence in branches]


_CLIPS = ("clip", "clip_by_global_norm", "clip_by_block_rms", "adaptive_grad_clip")
_DECAYS = ("add_decayed_weights", "step_with_decay")
# Stages that may follow a last one: they read the step, or limit it to what the parameters allow.
_PASSIVE = ("identity", "snapshot", "monitor", "keep_params_nonnegative")
_LONG_MEMORY = 0.99  # from this decay on, bfloat16 rounds away the change of an average per step


def expression_findings(tx: GradientTransformation, params: Params) -> Iterator[Finding]:
    """Findings about learning rates, weight decay and dtypes of averages."""
    stage = stage_of(tx)
    if stage is None:
        return
    yield from _float16_findings(tx, stage.expression.name, params)
    seen: set[tuple[str, str]] = set()
    for sequence in _sequences(stage, stage.expression.name):
        found = (
            *_rates(sequence),
            *_after_last(sequence),
            *_decays(sequence, params),
            *_low_precision_averages(sequence, params),
        )
        for finding in found:
            if (finding.stage, finding.problem) not in seen:
                seen.add((finding.stage, finding.problem))
                yield finding


def _float16_findings(tx: GradientTransformation, name: str, params: Params) -> Iterator[Finding]:
    """What training float16 parameters lacks."""
    if not any(leaf.dtype == np.float16 for leaf in jax.tree.leaves(params)):
        return
    names = {stage.expression.name for stage in stages_of(tx)}
    if "master_params" not in names:
        yield Finding(
            name,
            "float16 parameters lose every step that is smaller than half the gap to their neighbors",
            "Keep their weights in float32 with master_params(tx)",
        )
    if "with_loss_scale" not in names:
        yield Finding(
            name,
            "gradients in float16 below 6e-8 are zero",
            "Scale the loss with with_loss_scale(tx), around the whole optimizer",
        )


def _rates(sequence: Sequence) -> Iterator[Finding]:
    for address, stage, _ in sequence:
        rate = number(stage.expression, "learning_rate")
        if rate is not None and rate < 0 and stage.expression.arguments.get("flip_sign", True):
            yield Finding(
                address,
                f"learning_rate = {rate:g} is negative, so the updates ascend the loss",
                "Pass a positive rate to minimize",
            )
    rates = [place for place in sequence if sets_the_rate(place.stage)]
    second = next((place for place in rates if place.owner != rates[0].owner), None)
    if second is not None:
        yield Finding(
            second.address,
            f"the learning rate is applied a second time, after {rates[0].address}",
            "Remove one of them; two of them also flip the sign of the update",
        )
    position = next((i for i, place in enumerate(sequence) if sets_the_rate(place.stage)), len(sequence))
    for address, stage, _ in sequence[position:]:
        if stage.expression.name in _CLIPS:
            yield Finding(
                address,
                "clips after the learning rate, so the limit applies to the step and scales with the rate",
                "Put it before the optimizer, where it limits the gradient",
            )


def _after_last(sequence: Sequence) -> Iterator[Finding]:
    position = next((i for i, place in enumerate(sequence) if place.stage.is_last), len(sequence))
    for address, stage, _ in sequence[position + 1 :]:
        changes = not stage.children and stage.expression.name not in _PASSIVE
        if changes and not sets_the_rate(stage):  # a second rate is a finding of its own
            yield Finding(
                address,
                f"changes the step after {sequence[position].address}, which must be the last stage",
                "Put it before that stage",
            )


def _decays(sequence: Sequence, params: Params) -> Iterator[Finding]:
    for address, stage, _ in sequence:
        if stage.expression.name not in _DECAYS or number(stage.expression, "weight_decay") == 0:
            continue
        mask = stage.expression.arguments["mask"]
        chosen = jax.tree.map(lambda p: True, params) if mask is None else resolve_mask(mask, params)
        kept = leaves_by_path(chosen)
        flat = [
            path for path, leaf in leaves_by_path(params).items()
            if kept.get(path) is True and leaf is not None and len(leaf.shape) < 2
        ]  # fmt: skip
        if flat and len(flat) < len(kept):
            yield Finding(
                address,
                f"decays parameters with fewer than two axes, {len(flat)} of {len(kept)}, such as "
                f"{show(flat[0])}; these are usually biases and scales of norms",
                "Pass mask=gradflow.ndim(at_least=2) to the optimizer",
            )


def _low_precision_averages(sequence: Sequence, params: Params) -> Iterator[Finding]:
    for address, stage, _ in sequence:
        decays = {n: number(stage.expression, n) for n in ("decay", "b1", "b2", "b3")}
        long = {n: d for n, d in decays.items() if d is not None and d >= _LONG_MEMORY}
        if not long or stage.children:
            continue
        try:
            state = jax.eval_shape(stage.init, params)
        except (TypeError, ValueError):
            continue  # a stage for some of the leaves alone, such as matrices
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if is_inexact(leaf.dtype) and leaf.dtype.itemsize < 4 and leaf.ndim > 0:
                name, decay = next(iter(long.items()))
                yield Finding(
                    address,
                    f"keeps {show(path_string(path))} in {leaf.dtype} with {name} = {decay:g}; the change of "
                    "such an average per step is rounded away",
                    "Pass float32, or leave the dtype out",
                )
                break


def matrix_findings(tx: GradientTransformation, params: Params) -> Iterator[Finding]:
    """Embeddings and heads that a stage takes as hidden matrices."""
    try:
        with recording_matrices() as taken:
            jax.eval_shape(tx.init, params)
    except (TypeError, ValueError):
        return  # the trial steps meet the same error
    tables: dict[str, list[str]] = {}
    for stage, path, *_ in taken:
        if is_table_or_head(path):
            tables.setdefault(stage, []).append("/".join(path))
    for stage, paths in tables.items():
        yield Finding(
            stage,
            f"takes {show(paths[0])} as a hidden matrix"
            + (f", and {len(paths) - 1} more" if len(paths) > 1 else "")
            + "; by its name it is an embedding, positions or a head",
            "Leave it to another optimizer: choose gradflow.hidden_matrices() as the matrices",
        )


def schedule_findings(tx: GradientTransformation, steps: int | None) -> Iterator[Finding]:
    """Findings about schedules whose warm-up or decay does not fit the number of steps."""
    for address, value in addresses(tx).items() if expression_of(tx) else ():
        expression = expression_of(value)
        if expression is None or expression.maker.kind != "schedule":
            continue
        if address.split(".")[-1].split("[")[0] == expression.name:
            continue  # reported under the address of the argument
        warmup, decay = expression.arguments.get("warmup_steps"), expression.arguments.get("decay_steps")
        if isinstance(warmup, int) and isinstance(decay, int) and decay <= warmup:
            yield Finding(
                address,
                f"decay_steps = {decay} includes the {warmup} warm-up steps, which leaves no step to decay",
                "Make decay_steps the total number of steps",
            )
        elif isinstance(warmup, int) and steps is not None and warmup >= steps:
            yield Finding(
                address,
                f"{warmup} warm-up steps do not end within {steps} steps",
                "Shorten the warm-up or train longer",
            )
        elif isinstance(decay, int) and steps is not None and decay < steps:
            yield Finding(
                address,
                f"ends after {decay} of {steps} steps; the others have its last value, "
                f"{float(value(decay)):g}",
                "Make decay_steps the total number of steps",
            )


def sequences_of(tx: GradientTransformation) -> list[Sequence]:
    stage = stage_of(tx)
    return [] if stage is None else _sequences(stage, stage.expression.name)
