"""The named tuples in which optimizers keep what they remember: `gradflow.states.ScaleByAdamState`.

Each is also a name of its room and of the top level. `dir(gradflow)` leaves them out, so that completion
shows the functions first.
"""

from typing import TYPE_CHECKING

from gradflow import _api

if TYPE_CHECKING:
    from gradflow._api import *
else:
    # Named tuples in a state that are not whole states.
    _PARTS = (
        "ApplyEvery",
        "BacktrackingLinesearchInfo",
        "FistaInfo",
        "MaskedNode",
        "MuownNeurons",
        "PackedMean",
        "QuantizedMean",
        "QuantizedSquare",
        "RoundedLeaf",
        "SpikeWindow",
        "ZoomLinesearchInfo",
    )
    _NAMES = {
        name: value
        for name, value in vars(_api).items()
        if isinstance(value, type) and issubclass(value, tuple) and (name.endswith("State") or name in _PARTS)
    }
    __all__ = list(_NAMES)
    globals().update(_NAMES)
