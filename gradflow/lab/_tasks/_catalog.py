"""Tasks by name."""

from typing import Any

import jax
import numpy as np

from gradflow._errors import unknown
from gradflow.lab._tasks._coordinate_networks import image, ode
from gradflow.lab._tasks._datasets import _breast_cancer, _diabetes, _digits
from gradflow.lab._tasks._task import Task
from gradflow.lab._tasks._text import _text


def choose_task(task: Any, loss_fn: Any, params: Any, batches: Any, steps: int | None, caller: str) -> Task:
    """The task that is meant: by name, as it is, or a user's own problem."""
    if not (loss_fn is None and params is None and batches is None):
        if task is not None:
            raise TypeError(f"{caller}: give a task, or loss_fn, params and batches of your own; not both")
        return own_task(loss_fn, params, batches, steps or 500, caller)
    if task is None or isinstance(task, str):
        return task_named(task or "digits")
    if isinstance(task, Task):
        return task
    raise TypeError(f"{caller}: argument 'task' must be a name or a Task; got a {type(task).__name__}")


TASKS = {
    "digits": _digits,
    "breast_cancer": _breast_cancer,
    "diabetes": _diabetes,
    "text": _text,
    "image": image,
    "ode": ode,
}


def task_named(name: str) -> Task:
    """The task of that name; a ValueError with the near names for an unknown one."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]()


task = task_named  # the public name; inside the lab `task` is an argument


def own_task(loss_fn: Any, params: Any, batches: Any, steps: int, caller: str) -> Task:
    """A user's problem as a task. `compare` says what the three may be."""
    if loss_fn is None or params is None:
        raise TypeError(f"{caller}: your own problem needs both loss_fn and params")
    if not callable(loss_fn):
        raise TypeError(f"{caller}: argument 'loss_fn' must be a function of (params, batch)")
    is_function = callable(params) and jax.tree_util.all_leaves([params])
    init = params if is_function else lambda key: params
    if batches is None:
        # One batch without contents: the loss is a function of the parameters alone.
        return Task("your own", init, lambda p, _: loss_fn(p), np.zeros((1,), np.int32), None)
    if isinstance(batches, list) or hasattr(batches, "__next__"):
        taken = [batch for _, batch in zip(range(steps), batches, strict=False)]
        if not taken:
            raise ValueError(f"{caller}: argument 'batches' has no batch in it")
        batches = jax.tree.map(lambda *leaves: np.stack(leaves), *taken)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise ValueError(
            f"{caller}: argument 'batches' must be a list of batches, or a tree of arrays whose common "
            f"leading axis counts the batches; the leading axes are {sorted(lengths)}"
        )
    return Task("your own", init, loss_fn, jax.tree.map(np.asarray, batches), None)
