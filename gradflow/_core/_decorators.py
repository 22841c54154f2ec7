"""The decorator that makes factories of transformations.

A factory's body returns `init` and `update`. The decorator adds what every transformation has: the
expression that made it, checks of its arguments, and schedules for every hyper-parameter.
"""

import functools
from collections.abc import Callable
from typing import Any, overload

import gradflow._core._build  # noqa: F401  # makes "transformation" a kind of factory
from gradflow._checked import FLAG, FUNCTION, NAMES, TEXT, checked
from gradflow._core._stage import TREES
from gradflow._core._transformation import GradientTransformation, GradientTransformationExtraArgs
from gradflow._errors import describe
from gradflow._expressions._factory import P, decorate
from gradflow._types import Pair


@overload
def transformation(
    body: Callable[P, Pair | GradientTransformation], /
) -> Callable[P, GradientTransformationExtraArgs]: ...
@overload
def transformation(
    *,
    reports: tuple[str, ...] = (),
    leaves: str = "inexact",
    trees: str | None = None,
    steps: str | None = "count",
    packable: bool = False,
    elementwise: bool = False,
    sums: bool = False,
    stackable: bool | None = None,
    norm_first: bool | None = False,
    last: bool = False,
    constrained_by: tuple[str, ...] = (),
) -> Callable[[Callable[P, Pair | GradientTransformation]], Callable[P, GradientTransformationExtraArgs]]: ...
@checked(
    body=FUNCTION | None,
    steps=TEXT | None,
    packable=FLAG,
    elementwise=FLAG,
    sums=FLAG,
    stackable=FLAG | None,
    norm_first=FLAG | None,
    last=FLAG,
    reports=NAMES,
    constrained_by=NAMES,
)
def transformation(
    body: Any = None,
    /,
    *,
    reports: tuple[str, ...] = (),
    leaves: str = "inexact",
    trees: str | None = None,
    steps: str | None = "count",
    packable: bool = False,
    elementwise: bool = False,
    sums: bool = False,
    stackable: bool | None = None,
    norm_first: bool | None = False,
    last: bool = False,
    constrained_by: tuple[str, ...] = (),
) -> Any:
    """Turns a function that returns `(init, update)` into a factory of transformations.

    What the factory returns is a value: it prints, compares, hashes, pickles and can be rebuilt with other
    arguments. Arguments annotated with a kind from `gradflow.typing` (`Rate`, `Decay`, ...) are
    checked. They may be numbers, scalar arrays, tracers or schedules, so a body must not branch in Python
    on their values. A body may also return a transformation, such as a `chain`.

    Args:
      body: the factory. Its update may name the extra arguments that it takes, annotate `state` with
        its state's type, and leave `params` without a default when it needs them: all three are checked.
      reports: names that the update passes to `gradflow.report`.
      leaves: "inexact" or "real" refuses other leaves by path; "any" lets all leaves pass. Around other
        transformations only "real" has an effect: those inside check their leaves.
      trees: "alike" if updates, parameters and results have equal structures and shapes; "structure" if
        only structures are equal, as where an axis is summed over; "differ" if the stage checks them itself.
        The default is the loosest of the transformations among the arguments, or "alike".
      steps: the field of the state that counts steps, for schedules; None if there is none.
      packable: promises that the update of an element depends only on that element's own values and on
        whole-tree scalars to which zeros add nothing. Such a stage runs on the buffers of packed parameters;
        for other stages they are unpacked before the call and packed again after it.
      elementwise: another name of `packable`.
      sums: declares that the update of an element depends on sums over its leaf or over the tree, and is
        elementwise otherwise. It changes no number. A GPU updates equal leaves in one kernel only where no
        such stage comes after another; of one that does not say so it may hold whole leaves in memory.
      stackable: whether the stage may be inside `stacked`, where leaves of one kind are one leaf with an axis
        more. By default packable stages may, and those that take `matrices` or `weight_dimension_numbers`.
      norm_first: declares that the update begins with the norm of all updates, as `clip_by_global_norm` does;
        None if it does where the first transformation inside does. A guard then shares the sums of the norm.
      last: declares that the update returns `new_params - params`, the whole step with its learning rate.
        Nothing may follow such a stage in a chain: `check` reports what does.
      constrained_by: names of the arguments with a penalty or a set that the steps respect; None for none.
        `minimize` refuses such a stage beside its own `prox` or `bounds`.
    """
    if leaves not in ("inexact", "real", "any"):
        raise ValueError(
            f"transformation: argument 'leaves' must be 'inexact', 'real' or 'any'; got {describe(leaves)}"
        )
    if trees not in (None, *TREES):
        raise ValueError(
            f"transformation: argument 'trees' must be one of {', '.join(TREES)}; got {describe(trees)}"
        )
    make = functools.partial(
        decorate, kind="transformation", inner_type=GradientTransformation, reports=reports, leaves=leaves,
        trees=trees, steps=steps, packable=packable or elementwise,
        sums=sums, stackable=stackable, norm_first=norm_first, last=last, constrained_by=constrained_by,
    )  # fmt: skip
    return make if body is None else make(body)
