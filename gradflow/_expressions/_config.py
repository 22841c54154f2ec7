"""Values as plain data and back: dicts, lists, strings and numbers, which any file format can store."""

from collections.abc import Mapping
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

    Only gradflow's own factories are called, and their arguments are checked like those of any call. Raises
    ValueError for an unknown factory and for an entry that is not a configuration.
    """
    if not isinstance(config, Mapping) or "factory" not in config:
        raise ValueError(f"from_config: the argument must be a dict with 'factory'; got {describe(config)}")
    return _decode(config)


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


def _own(name: Any) -> Factory:
    factory: Factory | None = OWN_FACTORIES.get(str(name))
    if factory is None:
        hint = names_hint(str(name), OWN_FACTORIES, 0)
        raise ValueError(f"from_config: gradflow has no factory '{name}'. {hint}".rstrip())
    return factory


def _decode(data: Any) -> Any:
    if isinstance(data, list | tuple):
        return tuple(_decode(item) for item in data)
    if not isinstance(data, Mapping):
        return data
    if "function" in data:
        return _own(data["function"]).function
    if "factory" in data:
        factory = _own(data["factory"])
        arguments = {name: _decode(value) for name, value in data.get("arguments", {}).items()}
        rest = arguments.pop(factory.variadic, ()) if factory.variadic else ()
        return factory(*rest, **arguments)
    if "record" in data:
        if data["record"] not in RECORDS:
            raise ValueError(f"from_config: gradflow has no record '{data['record']}'")
        return RECORDS[data["record"]](**{name: _decode(item) for name, item in data["fields"].items()})
    if "complex" in data:
        return complex(*data["complex"])
    if "dict" in data:
        return {_decode(key): _decode(value) for key, value in data["dict"]}
    if "prng_key" in data:
        raw = jnp.asarray(np.asarray(data["prng_key"], np.uint32))
        return jax.random.wrap_key_data(raw, impl=data["impl"])
    dtype = jnp.dtype(data["dtype"]) if "dtype" in data else None
    if "jax_array" in data:
        return jnp.asarray(np.asarray(data["jax_array"], dtype))
    if "array" in data:
        return np.asarray(data["array"], dtype)
    if "scalar" in data and dtype is not None:
        return dtype.type(data["scalar"])
    if dtype is not None:
        return dtype
    raise ValueError(f"from_config: an entry must be one that to_config writes; got {describe(data)}")
