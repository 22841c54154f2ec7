"""Finds tasks by name, and makes them from a user's own problem."""

from typing import Any

import jax
import numpy as np

from gradflow._errors import describe, unknown
from gradflow.lab._tasks._coordinate_networks import image, ode
from gradflow.lab._tasks._datasets import breast_cancer, diabetes, digits
from gradflow.lab._tasks._task import Task
from gradflow.lab._tasks._text import text
from gradflow.lab._tasks._transformer import transformer


def choose_task(task: Any, loss_fn: Any, params: Any, batches: Any, steps: int | None, caller: str) -> Task:
    """Returns the task for the arguments of an experiment: a name, a `Task`, or a user's own problem."""
    if not (loss_fn is None and params is None and batches is None):
        if task is not None:
            raise TypeError(
                f"{caller}: argument 'task' must be left out where loss_fn, params or batches are given; "
                f"got {describe(task)}"
            )
        return own_task(loss_fn, params, batches, steps or 500, caller)
    if task is None or isinstance(task, str):
        return task_named(task or "digits")
    if isinstance(task, Task):
        return task
    raise TypeError(f"{caller}: argument 'task' must be a name or a Task; got {describe(task)}")


TASKS = {
    "digits": digits,
    "breast_cancer": breast_cancer,
    "diabetes": diabetes,
    "text": text,
    "transformer": transformer,
    "image": image,
    "ode": ode,
}


def task_named(name: str) -> Task:
    """Returns the task of a name; raises ValueError with near names for an unknown one."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]()


task = task_named  # the public name, which inside the lab is an argument


def own_task(loss_fn: Any, params: Any, batches: Any, steps: int, caller: str) -> Task:
    """Makes a task of a user's problem, whose arguments are documented in `compare`."""
    if loss_fn is None or params is None:
        missing = "loss_fn" if loss_fn is None else "params"
        raise TypeError(
            f"{caller}: argument '{missing}' must be given too; got None. "
            "Your own problem needs both loss_fn and params"
        )
    if not callable(loss_fn):
        raise TypeError(
            f"{caller}: argument 'loss_fn' must be a function of (params, batch); got {describe(loss_fn)}"
        )
    is_function = callable(params) and jax.tree_util.all_leaves([params])
    init = params if is_function else lambda key: params
    if batches is None:
        # One dummy batch, since the loss is a function of the parameters alone.
        return Task("your own", init, lambda p, _: loss_fn(p), np.zeros((1,), np.int32), None)
    if isinstance(batches, list) or hasattr(batches, "__next__"):
        taken = [batch for _, batch in zip(range(steps), batches, strict=False)]
        if not taken:
            raise ValueError(f"{caller}: argument 'batches' must have at least one batch; got none")
        batches = jax.tree.map(lambda *leaves: np.stack(leaves), *taken)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise ValueError(
            f"{caller}: argument 'batches' must be a list of batches, or a tree of arrays whose common "
            f"leading axis counts the batches; got leading axes {sorted(lengths)}"
        )
    return Task("your own", init, loss_fn, jax.tree.map(np.asarray, batches), None)
