"""One process of a run: its share of each batch, and its share of the state with `--zero`."""

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradflow._core._apply import apply_updates
from gradflow._core._transformation import GradientTransformation
from gradflow.checkpoint import save
from gradflow.lab._distributed._run import PEER_LOST, Run
from gradflow.lab._optional import optional
from gradflow.lab._tasks._catalog import task_named
from gradflow.lab._tasks._task import Task
from gradflow.sharding._placement import abstract, placed_state
from gradflow.tree._paths import path_string
from gradflow.wrappers import shard_state

# Seconds without a sign of life after which a process counts as dead. The parent sees at once one that ended:
# this is for one that hangs, and leaves time to those that a busy machine does not run.
_HEARTBEAT = 30
_KEPT = 2


def main(settings: str) -> None:
    """Runs this process to the end of the run."""
    given = json.loads(settings)
    index, coordinator = given.pop("index"), given.pop("coordinator")
    run = Run(**given)
    output = _own_output()
    os.nice(10)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jax.distributed.initialize(
        coordinator, run.processes, index, heartbeat_timeout_seconds=_HEARTBEAT, initialization_timeout=300
    )
    Training(run, output if index == 0 else None).finish()
    jax.distributed.shutdown()


def _end_with_parent() -> None:
    while os.read(0, 1):  # not sys.stdin: Python cannot end while a thread reads from it
        pass
    os._exit(1)


def _own_output() -> TextIO:
    """The standard output for this program alone; what libraries print there goes into the log."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


class Training:
    """Parameters and state on the mesh of all processes, and the checkpoints of the run."""

    def __init__(self, run: Run, output: TextIO | None) -> None:
        self.run, self.output = run, output
        self.task: Task = task_named(run.task)
        self.mesh = Mesh(np.array(jax.devices()), ("data",))
        self.whole = NamedSharding(self.mesh, PartitionSpec())
        tx = run.transformation()
        self.tx: GradientTransformation = shard_state(tx, self.mesh) if run.zero else tx
        checkpoint = optional("orbax.checkpoint", "distributed training")
        self.arguments = checkpoint.args
        self.manager = checkpoint.CheckpointManager(
            run.directory / "checkpoints",
            options=checkpoint.CheckpointManagerOptions(max_to_keep=_KEPT, create=True),
        )

    def finish(self) -> None:
        """Trains from the last checkpoint, or from the start, to the last step; writes the parameters."""
        begin, params, state = self._begin()
        step = self._step()
        for number in range(begin, self.run.steps):
            params, state, loss = step(params, state, self._batch(number))
            if (number + 1) % self.run.every == 0 or number + 1 == self.run.steps:
                self._save(number + 1, params, state)
                self._print(f"step {number + 1}: loss {float(loss):.6f}, saved")
        self.manager.close()
        if self.output is not None:  # the first process
            leaves = jax.tree_util.tree_leaves_with_path(params)
            save(self.run.directory / "params.npz", {path_string(k): np.asarray(x) for k, x in leaves})
        self._print(f"done: {self.run.directory / 'params.npz'}")

    def _begin(self) -> tuple[int, Any, Any]:
        init = jax.jit(self.task.init, out_shardings=self.whole)
        params = init(jax.random.key(self.run.seed))
        last = self.manager.latest_step()
        if last is None:
            self._print("begins")
            return 0, params, jax.jit(self.tx.init)(params)
        like = {"params": abstract(params), "state": placed_state(self.tx, params, self.mesh)}
        found = self.manager.restore(last, args=self.arguments.StandardRestore(like))
        self._print(f"continues after step {last}")
        return last, found["params"], found["state"]

    def _step(self) -> Callable[[Any, Any, Any], tuple[Any, Any, jax.Array]]:
        def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any, jax.Array]:
            loss, grads = jax.value_and_grad(self.task.loss_fn)(params, batch)
            updates, state = self.tx.update(grads, state, params)
            return apply_updates(params, updates), state, loss

        return jax.jit(step, donate_argnums=(0, 1))

    def _batch(self, number: int) -> Any:
        """The batch of a step, which depends on the seed and the step alone; each process makes its share."""
        count = jax.tree.leaves(self.task.train)[0].shape[0]
        chosen = np.random.default_rng((self.run.seed, number)).choice(count, self.run.batch_size)
        sharding = NamedSharding(self.mesh, PartitionSpec("data"))

        def placed(x: np.ndarray) -> jax.Array:
            def share(index: Any) -> np.ndarray:
                return x[chosen[index[0]]]

            return jax.make_array_from_callback((self.run.batch_size, *x.shape[1:]), sharding, share)

        return jax.tree.map(placed, self.task.train)

    def _save(self, number: int, params: Any, state: Any) -> None:
        tree = {"params": params, "state": state}
        self.manager.save(number, args=self.arguments.StandardSave(tree))
        self.manager.wait_until_finished()

    def _print(self, text: str) -> None:
        if self.output is not None:
            print(text, file=self.output, flush=True)


def last_line(error: Exception) -> str:
    """The error in one line, also where it has no message."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        # Ending in order would wait for the other processes. The parent shows the last line.
        traceback.print_exc()
        print(last_line(error), file=sys.stderr, flush=True)
        os._exit(PEER_LOST if isinstance(error, jax.errors.JaxRuntimeError) else 1)
