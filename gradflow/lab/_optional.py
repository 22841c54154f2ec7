"""Imports the packages that only the lab uses, when they are first needed."""

import importlib
from typing import Any

_PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "orbax": "orbax-checkpoint"}
_EXTRAS = {"tensorboardX": "tensorboard", "orbax": "distributed"}


def optional(module: str, purpose: str) -> Any:
    """Imports a module; raises ImportError with the command that installs it if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.split(".")[0]
        package = _PACKAGES.get(root, root)
        extra = _EXTRAS.get(root, "lab")
        raise ImportError(
            f'{purpose} needs {package}, which is not installed: pip install "gradflow-jax[{extra}]"'
        ) from error
