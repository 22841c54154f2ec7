"""A stage: what a transformation declares, shared by its init and its update."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

from gradflow._core._eager import CompiledUpdate, plan
from gradflow._core._signature import Signature, read_signature
from gradflow._expressions._expression import Expression

# How closely updates, parameters and results must match, strictest first.
TREES = ("alike", "structure", "differ")


_PASSES_ALL = Signature(frozenset(), (), True, False, None)


class Stage:
    """The expression, functions and promises of one transformation.

    - `children`: the stages that it calls, under the labels that it gives them.
    - `leaves`: the leaves on which it does arithmetic; None if its children check them.
    - `trees`: how closely its trees must match; `packable`: whether it runs on packed buffers.
    - `stackable`: whether leaves of one kind may be one leaf, with an axis more.
    - `joins_first`, `joins_later`: whether a GPU may update equal leaves in one kernel, since no stage writes
      whole leaves for another. Only a stage that comes first may sum over a leaf or the tree.
    """

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
        sums: bool = False,
    ) -> None:
        self.expression = expression
        self.init = init
        self.update = update
        self.children = children
        self.leaves = leaves
        self.label: str | None = None
        self._declared_reports = reports
        self.own_reports = frozenset(reports)
        # Where the body returned a transformation, its own stages declare what they need.
        self._composed = update.stage if isinstance(update, Part) else None
        self.packable = packable or self._composed is not None
        # Rules of one matrix, whose axes are named, do the same to each matrix of a stack.
        takes_matrices = not {"matrices", "weight_dimension_numbers"}.isdisjoint(expression.arguments)
        declared = getattr(expression.maker, "stackable", None)
        self.stackable: bool = self.packable or takes_matrices if declared is None else declared
        self.joins_first = self.packable or sums
        self.joins_later = self.packable and not sums
        for index, child in enumerate(children):
            self.joins_first &= child.joins_later if index else child.joins_first
            self.joins_later &= child.joins_later
        # Trees are checked as the loosest of the inner stages allows.
        self.trees: str = trees or TREES[0]
        if trees is None:
            for child in children:
                self.trees = max(self.trees, child.trees, key=TREES.index)

    @functools.cached_property
    def signature(self) -> Signature:
        """What the body's update takes."""
        if self._composed is not None:
            return _PASSES_ALL
        return read_signature(self.update)

    @functools.cached_property
    def takes(self) -> frozenset[str]:
        """The extra arguments that the stage or an inner stage takes."""
        return self.signature.extra.union(*[child.takes for child in self.children])

    @functools.cached_property
    def reports(self) -> tuple[str, ...]:
        """The names of all reports of the stage and of inner stages, by the path below the stage."""
        if self._composed is not None:
            return (*self._declared_reports, *self._composed.reports)
        below = [f"{c.label}.{name}" if c.label else name for c in self.children for name in c.reports]
        return (*self._declared_reports, *below)

    @functools.cached_property
    def compiled(self) -> CompiledUpdate | None:
        """The update of concrete arrays as one program; None where it cannot be one."""
        return plan(self.expression)

    @property
    def whole(self) -> CompiledUpdate | None:
        """The former name of `compiled`."""
        return self.compiled

    @property
    def is_last(self) -> bool:
        """Whether the update is the whole step, so that no stage may change it afterwards."""
        return bool(getattr(self.expression.maker, "last", False))

    @property
    def begins_with_norm(self) -> bool:
        """Whether the update begins with the norm of all updates."""
        declared: bool | None = getattr(self.expression.maker, "norm_first", False)
        if declared is None:
            return any(child.begins_with_norm for child in self.children[:1])
        return declared

    @property
    def constrained_by(self) -> tuple[str, ...]:
        """The arguments with a penalty or a set that the steps respect."""
        return tuple(getattr(self.expression.maker, "constrained_by", ()))

    def labelled(self, label: str) -> "Stage":
        """The same stage under the label that a container gives it."""
        twin = Stage.__new__(Stage)
        twin.__dict__.update(self.__dict__)
        twin.label = label
        return twin


class Part:
    """The init or the update of a stage: a function that compares by its expression."""

    __slots__ = ("__weakref__", "stage")
    word: ClassVar[str]

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @property
    def __name__(self) -> str:
        """The name under which jax compiles it and profiles show it, such as `adam_update`."""
        return f"{self.stage.expression.name}_{self.word}"

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
