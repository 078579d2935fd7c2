"""Training and evaluation steps, compiled and spread over all devices.

`parallel` is the only function that spreads work over devices.
"""

import functools
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cifar_jax.runtime import device_memory
from cifar_jax.training.steps import EvalStep, TrainState, TrainStep
from cifar_jax.types import Batch, EvalShard, PyTree, ResidentData, TrainShard, Variables

AXIS = "batch"  # the axis of data parallelism: all devices of all processes


def parallel(program: Callable, donate: bool) -> Any:
  """Spread `program(replicated, shard, replicated) -> replicated` over all devices.

  `shard` has a leading axis of local devices. The other arguments and the result are the same on
  every device. With `donate`, the result reuses the first argument's memory.
  """
  return jax.pmap(
    program,
    axis_name=AXIS,
    in_axes=(None, 0, None),
    out_axes=None,
    donate_argnums=(0,) if donate else (),
  )


def replicate(tree: PyTree) -> PyTree:
  """Copy a tree of arrays to every local device, in the form that `parallel` takes and returns."""
  mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def list_dispatches(num_steps: int, size: int) -> list[int]:
  """Return sizes of dispatches, at most `size` each, that add up to `num_steps` steps."""
  num_full, rest = divmod(num_steps, size)
  return [size] * num_full + [rest] * (rest > 0)


class CompiledSteps:
  """The compiled programs of a run; each is compiled by its first call.

  Args:
    train_step, eval_step: pure functions of one batch, over the axis AXIS.
    make_train_batch: (key, step, shard of one step and device, resident data) -> batch.
    make_eval_batch: (shard of one batch and device, resident data) -> batch.
    num_seeds: if more than 1, programs map over a leading axis of seeds of the state and the order.
    steps_per_epoch: training steps in an epoch.
    has_varying_counts: whether the examples are resident and dispatches differ in their numbers of
      steps. One program then takes any number. Otherwise each number has its own program, because a
      loop of unknown length waits for the device before each step.
    remedies: for 'train' and 'evaluate', the config field and the advice for the error if the
      program needs more memory than there is; None skips the check.

  Attributes:
    compile_seconds: seconds spent compiling so far.
  """

  def __init__(
    self,
    train_step: TrainStep,
    eval_step: EvalStep,
    make_train_batch: Callable[[jax.Array, jax.Array, TrainShard, ResidentData], Batch],
    make_eval_batch: Callable[[EvalShard, ResidentData], Batch],
    num_seeds: int,
    steps_per_epoch: int,
    has_varying_counts: bool = False,
    remedies: Mapping[str, tuple[str, str]] | None = None,
  ):
    self._train_step, self._eval_step = train_step, eval_step
    self._make_train_batch, self._make_eval_batch = make_train_batch, make_eval_batch
    self._num_seeds = num_seeds
    self._steps_per_epoch = steps_per_epoch
    self._has_varying_counts = has_varying_counts
    self._remedies = remedies or {}
    self._compiled: dict[tuple[Hashable, ...], Callable] = {}
    self.compile_seconds = 0.0

  def train(
    self, num_steps: int, state: TrainState, shard: TrainShard, resident: ResidentData
  ) -> tuple[TrainState, jax.Array]:
    """Take `num_steps` steps, donating `state`; return the new state and the last step's loss."""
    if self._has_varying_counts:
      resident = resident._replace(num_steps=replicate(np.int32(num_steps)))
      program = self._over_seeds(self._take_any_steps)
      return self._call(("train",), program, True, state, shard, resident)
    return self._call(("train", num_steps), self._training(num_steps), True, state, shard, resident)

  def lower_train(
    self, num_steps: int, state: TrainState, shard: TrainShard, resident: ResidentData
  ) -> jax.stages.Lowered:
    """Return the lowered program that `train` compiles; `state` may hold shapes, not arrays."""
    return parallel(self._training(num_steps), donate=True).lower(state, shard, resident)

  def evaluate(
    self,
    variables: Variables,
    shards: Iterable[tuple[EvalShard, ResidentData]],
    tta: str = "",
  ) -> dict[str, np.ndarray]:
    """Return mean 'loss', 'accuracy' and 'top5' over the examples of all shards.

    Args:
      variables: the network's weights and statistics.
      shards: the examples, each exactly once.
      tta: a kind of test-time augmentation, '' for none.

    Returns:
      float64 scalars, or [seeds] with several seeds.
    """
    program = self._over_seeds(functools.partial(self._evaluate_batches, tta))
    parts = [
      self._call(("evaluate", tta), program, False, variables, shard, resident)
      for shard, resident in shards
    ]
    total = {
      name: functools.reduce(np.add, [np.asarray(part[name], np.float64) for part in parts])
      for name in parts[0]
    }
    return {
      "loss": total["loss"] / total["examples"],
      "accuracy": total["correct"] / total["examples"],
      "top5": total["top5"] / total["examples"],
    }

  def _call(
    self, name: tuple[Hashable, ...], program: Callable, donate: bool, *arguments: Any
  ) -> Any:
    if name in self._compiled:
      return self._compiled[name](*arguments)
    start = time.monotonic()
    self._compiled[name] = parallel(program, donate)
    # With several processes only a call knows the global shapes, so the memory is not checked.
    if jax.process_count() == 1 and (remedy := self._remedies.get(str(name[0]))):
      # The call reuses what is lowered and compiled here; a test checks that.
      stats = self._compiled[name].lower(*arguments).compile().memory_analysis()  # type: ignore[attr-defined]
      device_memory.check(stats, *remedy)
    result = self._compiled[name](*arguments)  # returns once compiled, before the work is done
    self.compile_seconds += time.monotonic() - start
    return result

  def _training(self, num_steps: int) -> Callable:
    return self._over_seeds(functools.partial(self._take_steps, num_steps))

  def _over_seeds(self, program: Callable) -> Callable:
    """Map over the seeds of the first argument and of the order; all seeds share the images."""
    if self._num_seeds == 1:
      return program
    axes_of_data: Any = ResidentData(None, None, order=0)  # type: ignore[arg-type]
    return jax.vmap(program, in_axes=(0, None, axes_of_data))

  def _take_steps(
    self, num_steps: int, state: TrainState, shard: TrainShard, resident: ResidentData
  ) -> tuple[TrainState, jax.Array]:
    if num_steps == 1:  # no loop, in which XLA:CPU runs convolutions 100 times slower
      first = jax.tree.map(lambda x: x[0], shard.examples)
      return self._take_step(state, shard._replace(examples=first), resident)
    state, losses = jax.lax.scan(
      lambda state, examples: self._take_step(state, shard._replace(examples=examples), resident),
      state,
      shard.examples,
      length=num_steps,
    )
    return state, losses[-1]

  def _take_any_steps(
    self, state: TrainState, shard: TrainShard, resident: ResidentData
  ) -> tuple[TrainState, jax.Array]:
    first = (state, jnp.zeros((), jnp.float32))
    assert resident.num_steps is not None
    return jax.lax.fori_loop(
      0, resident.num_steps, lambda _, last: self._take_step(last[0], shard, resident), first
    )

  def _take_step(
    self, state: TrainState, shard: TrainShard, resident: ResidentData
  ) -> tuple[TrainState, jax.Array]:
    step = state.step
    key = jax.random.wrap_key_data(state.key)
    batch = self._make_train_batch(key, step, shard, resident)
    state, metrics = self._train_step(state, batch)
    is_first = step % self._steps_per_epoch == 0
    sums = state.sums.add(metrics, step, is_first)
    return state.replace(sums=sums), metrics["loss"]

  def _evaluate_batches(
    self, tta: str, variables: Variables, shard: EvalShard, resident: ResidentData
  ) -> dict[str, jax.Array]:
    def evaluate_batch(batch_shard: EvalShard) -> dict[str, jax.Array]:
      batch = self._make_eval_batch(batch_shard, resident)
      return self._eval_step(variables, batch, tta)

    if len(shard.numbers) == 1:
      return evaluate_batch(jax.tree.map(lambda x: x[0], shard))
    return jax.tree.map(lambda x: jnp.sum(x, 0), jax.lax.map(evaluate_batch, shard))
