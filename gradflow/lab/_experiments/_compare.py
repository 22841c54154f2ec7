"""`compare`: trains optimizers side by side and ranks them."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from gradflow._checked import FLAG, REAL, checked
from gradflow.lab._arguments import COUNT, FILE, LOSS, PARAMS, RATES, SEEDS
from gradflow.lab._experiments._compare_run import CompareRun
from gradflow.lab._experiments._plan import prepare
from gradflow.lab._results._comparison import Comparison
from gradflow.lab._tasks._own_task import OwnData
from gradflow.lab._tasks._task import Task


@checked(
    loss_fn=LOSS,
    params=PARAMS,
    learning_rates=RATES | None,
    seeds=SEEDS,
    steps=COUNT | None,
    target=REAL | None,
    progress=FLAG | None,
    batch_size=COUNT | None,
    metric=LOSS,
    file=FILE,
)
def compare(
    optimizers: Any = None,
    *,
    task: str | Task | None = None,
    loss_fn: Callable[..., Any] | None = None,
    params: Any = None,
    batches: Any = None,
    learning_rates: Iterable[float] | None = None,
    seeds: int | Iterable[int] = 5,
    steps: int | None = None,
    target: float | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
    test: Any = None,
    metric: Callable[..., Any] | None = None,
    file: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Trains each optimizer over a grid of learning rates and seeds, and ranks them.

    The rank is the median over seeds of the steps to `target`, at each optimizer's best rate, then the final
    loss. For one seed all optimizers have the same start and batches. A run diverges if it becomes non-finite
    or ends above its first loss; it counts as never reaching the target. Below the table stands
    which optimizers are behind the first by more than chance (`Comparison.slower_than_best`).

    Args:
      optimizers: names, transformations, expressions of these as text, or a dict from a name to one, or to
        a function of `learning_rate`; by default those of most textbooks. A transformation with exactly one
        `learning_rate`, a number, is tried at all rates; any other runs once, unchanged.
      task: "digits" (the default), "breast_cancer", "diabetes", "text", "image", "ode", or a `Task`.
      loss_fn: your own problem: `loss_fn(params, batch)`, `loss_fn(params, x, y)` for batches that are
        pairs, or `loss_fn(params)` without batches.
      params: its parameters, or a function from a PRNG key to them: one start for each seed.
      batches: a list of batches, or a tree of arrays with a leading axis of batches; shuffled by the seed.
        With `batch_size`, arrays of examples: `batches=(X, Y), batch_size=32`. The last batch of a list may
        be shorter.
      learning_rates: for all optimizers. By default each has six, half a decade apart, around its usual rate,
        and six more, at most twice, beyond a best rate that is at the end.
      seeds: the number of seeds, or the seeds.
      steps: the number of steps; the task's own by default, else 500.
      target: the training loss to reach; the task's own by default.
      progress: whether to show a progress bar, which needs tqdm; by default in a terminal and in a notebook.
      batch_size: examples per step, where `batches` holds examples.
      test: held-out data of your own problem, for `metric(params, batch)` or `metric(params, x, y)`, which
        returns one number; higher is better.
      file: where finished optimizers are written; a comparison that is called again continues from there, and
        may have other optimizers.
    """
    own = OwnData(batch_size, test, metric)
    plan = prepare(optimizers, task, loss_fn, params, batches, learning_rates, seeds, steps, target, own)
    return plan.result(CompareRun.of(plan, file).entries(progress))
