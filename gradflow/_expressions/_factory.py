"""A factory binds, checks and freezes arguments, and calls the decorated body."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import is_inexact
from gradflow._errors import describe, near_name_hint, refused_call
from gradflow._expressions._annotations import plain_annotations
from gradflow._expressions._arguments import Argument, read_argument
from gradflow._expressions._keys import ATOMS, freeze, key_of
from gradflow._expressions._registry import KINDS, OWN_FACTORIES, rebuild
from gradflow._tracebacks import shorten
from gradflow._vocabulary import argument_hint, meant_arguments

P = ParamSpec("P")
_MISSING = object()


@dataclasses.dataclass(eq=False)
class Factory:
    """A decorated function: how to bind, check and freeze its arguments, and what its calls make.

    - `checked`: the arguments whose annotation is a kind, with that kind.
    - `hyperparameters`: those of them that may be traced, swept and scheduled.
    - `inner`: the arguments that must be transformations; `dtypes`: those that name a dtype.
    - `variadic`, `keyword`: the names of `*args` and `**kwargs`.
    """

    name: str
    body: Callable[..., Any]
    kind: str  # "transformation", "schedule" or "selector"
    parameters: Mapping[str, inspect.Parameter]
    checked: Mapping[str, Argument]
    hyperparameters: tuple[str, ...]
    inner: frozenset[str]
    dtypes: frozenset[str]
    positional: tuple[str, ...]
    variadic: str | None
    keyword: str | None
    function: Callable[..., Any] = None  # type: ignore[assignment]  # the decorated function, made after this

    # What a transformation's body promises; see `transformation`.
    reports: tuple[str, ...] = ()
    leaves: str = "inexact"
    trees: str | None = None
    steps: str | None = "count"
    packable: bool = False
    sums: bool = False
    stackable: bool | None = None
    norm_first: bool | None = False
    last: bool = False
    constrained_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.constrained_by if name not in self.parameters]
        if unknown:
            raise ValueError(
                f"{self.name}: argument 'constrained_by' must name arguments of the factory; got {unknown}"
            )
        # All arguments in the signature's order, so that a call replaces only those that it passes.
        self._template: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            empty = () if name == self.variadic else {} if name == self.keyword else _MISSING
            default = empty if parameter.default is parameter.empty else freeze(parameter.default)
            is_dtype = name in self.dtypes and default is not None and default is not _MISSING
            self._template[name] = _read_dtype(self.name, name, default) if is_dtype else default
        self._required = [name for name, default in self._template.items() if default is _MISSING]
        self._named = frozenset(self.parameters) - {self.variadic, self.keyword}
        self.default_keys = {
            name: key_of(default) for name, default in self._template.items() if default is not _MISSING
        }

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        given = self._bind(args, kwargs)
        return self._read({**self._template, **given}, given)

    def make(self, arguments: Mapping[str, Any]) -> Any:
        """The value for bound arguments; raises ValueError or TypeError naming the first wrong one."""
        return self._read(dict(arguments), arguments)

    def _read(self, arguments: dict[str, Any], given: Iterable[str]) -> Any:
        """The value for arguments, of which only those in `given` still have to be frozen and checked."""
        kind = KINDS[self.kind]
        for name in given:
            value = arguments[name]
            if type(value) not in ATOMS:
                value = arguments[name] = freeze(value, kind.adopt)
            if name in self.dtypes and value is not None:
                arguments[name] = _read_dtype(self.name, name, value)
            elif name in self.inner:
                arguments[name] = kind.read_inner(value, self.name, f"argument '{name}'")
            elif name in self.checked:
                arguments[name] = self.checked[name].read(self.name, name, value)
        try:
            return kind.build(self, arguments)
        except TypeError as error:
            # Selectors are read where they are used, and do not know by which factory.
            if str(error).startswith("a selector must"):
                raise TypeError(f"{self.name}: {error}") from None
            raise

    def build(self, arguments: Mapping[str, Any]) -> Any:
        """The value for arguments that are already frozen and checked."""
        return KINDS[self.kind].build(self, arguments)

    def rebuild(self, arguments: Mapping[str, Any]) -> Any:
        """The value for arguments from a pickle, which may be older than some of the parameters."""
        return self.build({**self._template, **arguments})

    def reduce(self, arguments: Mapping[str, Any]) -> Any:
        """What a pickle stores for a value: the decorated function, by its public name, and the arguments."""
        return rebuild, (self.function, dict(arguments))

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The given arguments by name; raises TypeError for a call that does not fit the signature."""
        given = dict(zip(self.positional, args, strict=False))
        rest = args[len(self.positional) :]
        unknown = {k: v for k, v in kwargs.items() if k not in self._named or k in given}
        if (rest and self.variadic is None) or (unknown and self.keyword is None):
            self._refuse_call(args, kwargs)
        if not unknown:
            given.update(kwargs)
        else:
            given |= {name: value for name, value in kwargs.items() if name not in unknown}
            given[cast(str, self.keyword)] = unknown
        if self.variadic is not None:
            given[self.variadic] = rest
        for name in self._required:
            if name not in given:
                raise refused_call(self.name, f"missing a required argument: '{name}'", self.parameters)
        return given

    def _refuse_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        unknown = [name for name in kwargs if name not in self._named]
        if unknown and self.keyword is None:
            hints = [hint for name in unknown if (hint := self._unknown_argument_hint(name))]
            problem = f"got an unexpected keyword argument {describe(unknown[0])}"
            raise refused_call(self.name, problem, self.parameters, " ".join(hints))
        try:
            inspect.signature(self.body).bind(*args, **kwargs)
        except TypeError as error:
            raise refused_call(self.name, str(error), self.parameters) from None

    def _unknown_argument_hint(self, name: str) -> str:
        """What to write instead of an argument that this factory does not have, or no text."""
        hint = argument_hint(name, self.parameters)
        meant = "weight_decay" if "weight_decay" in (name, *meant_arguments(name)) else None
        decayed = OWN_FACTORIES.get(f"{self.name}w")
        if meant and meant not in self.parameters and decayed and meant in decayed.parameters:
            return f"Use {decayed.name}, which has '{meant}'."
        return hint or near_name_hint(name, self._named)

    def call_body(self, arguments: Mapping[str, Any]) -> Any:
        """The body's own result for bound arguments."""
        if self.variadic is None and self.keyword is None:
            return self.body(**arguments)
        named = dict(arguments)
        keywords = named.pop(self.keyword) if self.keyword else {}
        if self.variadic is None:
            return self.body(**named, **keywords)
        before = [named.pop(name) for name in self.positional]
        rest = named.pop(self.variadic)
        return self.body(*before, *rest, **named, **keywords)


def _read_dtype(owner: str, name: str, value: Any) -> np.dtype:
    """A dtype argument, given as a dtype, a scalar type or a string."""
    try:
        dtype = None if isinstance(value, jax.Array | np.ndarray) else jnp.dtype(value)
    except (TypeError, ValueError):
        dtype = None
    if dtype is None or not is_inexact(dtype):
        raise TypeError(f"{owner}: argument '{name}' must be a floating-point dtype; got {describe(value)}")
    return np.dtype(dtype)


def decorate(
    body: Callable[P, Any],
    kind: str,
    inner_type: type | None = None,
    result_type: Any = None,
    **promises: Any,
) -> Callable[P, Any]:
    """Turns `body`, which returns the functions of a value, into a factory of values of a kind.

    Arguments annotated with `inner_type` must be transformations. The factory's signature says that it
    returns a `result_type`; `promises` are those of `transformation`.
    """
    annotations = body.__annotations__
    body.__annotations__ = plain_annotations(body, result_type or inner_type)
    parameters = inspect.signature(body).parameters
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    read = {name: read_argument(annotations.get(name), k in several) for name, k in kinds.items()}
    checked = {name: argument for name, argument in read.items() if argument is not None}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    variadic = next((name for name, k in kinds.items() if k is inspect.Parameter.VAR_POSITIONAL), None)
    factory = Factory(
        name=body.__name__,
        body=body,
        kind=kind,
        parameters=parameters,
        checked=checked,
        hyperparameters=tuple(name for name, argument in checked.items() if argument.is_hyperparameter),
        inner=frozenset(
            name
            for name in parameters
            if name != variadic and inner_type is not None and annotations.get(name) is inner_type
        ),
        dtypes=frozenset(name for name in parameters if "dtype" in name.split("_")),
        positional=tuple(name for name, k in kinds.items() if k in positional),
        variadic=variadic,
        keyword=next((name for name, k in kinds.items() if k is inspect.Parameter.VAR_KEYWORD), None),
        **promises,
    )

    @functools.wraps(body)
    def make(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return factory(*args, **kwargs)
        except Exception as error:
            shorten(error)
            raise

    make.__annotations__ = body.__annotations__
    factory.function = make
    make.__gradflow__ = factory  # type: ignore[attr-defined]
    if (body.__module__ or "").split(".")[0] == "gradflow":
        if body.__name__ in OWN_FACTORIES:
            raise ValueError(f"two factories are called {body.__name__}")
        OWN_FACTORIES[body.__name__] = factory
        # Pickles store the public name, so files may move.
        make.__module__ = "gradflow"
    return make
