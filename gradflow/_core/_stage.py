"""A stage: what a transformation declares, shared by its init and its update."""

from collections.abc import Callable
from typing import Any

from gradflow._core._eager import CompiledUpdate, plan
from gradflow._core._signature import Signature, read_signature
from gradflow._expressions._expression import Expression

# How closely updates, parameters and results must match, strictest first.
TREES = ("alike", "structure", "differ")


class Stage:
    """The expression, functions and promises of one transformation.

    - `children`: the stages that it calls, under the labels that it gives them.
    - `takes`: the extra arguments that it or a child takes; `reports`: the names that they report.
    - `leaves`: the leaves on which it does arithmetic; None if its children check them.
    - `trees`: how closely its trees must match; `packable`: whether it runs on packed buffers.
    """

    __slots__ = (
        "_has_plan", "_plan", "children", "expression", "init", "label", "leaves", "own_reports", "packable",
        "reports", "signature", "takes", "trees", "update",
    )  # fmt: skip

    def __init__(
        self,
        expression: Expression,
        init: Callable[..., Any],
        update: Callable[..., Any],
        children: tuple["Stage", ...],
        reports: tuple[str, ...],
        leaves: str | None,
        trees: str | None,
        packable: bool,
    ) -> None:
        self.expression = expression
        self.init = init
        self.update = update
        self.children = children
        self.label: str | None = None
        self.leaves = leaves
        self.own_reports = frozenset(reports)
        self._has_plan = False
        self._plan: CompiledUpdate | None = None
        composed = part_stage(update)
        if composed is None:
            self.signature = read_signature(update)
            self.packable = packable
            inner = [f"{c.label}.{name}" if c.label else name for c in children for name in c.reports]
        else:
            # The body returned a transformation, whose own stages declare what they need.
            self.signature = Signature(composed.takes, (), True, False, None)
            self.packable = True
            inner = list(composed.reports)
        self.reports: tuple[str, ...] = (*reports, *inner)
        self.takes: frozenset[str] = self.signature.extra.union(*[child.takes for child in children])
        # Trees are checked as the loosest of the inner stages allows.
        loosest = max([child.trees for child in children], key=TREES.index, default=TREES[0])
        self.trees: str = trees or loosest

    def labelled(self, label: str) -> "Stage":
        """The same stage under the label that a container gives it."""
        twin = Stage.__new__(Stage)
        for name in Stage.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.label = label
        return twin

    def compiled_update(self) -> CompiledUpdate | None:
        """The update of concrete arrays as one program; None where it cannot be one."""
        if not self._has_plan:
            self._plan = plan(self.expression)
            self._has_plan = True
        return self._plan


class Part:
    """The init or the update of a stage: a function that compares by its expression."""

    __slots__ = ("__weakref__", "stage")

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Part)
            and type(self) is type(other)
            and self.stage.expression == other.stage.expression
        )

    def __hash__(self) -> int:
        return hash(self.stage.expression)

    def __copy__(self) -> "Part":
        return self

    def __deepcopy__(self, memo: Any) -> "Part":
        return self


def part_stage(function: Any) -> Stage | None:
    """The stage of an init or update that belongs to one; None for a plain function."""
    return function.stage if isinstance(function, Part) else None
