"""Old names of private modules, so that pickles of version 0.1.0 still load.

`import gradflow` registers these modules. They are empty until a pickle looks up a name in one of them.
"""

from typing import Any

from gradflow import _api
from gradflow._core import _plain_pairs
from gradflow._expressions._registry import OWN_FACTORIES, rebuild
from gradflow._types import MaskedNode
from gradflow.packed import _layout, _pack


def _rebuild(reference: Any, arguments: Any) -> Any:
    """The value of a pickle in which gradflow's own factories are stored by name."""
    if not isinstance(reference, str):
        return rebuild(reference, arguments)
    if reference not in OWN_FACTORIES:
        raise ValueError(f"this version of gradflow has no factory '{reference}', to which the pickle refers")
    return OWN_FACTORIES[reference].rebuild(arguments)


def former_name(module: str, name: str) -> Any:
    """The object that a former module had under a name; raises AttributeError for other names."""
    try:
        return _NAMES[module][name]
    except KeyError:
        raise AttributeError(f"module '{module}' has no attribute '{name}'") from None


_NAMES: dict[str, dict[str, Any]] = {
    "gradflow._base": {"_rebuild": _rebuild, "_plain": _plain_pairs.plain_pair},
    "gradflow._stage": {
        "EmptyState": _api.EmptyState,
        "ScheduledState": _api.ScheduledState,
        "GradientTransformation": _api.GradientTransformation,
    },
    "gradflow._selectors": {"MaskedNode": MaskedNode},
    "gradflow._packed": {"Packed": _pack.Packed, "Layout": _layout.Layout, "Group": _layout.Group},
}
