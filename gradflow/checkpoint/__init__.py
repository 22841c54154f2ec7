"""States as flat mappings by name, which any file format can store, and loading them again.

An array of the state is named by its stage, its field and the parameter's path:

    chain.adamw.scale_by_adam.mu/encoder/kernel

Names come from the expression and the classes of the state, never from positions in tuples. So a state can be
loaded into an edited expression. `_state_paths` makes the names, `_matching` compares them. `save` and
`load` are for files that a process may be killed over.
"""

from gradflow.checkpoint._files import load as load
from gradflow.checkpoint._files import save as save
from gradflow.checkpoint._state_dict import LoadReport as LoadReport
from gradflow.checkpoint._state_dict import load_state_dict as load_state_dict
from gradflow.checkpoint._state_dict import state_dict as state_dict

__all__ = [
    "LoadReport",
    "load",
    "load_state_dict",
    "save",
    "state_dict",
]
