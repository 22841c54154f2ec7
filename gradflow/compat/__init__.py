"""The field's module names for gradflow's functions: `import gradflow.compat as optax`.

    optax.adam                 gradflow.adam, and so for every name of the top level
    optax.contrib.muon         gradflow.muon; likewise in `transforms`, `schedules`, `_src.transform`, ...
    optax.tree_utils.tree_add  gradflow.tree.add
    optax.losses, optax.tree, optax.projections, ...   the names of the rooms

Deprecated names work with a DeprecationWarning that says what to call. `install()` puts this package in the
place of optax for every library that the process imports afterwards. `.github/DIFFERENCES.md` lists names
that behave differently.
"""

from types import ModuleType
from typing import Any

from gradflow import _api
from gradflow import aggregating as _aggregating
from gradflow import assignment as _assignment
from gradflow import linalg as _linalg
from gradflow import losses as _losses
from gradflow import microbatching as _microbatching
from gradflow import perturbations as _perturbations
from gradflow import projections as _projections
from gradflow import tree as _tree
from gradflow.compat import _deprecated, _second_order, _types
from gradflow.compat._install import install as _install
from gradflow.compat._namespaces import Namespace, public_names, unknown

# The version of Optax whose names these are; libraries compare it.
__version__ = "0.2.8"

# Modules of Optax with the names of the top level, and the private modules that libraries import from.
_MODULES = {
    "contrib": (
        "_acprop _ademamix _adopt _cocob _complex_valued _dadapt_adamw _dog _galore _madgrad _mechanic "
        "_momo _muon _privacy _prodigy _reduce_on_plateau _sam _schedule_free _sophia"
    ),
    "transforms": (
        "_accumulation _adding _clipping _combining _conditionality _constraining _freezing _layouts "
        "_masking _monitoring"
    ),
    "schedules": "_inject _join _schedule",
    "_src": (
        "alias base clipping combine constrain factorized linear_algebra linesearch lookahead loss numerics "
        "schedule transform update utils wrappers"
    ),
}

# What those modules import: editors complete `from optax._src.linear_algebra import lax`, and `*` takes all.
_IMPORTED: dict[str, Any] = dict(_types.IMPORTED)

_namespaces: dict[str, ModuleType] = {}
for _name, _parts in _MODULES.items():
    _namespaces[_name] = Namespace(f"{__name__}.{_name}", _api, _deprecated.TOP_LEVEL, _types.NAMES)
    for _part in _parts.split():
        _inner = Namespace(
            f"{__name__}.{_name}.{_part}", _api, _deprecated.PRIVATE, _types.PRIVATE_NAMES, _IMPORTED
        )
        setattr(_namespaces[_name], _part, _inner)
for _room in (_assignment, _linalg, _microbatching, _perturbations, _projections, _tree):
    _name = _room.__name__.rpartition(".")[2]
    _namespaces[_name] = Namespace(f"{__name__}.{_name}", _room)
_namespaces["tree_utils"] = Namespace(f"{__name__}.tree_utils", _tree, _deprecated.TREE_UTILS, prefix="tree_")
_namespaces["losses"] = Namespace(f"{__name__}.losses", _losses, _deprecated.LOSSES)
_namespaces["second_order"] = Namespace(f"{__name__}.second_order", _second_order, _deprecated.SECOND_ORDER)
_namespaces["experimental"] = Namespace(f"{__name__}.experimental", _api)
vars(_namespaces["experimental"])["aggregating"] = _aggregating
for _name, _parts in {
    "assignment": "_hungarian_algorithm",
    "experimental": "_aggregating",
    "microbatching": "_microbatching",
    "perturbations": "_make_pert",
    "projections": "_projections",
    "tree_utils": "_casting _random _state_utils _tree_math",
    "losses": "_classification _fenchel_young _ranking _regression _segmentation _self_supervised _smoothing",
}.items():
    for _part in _parts.split():
        _public = _namespaces[_name]
        _inner = Namespace(f"{__name__}.{_name}.{_part}", _public, None, _types.PRIVATE_NAMES, _IMPORTED)
        setattr(_public, _part, _inner)
_IMPORTED.update({_part: getattr(_namespaces["_src"], _part) for _part in _MODULES["_src"].split()})
_IMPORTED["otu"] = _namespaces["tree_utils"]


def install() -> None:
    """Makes `import optax` give this package, in this process, for libraries that are imported afterwards.

    Raises RuntimeError if the real optax has been imported: libraries that hold it would keep it.
    """
    _install(__name__, _namespaces)


def __getattr__(name: str) -> Any:
    if name in _namespaces:
        return _namespaces[name]
    if name == "__all__":  # for `from gradflow.compat import *`
        return [*(found for found in _namespaces if not found.startswith("_")), *public_names(_api)]
    if name in _deprecated.TOP_LEVEL:
        return _deprecated.TOP_LEVEL[name].get(f"{__name__}.{name}")
    if name.startswith("_") or not hasattr(_api, name):
        raise AttributeError(unknown(__name__, name))
    return getattr(_api, name)


def __dir__() -> list[str]:
    own = [name for name in _namespaces if not name.startswith("_")]
    return sorted({"install", *own, *public_names(_api)})
