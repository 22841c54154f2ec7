"""GradientTransformation, and functions that read its stages, reports and label."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from gradflow._core._stage import Part, Stage
from gradflow._expressions._addresses import addresses, addresses_ending_in
from gradflow._expressions._expression import Expression
from gradflow._expressions._printing import show
from gradflow._tables import preformatted
from gradflow._types import TransformInitFn, TransformUpdateFn
from gradflow._vocabulary import METHODS


class GradientTransformation(NamedTuple):
    """A pair of pure functions over pytrees, and the expression that made it.

    - `init(params) -> state`; with `jax.ShapeDtypeStruct` leaves the state is abstract too.
    - `update(updates, state, params=None, **extra) -> (updates, state)`.

    A transformation made by a factory prints as the call that makes it, equals and hashes like itself
    when it is built again, pickles and copies. An argument that is a jax array is compared by identity:
    such a transformation equals only itself, and its pickled copy is a different value.
    """

    init: TransformInitFn
    update: TransformUpdateFn

    @property
    def expression(self) -> Expression | None:
        """The call that made this transformation; None for a pair assembled by hand."""
        init, update = self
        if isinstance(update, Part) and isinstance(init, Part) and init.stage is update.stage:
            return update.stage.expression
        return None

    def __eq__(self, other: object) -> bool:
        mine = self.expression
        if mine is None or not isinstance(other, GradientTransformation):
            return tuple.__eq__(self, other) if isinstance(other, tuple) else NotImplemented
        return mine == other.expression

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __hash__(self) -> int:
        expression = self.expression
        return tuple.__hash__(self) if expression is None else hash(expression)

    def __repr__(self) -> str:
        expression = self.expression
        if expression is None:
            return f"{self._plain_kind().__name__}(init={show(self.init)}, update={show(self.update)})"
        return repr(expression)

    def _repr_html_(self) -> str:
        return preformatted(repr(self))

    def __copy__(self) -> "GradientTransformation":
        return self

    def __deepcopy__(self, memo: Any) -> "GradientTransformation":
        return self

    def __reduce__(self) -> Any:
        expression = self.expression
        if expression is None:
            return self._plain_kind(), (self.init, self.update)
        if type(self) is GradientTransformation:  # a pair that hides extra arguments stays one
            return _pair_of, (tuple.__new__(GradientTransformationExtraArgs, self),)
        return expression.maker.reduce(expression.arguments)

    def _plain_kind(self) -> "type[GradientTransformation]":
        """The class that a pair assembled by hand is printed and pickled as."""
        takes_extra = isinstance(self, GradientTransformationExtraArgs)
        return GradientTransformationExtraArgs if takes_extra else GradientTransformation


def _pair_of(tx: GradientTransformation) -> GradientTransformation:
    return GradientTransformation(*tx)


def _missing_attribute(tx: GradientTransformation, name: str) -> Any:
    hint = f". {METHODS[name]}." if name in METHODS else ""
    raise AttributeError(f"{type(tx).__name__!r} object has no attribute {name!r}{hint}")


# Assigned afterwards, since type checkers take a class with `__getattr__` to have every attribute.
if not TYPE_CHECKING:
    GradientTransformation.__getattr__ = _missing_attribute


class GradientTransformationExtraArgs(GradientTransformation):
    """A transformation whose update takes any extra arguments, as those made by factories do.

    A pair assembled by hand as `GradientTransformation(init, update)` is not one. Attributes may be set,
    but not under the names of arguments and methods. They are not part of the value: transformations that
    differ in them are equal, and a pickle and a wrapping transformation lack them.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        expression = self.expression
        if expression is not None:
            found = addresses_ending_in(name, addresses(self))
            if found:
                raise AttributeError(
                    f"{expression.name}: {found[0]!r} cannot be set, since a transformation is a value. "
                    f"gradflow.replace(tx, {{{found[0]!r}: ...}}) returns another one; tunable(tx) keeps its "
                    "numbers in the state."
                )
            # A method of that name would be hidden, and an inner transformation stay as it is.
            is_method = not name.startswith("_") and name not in self._fields and hasattr(type(self), name)
            if is_method or name in expression.arguments:
                what = "method" if is_method else "argument"
                raise AttributeError(
                    f"{expression.name}: the {what} {name!r} cannot be set, since a transformation is a value"
                )
        super().__setattr__(name, value)


def stage_of(tx: Any) -> Stage | None:
    """The stage of a transformation made by a factory; None for a pair assembled by hand."""
    init, update = tx
    if isinstance(update, Part) and isinstance(init, Part) and init.stage is update.stage:
        return update.stage
    return None


def stages_of(tx: GradientTransformation) -> Iterator[Stage]:
    """A transformation's own stage, then those of all the transformations that it calls, in order."""
    stage = stage_of(tx)
    waiting = [] if stage is None else [stage]
    while waiting:
        stage = waiting.pop(0)
        yield stage
        waiting = [*stage.children, *waiting]


def declared_reports(tx: GradientTransformation) -> tuple[str, ...]:
    """The names of all reports of a transformation and of the stages inside it, `adamw.norm`."""
    stage = getattr(tx.update, "stage", None)
    return tuple(stage.reports) if stage is not None else ()


def label_of(tx: GradientTransformation) -> str | None:
    """The label that a container gave to a transformation, as its body received it."""
    stage = getattr(tx.update, "stage", None)
    return stage.label if stage is not None else None


def below(tx: GradientTransformation, values: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """What a wrapper collected from its inner transformation `tx`, by the names that `tx` declares."""
    label = label_of(tx)
    return {name.removeprefix(f"{label}."): value for name, value in values.items()}
