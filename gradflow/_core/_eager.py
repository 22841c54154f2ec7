"""An update of concrete arrays as one compiled call, for loops without jit.

Without jit, dispatch dominates the step of a small model when every leaf is a call of its own. So a
transformation of gradflow's own stages and plain data, which are pure, is compiled as one program. This
takes no longer than compiling its rules one by one. A third-party function may read global state, so a
stage that has one is not compiled; the stages beside it are compiled one by one. Hyper-parameters are
operands, so another learning rate reuses the program.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np

from gradflow._calls._checks import WrongStateError
from gradflow._calls._context import context, isolated
from gradflow._expressions._keys import expression_of
from gradflow._expressions._numbers import Scalar, Skeleton, is_number, take_arrays, take_numbers
from gradflow._expressions._registry import OWN_FACTORIES

# Most leaves of a tree compiled as one program: for larger trees, one call per leaf compiles faster.
LARGEST = 100

# Stages that have nothing to compile on their own.
_NO_WORK = frozenset(["chain", "named_chain", "identity"])

Result = tuple[Any, Any]


@jax.tree_util.register_pytree_node_class
class _ProgramResult:
    """The leaves that a program computes, and which operands it passes through without a copy."""

    def __init__(self, made: Any, structure: Any, sources: tuple[int | None, ...]) -> None:
        self.made = made
        self.structure = structure
        self.sources = sources

    def tree_flatten(self) -> Any:
        return self.made, (self.structure, self.sources)

    @classmethod
    def tree_unflatten(cls, kept: Any, made: Any) -> "_ProgramResult":
        return cls(made, *kept)

    def merge(self, operands: list[Any]) -> Result:
        """The updates and the state."""
        made = iter(self.made)
        leaves = [next(made) if source is None else operands[source] for source in self.sources]
        return cast(Result, jax.tree.unflatten(self.structure, leaves))


class Program:
    """The compiled update of all transformations that differ only in their numbers."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._skeleton = skeleton
        self.is_refused = False
        self.call = jax.jit(self._update, static_argnums=0)

    def _update(
        self, is_outermost: bool, numbers: Any, updates: Any, state: Any, params: Any, extra: Any
    ) -> _ProgramResult:
        tx = self._skeleton.rebuild(iter(numbers))
        operands = jax.tree.leaves((updates, state, params, extra))
        places = {id(leaf): place for place, leaf in enumerate(operands)}
        with isolated(is_outermost):
            leaves, structure = jax.tree.flatten(tx.update(updates, state, params, **extra))
        sources = tuple(places.get(id(leaf)) for leaf in leaves)
        made = [leaf for leaf, source in zip(leaves, sources, strict=True) if source is None]
        return _ProgramResult(made, structure, sources)


class CompiledUpdate:
    """One transformation's update as one program, and the numbers that are its operands."""

    __slots__ = ("numbers", "program")

    def __init__(self, program: Program, numbers: list[Scalar]) -> None:
        self.program = program
        self.numbers = numbers

    def run(
        self,
        update: Callable[..., Result],
        operands: list[Any],
        updates: Any,
        state: Any,
        params: Any,
        extra: Any,
    ) -> Result:
        """Runs one update as the program, or as `update`, call by call, where the program fails."""
        program = self.program
        if program.is_refused or jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return update(updates, state, params, **extra)
        try:
            result = program.call(not context.stack, self.numbers, updates, state, params, extra)
        except WrongStateError:
            return update(updates, state, params, **extra)
        except (ArithmeticError, RuntimeError, MemoryError):
            raise  # the computation failed, not the trace of it: running it again would fail again
        except Exception:
            # The plain update raises the clearer error. If it succeeds, the program is not tried again.
            plain = update(updates, state, params, **extra)
            program.is_refused = True
            return plain
        return cast(_ProgramResult, result).merge(operands)


def plan(expression: Any) -> CompiledUpdate | None:
    """The compiled update of an expression's transformation; None where it cannot be one program."""
    if not _is_pure(expression):
        return None
    skeleton, numbers = take_numbers(expression)
    if any(isinstance(number, jax.core.Tracer) for number in numbers) or not _has_work(skeleton):
        return None
    return CompiledUpdate(_program(skeleton), numbers)


def known_arrays(expression: Any) -> list[jax.Array] | None:
    """The jax arrays among the arguments of a transformation; None where its functions may hold others."""
    return take_arrays(expression)[1] if expression is not None and _is_pure(expression) else None


@functools.lru_cache(maxsize=256)
def _program(skeleton: Skeleton) -> Program:
    return Program(skeleton)


def concrete_leaves(updates: Any, *others: Any) -> list[Any] | None:
    """All leaves, if they are concrete arrays and `updates` has 1 to `LARGEST` of them; else None."""
    leaves: list[Any] = jax.tree.leaves(updates)
    if not 0 < len(leaves) <= LARGEST or isinstance(leaves[0], jax.core.Tracer):
        return None
    if context.spread is not None:  # a compiled stage does not know how it is spread
        return None
    leaves += jax.tree.leaves(others)
    kinds: set[Any] = set(map(type, leaves))
    return leaves if all(map(_is_concrete, kinds)) else None


@functools.lru_cache(maxsize=256)
def _is_concrete(kind: Any) -> bool:
    """Whether objects of a class are concrete arrays."""
    return issubclass(kind, jax.Array) and not issubclass(kind, jax.core.Tracer)


def _is_pure(expression: Any) -> bool:
    """Whether a value is made by gradflow's own factories from data alone."""
    maker = expression.maker
    if OWN_FACTORIES.get(maker.name) != maker:
        return False
    numbers = {name for name in maker.hyperparameters if is_number(expression.arguments[name])}
    return all(name in numbers or _is_plain(value) for name, value in expression.arguments.items())


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
    if isinstance(value, jax.sharding.Mesh | jax.sharding.PartitionSpec | jax.sharding.NamedSharding):
        return True
    return (
        inspect.isfunction(value)
        and value.__module__.split(".")[0] == "gradflow"
        and (value.__closure__ is None or hasattr(value, "__gradflow__"))
    )


def _has_work(value: Any) -> bool:
    """Whether any stage of a skeleton has something to compile."""
    if isinstance(value, Skeleton):
        is_stage = value.maker.kind == "transformation"
        return (is_stage and value.maker.name not in _NO_WORK) or _has_work(tuple(value.arguments.values()))
    if isinstance(value, dict):
        return any(map(_has_work, value.values()))
    return isinstance(value, tuple) and any(map(_has_work, value))
