"""Finds tasks by name, and makes them from a user's own problem."""

from typing import Any

from gradflow._checked import TEXT
from gradflow._errors import describe, unknown
from gradflow.lab._tasks._coordinate_networks import image, ode
from gradflow.lab._tasks._datasets import breast_cancer, diabetes, digits
from gradflow.lab._tasks._own_task import NO_DATA, OwnData, own_task
from gradflow.lab._tasks._task import Task
from gradflow.lab._tasks._text import text
from gradflow.lab._tasks._transformer import transformer


def choose_task(
    task: Any,
    loss_fn: Any,
    params: Any,
    batches: Any,
    steps: int | None,
    caller: str,
    own: OwnData = NO_DATA,
) -> Task:
    """Returns the task for the arguments of an experiment: a name, a `Task`, or a user's own problem."""
    if not (loss_fn is None and params is None and batches is None and own == NO_DATA):
        if task is not None:
            raise TypeError(
                f"{caller}: argument 'task' must be left out where loss_fn, params or batches are given; "
                f"got {describe(task)}"
            )
        return own_task(loss_fn, params, batches, steps or 500, caller, own)
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
    TEXT.check("task", "name", name)
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]()


task = task_named  # the public name, which inside the lab is an argument
