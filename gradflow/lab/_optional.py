"""Imports the packages that only the lab uses, when they are first needed."""

import importlib
from typing import Any


def optional(module: str, purpose: str) -> Any:
    """Imports a module; raises ImportError with the command that installs it if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"sklearn": "scikit-learn", "PIL": "pillow"}.get(module.split(".")[0], module.split(".")[0])
        extra = "tensorboard" if module == "tensorboardX" else "lab"
        raise ImportError(
            f'{purpose} needs {package}, which is not installed: pip install "gradflow-jax[{extra}]"'
        ) from error
