"""States as mappings of named arrays, and loading them."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import FLAG, checked
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe, names_hint
from gradflow._expressions._config import to_config
from gradflow._types import OptState, Params
from gradflow.checkpoint._matching import Entries, Entry, Matching, check_no_loss, find_moments, some
from gradflow.checkpoint._state_paths import StatePath, locate
from gradflow.packed._pack import abstract_tree, pack_as, unpack_all
from gradflow.tree._paths import paths
from gradflow.wrappers import LookaheadParams

FORMAT = 1
KEY = "gradflow_state"


class LoadReport(NamedTuple):
    """What `load_state_dict` kept (the entry by name in the state), left as new, and dropped."""

    kept: dict[str, str]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        moved = [f"{name} (from {old})" for name, old in self.kept.items() if name != old]
        lists = {"of these moved": moved, "new": self.new, "dropped": self.dropped}
        return "; ".join([f"kept {len(self.kept)}", *(f"{k}: {some(v)}" for k, v in lists.items() if v)])


def state_dict(tx: GradientTransformation, state: OptState) -> dict[str, Any]:
    """Converts the state of `tx` to a flat mapping from names to arrays, for files or other transformations.

        np.savez("state.npz", **state_dict(tx, state))
        safetensors.flax.save_file(state_dict(tx, state), "state.safetensors")

    A name is stage, field and parameter, `chain.adamw.scale_by_adam.mu/encoder/kernel`. It does not depend
    on the position in a chain, except among equal siblings, nor on whether a number or a schedule was given.
    The arrays are not copied; PRNG keys are stored as their data. The state of packed parameters has the
    names and arrays of the unpacked ones.

    The entry `gradflow_state` is JSON in bytes. `json.loads(d["gradflow_state"].tobytes())` has the version
    of the format, the `repr` of `tx`, and under "config" the input of `from_config`. It is None there if `tx`
    is not plain data, for example if an argument is a function.

    Raises ValueError for the state of another transformation, and for a donated state.
    """
    tx = as_transformation(tx, "state_dict", "the first argument")
    leaves, arrays = {}, {}
    for name, (place, value) in locate(tx, unpack_all(state), "state_dict")[0].items():
        _refuse_deleted("state_dict", name, value)
        key = str(jax.random.key_impl(value)) if _is_key(value) else None
        arrays[name] = array = _array(value if key is None else jax.random.key_data(value))
        leaves[name] = {**place._asdict(), "dtype": array.dtype.name, "shape": array.shape, "key": key}
    header = {KEY: FORMAT, "expression": repr(tx), "config": _config(tx), "leaves": leaves}
    return {KEY: np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays}


@checked(strict=FLAG)
def load_state_dict(
    tx: GradientTransformation, params: Params, d: Mapping[str, Any], *, strict: bool = True
) -> tuple[OptState, LoadReport]:
    """Loads a mapping into a state of `tx` for `params`; also returns a report: kept, new, dropped.

        state, report = load_state_dict(tx, params, np.load("state.npz"))
        state, report = load_state_dict(new_tx, params, state_dict(old_tx, state))    # surgery

    Entries with the same name are kept, and so are entries whose stage moved: a moment goes to the same rule
    and parameter, together with the counters of its stage. The numbers of `tunable` are part of the state.
    New leaves are those of `tx.init`. Arrays are copies, placed like those of `tx.init`.

    Args:
      d: from `state_dict` or a file. Entries may be renamed by hand.
      strict: raises ValueError where moments would be lost because another rule replaced theirs, such as
        adabelief for adam, or because their parameter is unknown; False drops and reports them. Stages that
        were added or removed, and parameters that were frozen or unfrozen, are only reported.

    Raises ValueError naming an entry of another shape or dtype, unknown, missing or ambiguous entries, and a
    newer format.
    """
    tx = as_transformation(tx, "load_state_dict", "the first argument")
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        raise TypeError("load_state_dict: argument 'params' must hold arrays; got shapes")
    known = frozenset(paths(abstract_tree(params.fast if isinstance(params, LookaheadParams) else params)))
    state = tx.init(params)
    located, structure = locate(tx, unpack_all(state), "load_state_dict")
    fresh = {name: _array(leaf) for name, (_, leaf) in located.items()}
    mine = {name: Entry(place, fresh[name].dtype, fresh[name].shape) for name, (place, _) in located.items()}
    theirs, keys = _read(d, mine, strict)
    wanted, saved = find_moments(mine, theirs, known)
    candidates = saved
    while True:
        pairs = Matching(wanted, candidates, d, strict).pairs
        values = {
            name: _fitted(name, old, d[old], saved[old].dtype, keys.get(old), fresh[name], strict)
            for name, old in pairs.items()
        }
        unfit = {pairs[name] for name, value in values.items() if value is None}
        if not unfit:
            break
        # Match again without these, so that counters are not kept without their moments.
        candidates = {name: old for name, old in candidates.items() if name not in unfit}
    kept = {name: pairs[name] for name in located if name in pairs}
    used = set(kept.values())
    new = tuple(name for name in located if name not in kept)
    dropped = tuple(name for name in d if name != KEY and name not in used)
    if strict:
        check_no_loss(wanted, saved, kept, dropped, known)
    leaves = [_like(values[name], leaf) if name in kept else leaf for name, (_, leaf) in located.items()]
    return pack_as(state, jax.tree.unflatten(structure, leaves)), LoadReport(kept, new, dropped)


def _config(tx: GradientTransformation) -> Any:
    try:
        config = to_config(tx)
        json.dumps(config)
    except TypeError:
        return None
    return config


def _read(d: Mapping[str, Any], wanted: Entries, strict: bool) -> tuple[Entries, dict[str, str]]:
    """The entries of a mapping, and the implementations of the PRNG keys among them."""
    if not isinstance(d, Mapping):
        raise TypeError(f"load_state_dict: argument 'd' must come from state_dict; got {describe(d)}")
    if KEY not in d:
        raise ValueError(f"load_state_dict: argument 'd' must come from state_dict; got no entry '{KEY}'")
    try:
        header = json.loads(np.asarray(d[KEY], np.uint8).tobytes())
        version = header[KEY]
        saved = {name: _saved(about) for name, about in header["leaves"].items()} if version == FORMAT else {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"load_state_dict: the entry '{KEY}' is damaged") from None
    if version != FORMAT:
        raise ValueError(
            f"load_state_dict: the state must have format {FORMAT}; got format {version!r}. Read it with the "
            "version of gradflow that wrote it, or a newer one"
        )
    strange = [name for name in d if name != KEY and name not in saved]
    unknown = [name for name in strange if name not in wanted]
    missing = [name for name in saved if name not in d]
    if strict and unknown:
        raise ValueError(
            f"load_state_dict: entries must have names of this state; got {some(unknown)}. "
            f"{names_hint(unknown[0], wanted)} strict=False drops them"
        )
    if strict and missing and not strange:
        raise ValueError(
            f"load_state_dict: entries are missing: {some(missing)}. strict=False takes those of init"
        )
    entries = {name: wanted[name] for name in strange if name in wanted}  # renamed by hand
    entries |= {name: entry for name, (entry, _) in saved.items() if name in d}
    return entries, {name: key for name, (_, key) in saved.items() if key}


def _saved(about: Mapping[str, Any]) -> tuple[Entry, str | None]:
    """An entry of the header, and the implementation of its PRNG key, if it is one."""
    place = StatePath(tuple(about["stage"]), about["rule"], about["field"], about["path"])
    return Entry(place, jnp.dtype(about["dtype"]), tuple(about["shape"])), about["key"]


def _array(value: Any) -> Any:
    return value if isinstance(value, jax.Array) else np.asarray(value)


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _refuse_deleted(caller: str, name: str, value: Any) -> None:
    tracer = isinstance(value, jax.core.Tracer)
    if isinstance(value, jax.Array) and not tracer and value.is_deleted():
        raise ValueError(
            f"{caller}: arrays of the state must exist; got '{name}', which was donated or deleted. Pass the "
            "state that the last update returned"
        )


def _fitted(name: str, old: str, value: Any, dtype: Any, key: str | None, fresh: Any, strict: bool) -> Any:
    """An entry as an array like the state's own; None if that does not fit and `strict` is False."""
    _refuse_deleted("load_state_dict", old, value)
    if not isinstance(value, jax.Array):
        value = np.asarray(value)
        if value.dtype.kind == "V":  # npz files store NumPy's own dtypes only
            value = value.view(jnp.dtype(dtype))
    if _is_key(fresh) and value.dtype == np.uint32:
        key = key or str(jax.random.key_impl(fresh))
        value = jax.random.wrap_key_data(jnp.asarray(value), impl=key)
    if value.shape == fresh.shape and value.dtype == fresh.dtype:
        return value
    if not strict:
        return None
    whence = "" if name == old else f" (from '{old}')"
    raise ValueError(
        f"load_state_dict: '{name}'{whence} must be {describe(fresh)}; got {describe(value)}. Nothing was "
        "loaded; strict=False takes the array of init"
    )


def _like(value: Any, fresh: Any) -> Any:
    """A copy of an array, placed like `fresh`."""
    if not isinstance(fresh, jax.Array):
        return np.array(value)
    if isinstance(fresh, jax.core.Tracer) or isinstance(value, jax.core.Tracer):
        return jnp.array(value, copy=True)
    if fresh.committed:
        return jax.device_put(value, fresh.sharding, may_alias=False)
    if isinstance(value, jax.Array) and (value.sharding == fresh.sharding or _is_key(value)):
        return jnp.array(value, copy=True)
    return jnp.array(np.asarray(value), copy=True)
