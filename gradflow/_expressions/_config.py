"""Values as plain data and back: dicts, lists, strings and numbers, which any file format can store."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._errors import describe, names_hint
from gradflow._expressions._factory import Factory
from gradflow._expressions._keys import expression_of
from gradflow._expressions._registry import OWN_FACTORIES, RECORDS


def to_config(value: Any) -> dict[str, Any]:
    """A transformation or schedule as plain data, `{"factory": "adamw", "arguments": {...}}`.

    A jax array is stored by its elements, so the value that is read back equals only itself. Raises TypeError
    naming the first part that is not data: a factory that is not gradflow's own, a function or a tracer.
    """
    expression = expression_of(value)
    if expression is None:
        raise TypeError(f"to_config: the value must be a transformation or a schedule; got {describe(value)}")
    return _encode(value, expression.name)


def from_config(config: Mapping[str, Any]) -> Any:
    """Rebuilds the transformation or schedule from the output of `to_config`.

    Only gradflow's own factories are called, and their arguments are checked like those of any call. Nothing
    is evaluated or imported by name. Raises ValueError for an unknown factory, for an entry that is not a
    configuration, and for more than 200 levels or 100,000 entries.
    """
    if not isinstance(config, Mapping) or "factory" not in config:
        raise ValueError(f"from_config: the argument must be a dict with 'factory'; got {describe(config)}")
    return _Reader().read(config)


def _encode(value: Any, address: str) -> Any:
    expression = expression_of(value)
    if expression is not None:
        if expression.maker is not OWN_FACTORIES.get(expression.name):
            raise TypeError(
                f"to_config: '{address}' is made by {expression.name}, which is not one of gradflow's own "
                "factories, so it could not be read back by name"
            )
        return {
            "factory": expression.name,
            "arguments": {n: _encode(v, f"{address}.{n}") for n, v in expression.arguments.items()},
        }
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, np.dtype):
        return {"dtype": value.name}
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            data = np.asarray(jax.random.key_data(value))
            return {"prng_key": data.tolist(), "impl": str(jax.random.key_impl(value))}
        return {"jax_array": np.asarray(value).tolist(), "dtype": value.dtype.name}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind != "O":
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: value.tolist(), "dtype": value.dtype.name}
    if type(value) in RECORDS.values():
        fields = {name: _encode(item, f"{address}.{name}") for name, item in value._asdict().items()}
        return {"record": type(value).__name__, "fields": fields}
    if type(value) is tuple:
        return [_encode(item, f"{address}[{i}]") for i, item in enumerate(value)]
    if type(value) is dict:
        pairs = [[_encode(k, address), _encode(v, f"{address}.{k}")] for k, v in value.items()]
        return {"dict": pairs}
    factory = getattr(value, "__gradflow__", None)
    name = getattr(factory, "name", None)
    if name is not None and OWN_FACTORIES.get(name) is factory:
        return {"function": name}
    raise TypeError(f"to_config: '{address}' must be plain data; got {describe(value)}")


# The deepest expressions that Python can build, and more parts than any of them has.
_DEEPEST = 200
_MOST = 100_000


class _Reader:
    """Reads entries, counting them: a configuration may come from anywhere."""

    def __init__(self) -> None:
        self.entries = 0

    def read(self, data: Any, depth: int = 0) -> Any:
        self.entries += 1
        if depth > _DEEPEST:
            raise ValueError(f"from_config: the argument must nest at most {_DEEPEST} entries; got more")
        if self.entries > _MOST:
            raise ValueError(f"from_config: the argument must have at most {_MOST} entries; got more")
        if isinstance(data, list | tuple):
            return tuple([self.read(item, depth + 1) for item in data])
        if data is None or isinstance(data, bool | int | float | str):
            return data
        if not isinstance(data, Mapping):
            raise ValueError(_message(data))
        for kind, read in self._kinds().items():
            if kind in data:
                return read(data, depth + 1)
        return _read_array(data)

    def _kinds(self) -> dict[str, Callable[[Any, int], Any]]:
        return {
            "function": lambda data, depth: _own(data["function"]).function,
            "factory": self._call,
            "record": self._record,
            "dict": self._dict,
        }

    def _call(self, data: Mapping[str, Any], depth: int) -> Any:
        factory = _own(data["factory"])
        arguments = self._named(data.get("arguments", {}), depth)
        rest = arguments.pop(factory.variadic, ()) if factory.variadic else ()
        if not isinstance(rest, tuple):
            raise ValueError(f"from_config: argument '{factory.variadic}' of {factory.name} must be a list")
        return factory(*rest, **arguments)

    def _record(self, data: Mapping[str, Any], depth: int) -> Any:
        record = RECORDS.get(data["record"]) if isinstance(data["record"], str) else None
        if record is None:
            raise ValueError(f"from_config: gradflow has no record {describe(data['record'])}")
        fields = self._named(data.get("fields"), depth)
        wrong = fields.keys() - set(record._fields)  # type: ignore[attr-defined]
        if wrong:
            raise ValueError(f"from_config: the record {record.__name__} has no field {min(wrong)!r}")
        return record(**fields)

    def _dict(self, data: Mapping[str, Any], depth: int) -> Any:
        pairs = data["dict"]
        if not isinstance(pairs, list | tuple) or not all(
            isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
        ):
            raise ValueError(_message(data))
        read = [(self.read(key, depth), self.read(value, depth)) for key, value in pairs]
        try:
            return dict(read)
        except TypeError:  # a dict, or a tuple with one, is not a key
            raise ValueError(_message(data)) from None

    def _named(self, data: Any, depth: int) -> dict[str, Any]:
        if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
            raise ValueError(f"from_config: arguments must be a dict by name; got {describe(data)}")
        return {name: self.read(value, depth) for name, value in data.items()}


def _own(name: Any) -> Factory:
    factory: Factory | None = OWN_FACTORIES.get(name) if isinstance(name, str) else None
    if factory is None:
        hint = names_hint(name, OWN_FACTORIES, 0) if isinstance(name, str) else ""
        raise ValueError(f"from_config: gradflow has no factory {describe(name)}. {hint}".rstrip())
    return factory


def _message(data: Any) -> str:
    return f"from_config: an entry must be one that to_config writes; got {describe(data)}"


def _read_array(data: Mapping[str, Any]) -> Any:
    """A number, dtype, array or key from its entry."""
    try:
        if "complex" in data:
            return complex(*data["complex"])
        if "prng_key" in data:
            raw = jnp.asarray(np.asarray(data["prng_key"], np.uint32))
            return jax.random.wrap_key_data(raw, impl=data["impl"])
        dtype = _dtype(data)
        if "jax_array" in data:
            return jnp.asarray(np.asarray(data["jax_array"], dtype))
        if "array" in data:
            return np.asarray(data["array"], dtype)
        return dtype.type(data["scalar"]) if "scalar" in data else dtype
    except (TypeError, ValueError, OverflowError, KeyError, AttributeError, RecursionError):
        raise ValueError(_message(data)) from None


def _dtype(data: Mapping[str, Any]) -> np.dtype:
    """The dtype of numbers of an entry, by its name; one of texts, such as 'S1000000000', fills a memory."""
    dtype = np.dtype(jnp.dtype(data["dtype"]))
    if not isinstance(data["dtype"], str) or not (dtype.kind == "b" or jnp.issubdtype(dtype, np.number)):
        raise TypeError(dtype)
    return dtype
