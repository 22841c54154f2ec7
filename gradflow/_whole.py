"""An update of arrays that nobody traces, as one compiled call: what a loop without jit is given.

Called leaf by leaf, a step of a small model is mostly the cost of the calls. So a transformation that
consists of gradflow's own stages and plain data, which are pure, is compiled as a whole; that takes no
longer than to compile its rules one by one. A function from elsewhere may read what it likes, so a stage
that has one is called as it is written, and the stages beside it are compiled each by itself.
Hyper-parameters are operands: another rate is not another program.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import jax
import numpy as np

from gradflow._expression import Expression, expression_of, key_of, map_values
from gradflow._frames import alone, frames

# The largest tree: beyond it one call of each leaf is quick enough to compile, and a whole is not.
LARGEST = 100

# Stages that alone have nothing to compile.
_NO_WORK = frozenset(["chain", "named_chain", "identity"])

Answer = tuple[Any, Any]


@jax.tree_util.register_pytree_node_class
class _Outcome:
    """What a program computes, and which leaves of its operands it hands on: they are not copied."""

    def __init__(self, made: Any, structure: Any, sources: tuple[int | None, ...]) -> None:
        self.made = made
        self.structure = structure
        self.sources = sources

    def tree_flatten(self) -> Any:
        return self.made, (self.structure, self.sources)

    @classmethod
    def tree_unflatten(cls, kept: Any, made: Any) -> "_Outcome":
        return cls(made, *kept)

    def answer(self, operands: list[Any]) -> Answer:
        """The updates and the state."""
        made = iter(self.made)
        leaves = [next(made) if source is None else operands[source] for source in self.sources]
        answer: Answer = jax.tree.unflatten(self.structure, leaves)
        return answer


class Program:
    """The compiled update of all transformations that differ only in their numbers."""

    def __init__(self, expression: Expression) -> None:
        self._expression = expression
        self.is_refused = False
        self.run = jax.jit(self._update, static_argnums=0)

    def _update(
        self, outermost: bool, numbers: Any, updates: Any, state: Any, params: Any, extra: Any
    ) -> "_Outcome":
        tx = _with_numbers(self._expression, iter(numbers))
        given = {
            id(leaf): place for place, leaf in enumerate(jax.tree.leaves((updates, state, params, extra)))
        }
        with alone(outermost):
            leaves, structure = jax.tree.flatten(tx.update(updates, state, params, **extra))
        sources = tuple(given.get(id(leaf)) for leaf in leaves)
        made = [leaf for leaf, source in zip(leaves, sources, strict=True) if source is None]
        return _Outcome(made, structure, sources)


class Whole:
    """How one transformation's update is called as a whole: a program, and the numbers to put into it."""

    __slots__ = ("numbers", "program")

    def __init__(self, program: Program, numbers: tuple[Any, ...]) -> None:
        self.program = program
        self.numbers = numbers


def read(expression: Expression) -> Whole | None:
    """How the update of an expression's transformation is called as a whole; None if it is not."""
    if not _is_pure(expression) or all(part.name in _NO_WORK for part in _stages_in(expression)):
        return None
    numbers = tuple(part.arguments[name] for part in _stages_in(expression) for name in _lifted(part))
    if any(isinstance(number, jax.core.Tracer) for number in numbers):
        return None
    return Whole(_program(_Skeleton(expression)), numbers)


def call(
    whole: Whole, update: Callable[..., Answer], updates: Any, state: Any, params: Any, extra: Any
) -> Answer:
    """One update: as a whole if that can be, else by `update`, which is the same in many calls."""
    program = whole.program
    # Whoever listens hears the numbers of this very call.
    if program.is_refused or frames.collectors:
        return update(updates, state, params, **extra)
    operands = _concrete(updates, state, params, extra)
    if operands is None:
        return update(updates, state, params, **extra)
    try:
        outcome = program.run(not frames.stack, whole.numbers, updates, state, params, extra)
        return cast(_Outcome, outcome).answer(operands)
    except Exception:
        # The plain update says better what is wrong. If nothing is, it is the one to call.
        answer = update(updates, state, params, **extra)
        program.is_refused = True
        return answer


def _concrete(updates: Any, *others: Any) -> list[Any] | None:
    """The leaves, if there are updates, not too many, and all are arrays that nobody traces."""
    leaves: list[Any] = jax.tree.leaves(updates)
    if not 0 < len(leaves) <= LARGEST or isinstance(leaves[0], jax.core.Tracer):
        return None
    leaves += jax.tree.leaves(others)
    kinds: set[Any] = set(map(type, leaves))
    return leaves if all(map(_is_concrete, kinds)) else None


@functools.cache
def _is_concrete(kind: Any) -> bool:
    """Whether objects of a class are arrays that nobody traces."""
    return issubclass(kind, jax.Array) and not issubclass(kind, jax.core.Tracer)


class _Skeleton:
    """An expression, equal to all those that differ only in their numbers."""

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self._key = _key_without_numbers(expression)
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Skeleton) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash


@functools.lru_cache(maxsize=256)
def _program(skeleton: _Skeleton) -> Program:
    return Program(skeleton.expression)


def _is_own(maker: Any) -> bool:
    # A pair of functions that was taken in as a transformation is a stranger's.
    return bool(maker.body.__module__.split(".")[0] == "gradflow" and maker.name != "GradientTransformation")


def _is_pure(expression: Expression) -> bool:
    """Whether a value is made by gradflow's own factories from data alone."""
    lifted = _lifted(expression)
    return _is_own(expression.maker) and all(
        name in lifted or _is_plain(value) for name, value in expression.arguments.items()
    )


def _is_plain(value: Any) -> bool:
    """Whether an argument is data, or a value or function of gradflow's own."""
    if value is None or isinstance(value, bool | int | float | complex | str | np.dtype | np.generic):
        return True
    expression = expression_of(value)
    if expression is not None:
        return _is_pure(expression)
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, (*value.keys(), *value.values())))
    return (
        inspect.isfunction(value)
        and value.__module__.split(".")[0] == "gradflow"
        and (value.__closure__ is None or hasattr(value, "__gradflow__"))
    )


def _lifted(expression: Expression) -> list[str]:
    """The arguments that become operands."""
    maker: Any = expression.maker
    return [name for name in maker.hyperparameters if _is_number(expression.arguments[name])]


def _is_number(value: Any) -> bool:
    return type(value) is float or (isinstance(value, jax.Array) and value.shape == ())


def _is_stage(value: Any) -> bool:
    expression = expression_of(value)
    return expression is not None and expression.maker.kind == "transformation"


def _stages_in(expression: Expression) -> Iterator[Expression]:
    """The expression of a transformation, then those of the transformations among its arguments."""
    yield expression
    found: list[Any] = []
    for value in expression.arguments.values():
        map_values(value, found.append)
    for value in found:
        if _is_stage(value):
            yield from _stages_in(value.expression)


def _key_without_numbers(expression: Expression) -> Any:
    lifted = _lifted(expression)
    pairs = (
        (name, type(value) if name in lifted else _argument_key(value))
        for name, value in expression.arguments.items()
    )
    return expression.maker, *pairs


def _argument_key(value: Any) -> Any:
    """Equal for arguments that differ only in the numbers of the transformations in them."""
    if _is_stage(value):
        return _key_without_numbers(value.expression)
    if type(value) is tuple:
        return tuple, *map(_argument_key, value)
    if type(value) is dict:
        return dict, *((key_of(key), _argument_key(item)) for key, item in value.items())
    return key_of(value)


def _with_numbers(expression: Expression, numbers: Iterator[Any]) -> Any:
    """The transformation of an expression with the next numbers in the place of its own."""
    maker: Any = expression.maker
    own = {name: next(numbers) for name in _lifted(expression)}

    def build(value: Any) -> Any:
        return _with_numbers(value.expression, numbers) if _is_stage(value) else value

    arguments: Mapping[str, Any] = {
        name: own[name] if name in own else map_values(value, build)
        for name, value in expression.arguments.items()
    }
    return maker.build(arguments)
