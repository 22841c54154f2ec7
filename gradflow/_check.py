"""check: what runs and is wrong all the same."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._address import addresses
from gradflow._apply import apply_updates
from gradflow._base import GradientTransformation, Params, Updates, as_transformation
from gradflow._display import preformatted, table
from gradflow._dtypes import is_inexact
from gradflow._errors import describe
from gradflow._expression import Expression, expression_of
from gradflow._packed import abstract_tree, pack_as, unpack_all
from gradflow._select import resolve_mask
from gradflow._stage import Stage, UpdatePart, stage_of
from gradflow.tree._paths import leaves_by_path, path_string, show
from gradflow.tree._structure import explain_trees


class Finding(NamedTuple):
    """Something wrong: the stage that does it, what it is, and how to mend it."""

    stage: str
    problem: str
    cure: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.problem}. {self.cure}"


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """All findings of `check`; none where it found nothing."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        if self.ok:
            return "check: nothing found"
        lines = [f"{number}. {finding}" for number, finding in enumerate(self.findings, 1)]
        return "\n".join([f"check: {len(lines)} finding{'s' if len(lines) > 1 else ''}", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if self.ok:
            return preformatted(str(self))
        return table(("stage", "problem", "cure"), self.findings, (0, 1, 2))


def check(
    tx: GradientTransformation,
    params: Params,
    grads: Updates | None = None,
    *,
    steps: int | None = None,
    **extra: Any,
) -> CheckResult:
    """Takes two steps with `tx`, reads its expression, and says what is probably not meant.

    Finds an update that climbs, a learning rate that is applied twice or never, clipping behind the
    rate, weight decay on biases and norms, averages in a dtype too narrow for their decay, gradients of other
    shapes, a warm-up that is not over when the schedule or the training is, a state that changes its
    type (each step would compile anew), and buffers that cannot be donated.

    Args:
      tx: any transformation.
      params: arrays, or `jax.ShapeDtypeStruct`s, with which nothing is run.
      grads: gradients as a step would give them; random ones by default.
      steps: the number of updates planned, for the schedules.
      **extra: the extra arguments that `tx` needs, such as `value`.

    The result prints one finding a line, with its stage and a cure.
    """
    tx = as_transformation(tx, "check", "the first argument")
    findings = [*_read(tx, abstract_tree(params)), *_schedules(tx, steps)]
    wrong_grads = [] if grads is None else list(_gradients(params, grads))
    if wrong_grads:
        return CheckResult((*wrong_grads, *findings))
    if any(isinstance(p, jax.ShapeDtypeStruct) for p in jax.tree.leaves(params)):
        return CheckResult(tuple(findings))
    return CheckResult((*_run(tx, params, grads, extra), *findings))


class Place(NamedTuple):
    """A stage on an update's way, and the optimizer that it is a part of, or itself."""

    address: str
    stage: Stage
    owner: str


Sequence = tuple[Place, ...]


def _sequences(stage: Stage, address: str, owner: str | None = None) -> list[Sequence]:
    """The stages that an update goes through, in order: one sequence for each group of parameters."""
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


def _number(expression: Expression, name: str) -> float | None:
    value = expression.arguments.get(name)
    return float(value) if isinstance(value, int | float | np.number) else None


def _sets_the_rate(stage: Stage) -> bool:
    arguments = stage.expression.arguments
    if stage.expression.name == "scale":
        factor = _number(stage.expression, "step_size")
        return factor is not None and factor < 0
    return not stage.children and "learning_rate" in arguments


_CLIPS = ("clip", "clip_by_global_norm", "clip_by_block_rms", "adaptive_grad_clip")
_LONG_MEMORY = 0.99  # from here on an average moves by less than a bfloat16 can hold


def _read(tx: GradientTransformation, params: Params) -> Iterator[Finding]:
    """What the expression alone tells."""
    stage = stage_of(tx)
    if stage is None:
        return
    seen: set[tuple[str, str]] = set()
    for sequence in _sequences(stage, stage.expression.name):
        for finding in (*_rates(sequence), *_decays(sequence, params), *_narrow(sequence, params)):
            if (finding.stage, finding.problem) not in seen:
                seen.add((finding.stage, finding.problem))
                yield finding


def _rates(sequence: Sequence) -> Iterator[Finding]:
    rates = [place for place in sequence if _sets_the_rate(place.stage)]
    second = next((place for place in rates if place.owner != rates[0].owner), None)
    if second is not None:
        yield Finding(
            second.address,
            f"the learning rate is applied a second time, after {rates[0].address}",
            "Leave one of them out; two of them also turn the step around",
        )
    position = next((i for i, place in enumerate(sequence) if _sets_the_rate(place.stage)), len(sequence))
    for address, stage, _ in sequence[position:]:
        if stage.expression.name in _CLIPS:
            yield Finding(
                address,
                "clips behind the learning rate, so the limit is on the step and moves with the rate",
                "Put it in front of the optimizer, where it limits the gradient",
            )


def _decays(sequence: Sequence, params: Params) -> Iterator[Finding]:
    for address, stage, _ in sequence:
        if stage.expression.name != "add_decayed_weights" or _number(stage.expression, "weight_decay") == 0:
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
                f"decays parameters with fewer than two axes, {len(flat)} of {len(kept)}, as "
                f"{show(flat[0])}: biases and scales of norms, as a rule",
                "Pass mask=gradflow.ndim(at_least=2) to the optimizer",
            )


def _narrow(sequence: Sequence, params: Params) -> Iterator[Finding]:
    for address, stage, _ in sequence:
        decays = {n: _number(stage.expression, n) for n in ("decay", "b1", "b2", "b3")}
        long = {n: d for n, d in decays.items() if d is not None and d >= _LONG_MEMORY}
        if not long or stage.children:
            continue
        state = jax.eval_shape(stage.init, params)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if is_inexact(leaf.dtype) and leaf.dtype.itemsize < 4 and leaf.ndim > 0:
                name, decay = next(iter(long.items()))
                yield Finding(
                    address,
                    f"keeps {show(path_string(path))} in {leaf.dtype} with {name} = {decay:g}: what an "
                    "average with so long a memory moves by in a step is rounded away",
                    "Ask for float32, or leave the dtype out",
                )
                break


def _schedules(tx: GradientTransformation, steps: int | None) -> Iterator[Finding]:
    """Schedules whose rise is not over when they, or the training, are."""
    for address, value in addresses(tx).items() if expression_of(tx) else ():
        expression = expression_of(value)
        if expression is None or expression.maker.kind != "schedule":
            continue
        if address.split(".")[-1].split("[")[0] == expression.name:
            continue  # the argument that it is given for comes by its own address
        warmup, decay = expression.arguments.get("warmup_steps"), expression.arguments.get("decay_steps")
        if isinstance(warmup, int) and isinstance(decay, int) and decay <= warmup:
            yield Finding(
                address,
                f"decay_steps = {decay} includes the {warmup} steps of warm-up, which leaves none to decay",
                "Make decay_steps the total number of steps",
            )
        elif isinstance(warmup, int) and steps is not None and warmup >= steps:
            yield Finding(
                address,
                f"{warmup} steps of warm-up are not over in {steps} steps",
                "Shorten the warm-up or train longer",
            )
        elif isinstance(decay, int) and steps is not None and decay < steps:
            yield Finding(
                address,
                f"ends after {decay} of {steps} steps; all others have its last value, "
                f"{float(value(decay)):g}",
                "Make decay_steps the total number of steps",
            )


def _gradients(params: Params, grads: Updates) -> Iterator[Finding]:
    structure: Any = jax.tree.structure(params)
    if structure != jax.tree.structure(grads):
        yield Finding(
            "grads", explain_trees("grads", grads, "params", params), "Differentiate with respect to params"
        )
        return
    for path, p in leaves_by_path(params).items():
        g = leaves_by_path(grads)[path]
        if p is not None and np.shape(g) != np.shape(p):
            yield Finding(
                "grads",
                f"at {show(path)} the gradient is {describe(g)} and the parameter {describe(p)}",
                "Average over examples and devices before the update",
            )


def _run(
    tx: GradientTransformation, params: Params, grads: Updates | None, extra: dict[str, Any]
) -> Iterator[Finding]:
    """What two steps show."""
    name = getattr(expression_of(tx), "name", "the transformation")
    if grads is None:
        grads = pack_as(params, tree.random_like(jax.random.key(0), unpack_all(params)))

    def step(params: Params, state: Any) -> tuple[Updates, Params, Any]:
        updates, state = tx.update(grads, state, params, **extra)
        return updates, apply_updates(params, updates), state

    point, slopes = params, dict.fromkeys(leaves_by_path(grads), 0.0)
    try:
        state = tx.init(params)
        yield from _shared_buffers(name, params, state)
        updates, point, after = step(point, state)
        yield from _changed_types(name, state, after)
        # Some hold updates back for a while, or begin at a rate of zero.
        step = jax.jit(step)
        for count in range(_PATIENCE):
            slopes = {path: slopes[path] + slope for path, slope in _slopes(updates, grads).items()}
            if count >= 2 and any(slopes.values()):
                break
            updates, point, after = step(point, after)
    except Exception as error:  # whatever a stranger's stage raises is what is to be told
        yield Finding(
            name,
            f"a step fails: {type(error).__name__}: {error}",
            "Pass check the extra arguments that it needs",
        )
        return
    climbing = [path for path, slope in slopes.items() if slope > 0]
    if sum(slopes.values()) > 0 or climbing:
        where = "" if len(climbing) == len(slopes) else f" at {show(climbing[0])}" if climbing else ""
        more = f" and {len(climbing) - 1} more" if where and len(climbing) > 1 else ""
        problem = f"the update goes along the gradient{where}{more}, so the loss climbs"
        sequences = _sequences_of(tx)
        if sequences and not all(
            any(_sets_the_rate(place.stage) for place in sequence) for sequence in sequences
        ):
            cure = "End the chain with scale_by_learning_rate(rate), which also turns the step around"
            yield Finding(name, f"no learning rate is applied, and {problem}", cure)
        else:
            yield Finding(name, problem, "Look for a second learning rate, or a negative scale")
    elif not any(slopes.values()) and any(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads)):
        yield Finding(
            name,
            f"{_PATIENCE} steps with gradients do not move the parameters",
            "Look for a rate of zero, a mask that leaves all out, or updates that are held back",
        )


_PATIENCE = 64  # steps after which a transformation should have moved something


def _sequences_of(tx: GradientTransformation) -> list[Sequence]:
    stage = stage_of(tx)
    return [] if stage is None else _sequences(stage, stage.expression.name)


def _slopes(updates: Updates, grads: Updates) -> dict[str, float]:
    """For each leaf the cosine of update and gradient, where they go the same way or quite against it."""
    found = {}
    for (path, u), g in zip(
        jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(grads), strict=True
    ):
        if is_inexact(u.dtype):
            # The gradient of a real function of complex numbers is conjugate: the loss changes by Re(u * g).
            u, g = (np.asarray(x).astype(np.complex128) for x in (u, g))
            length = np.linalg.norm(u) * np.linalg.norm(g)
            cosine = float(np.sum(u * g).real / length) if length else 0.0
            found[path_string(path)] = cosine if cosine > 0.5 or cosine < 0 else 0.0
    return found


def _shared_buffers(name: str, params: Params, state: Any) -> Iterator[Finding]:
    owners: dict[int, str] = {}
    for what, part in (("params", params), ("state", state)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(part):
            if not isinstance(leaf, jax.Array) or not is_inexact(leaf.dtype) or leaf.size == 0:
                continue
            place = f"{what} at {show(path_string(path))}"
            for piece in leaf.addressable_shards:
                pointer = piece.data.unsafe_buffer_pointer()
                other = owners.setdefault(pointer, place)
                if other != place:
                    yield Finding(
                        name,
                        f"{place} and {other} are one buffer, which cannot be donated twice",
                        "Copy it in init: jnp.array(p, copy=True)",
                    )
                    return


def _changed_types(name: str, before: Any, after: Any) -> Iterator[Finding]:
    cure = "Make init return what update does; every step would compile anew, and scan fails"
    structure: Any = jax.tree.structure(before)
    if structure != jax.tree.structure(after):
        yield Finding(name, explain_trees("the state of init", before, "that of update", after), cure)
        return
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        types = [(x.shape, x.dtype, bool(getattr(x, "weak_type", False))) for x in (a, b)]
        if types[0] != types[1]:
            words = [f"{describe(x)}{' (weak)' if t[2] else ''}" for x, t in zip((a, b), types, strict=True)]
            yield Finding(
                name,
                f"the state at {show(path_string(path))} is {words[0]} from init and {words[1]} from update",
                cure,
            )
            return
