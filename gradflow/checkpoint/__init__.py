"""State by name: a flat mapping that any file format holds, and the way back into a transformation.

A number of the state is named by the stage that keeps it, the field, and the parameter's path:

    chain.adamw.scale_by_adam.mu/encoder/kernel

Names come from the expression and the classes of the state, never from the place in a tuple, so an edited
expression finds again all that still has a home. `_places` gives the names, `_matching` finds the homes.
"""

from gradflow.checkpoint._state_dict import LoadReport as LoadReport
from gradflow.checkpoint._state_dict import load_state_dict as load_state_dict
from gradflow.checkpoint._state_dict import state_dict as state_dict

__all__ = [
    "LoadReport",
    "load_state_dict",
    "state_dict",
]
