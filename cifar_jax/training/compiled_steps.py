"""How steps run on the devices: batches made and steps taken inside compiled, parallel programs.

`parallel` is the one place that spreads work over devices.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import input_pipeline

PyTree = Any
AXIS = "batch"  # the axis of data parallelism: all devices of all processes


def parallel(program: Callable, donate: bool) -> Callable:
  """Spreads `program(replicated, shard, replicated) -> replicated` over all devices.

  `shard` has a leading axis of local devices; the rest is the same on every device, before and
  after. With `donate` the first argument's memory is reused.
  """
  return jax.pmap(
    program,
    axis_name=AXIS,
    in_axes=(None, 0, None),
    out_axes=None,
    donate_argnums=(0,) if donate else (),
  )


def replicate(tree: PyTree) -> PyTree:
  """Copies a tree of arrays to every local device, as `parallel` takes and returns it."""
  mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


class Programs:
  """The compiled programs of a run; each is compiled when first needed, and only once.

  Args:
    config: the resolved config.
    train_step: pure (state, batch) -> (state, metrics), over the axis AXIS.
    eval_step: pure (variables, batch, kind of test-time augmentation) -> sums, likewise.
    preprocess: the pair that input_pipeline.make_preprocess returns.
    source: where shards come from.
    steps_per_epoch: training steps in an epoch.
    evaluation_batches: batches in one dispatch of evaluation.
    steps_at_once: steps that a caller should take in one dispatch.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    train_step: Callable,
    eval_step: Callable,
    preprocess: tuple[Callable, Callable],
    source: Any,
    steps_per_epoch: int,
    evaluation_batches: int,
    steps_at_once: int,
  ):
    self._config = config
    self._train_step, self._eval_step = train_step, eval_step
    self._preprocess_train, self._preprocess_eval = preprocess
    self._steps_per_epoch = steps_per_epoch
    self._evaluation_batches = evaluation_batches
    self.source = source
    self.steps_at_once = steps_at_once
    self._programs: dict[tuple[str, int | str], Callable] = {}
    self.compile_seconds = 0.0

  def train(self, steps: int, state: PyTree, shard: dict, data: dict) -> tuple[PyTree, jax.Array]:
    """Takes `steps` steps; returns the state and the last step's loss. Donates `state`."""
    return self._run(("train", steps), self._training(steps), True, state, shard, data)

  def lower_train(self, steps: int, state: PyTree, shard: dict, data: dict) -> jax.stages.Lowered:
    """What `train` compiles, before it is compiled; of `state` shapes are enough."""
    return parallel(self._training(steps), donate=True).lower(state, shard, data)

  def evaluate(
    self, variables: PyTree, examples: np.ndarray, tta: str = ""
  ) -> dict[str, np.ndarray]:
    """Mean 'loss', 'accuracy' and 'top5' over the examples, each counted once.

    tta: a kind of test-time augmentation, '' for none.
    Returns float64 scalars, or [seeds] with several seeds.
    """
    program = self._over_seeds(functools.partial(self._evaluate_batches, tta))
    shards = self.source.evaluate(examples, self._config.eval_batch_size, self._evaluation_batches)
    parts = [
      self._run(("evaluate", tta), program, False, variables, shard, data) for shard, data in shards
    ]
    total = {name: sum(np.asarray(p[name], np.float64) for p in parts) for name in parts[0]}
    return {
      "loss": total["loss"] / total["examples"],
      "accuracy": total["correct"] / total["examples"],
      "top5": total["top5"] / total["examples"],
    }

  def _run(
    self, name: tuple[str, int | str], program: Callable, donate: bool, *arguments: Any
  ) -> Any:
    if name in self._programs:
      return self._programs[name](*arguments)
    # Not lowered and compiled apart: over several processes only a call knows the global shapes.
    start = time.monotonic()
    self._programs[name] = parallel(program, donate)
    out = self._programs[name](*arguments)  # returns when compiled; the work itself is not awaited
    self.compile_seconds += time.monotonic() - start
    return out

  def _training(self, steps: int) -> Callable:
    return self._over_seeds(lambda *arguments: self._take_steps(steps, *arguments))

  def _over_seeds(self, program: Callable) -> Callable:
    """Maps over the seeds of the first argument and of the order; the images are shared."""
    if self._config.num_seeds == 1:
      return program

    def mapped(first: PyTree, shard: dict, data: dict) -> Any:
      axes = {name: 0 if name == "order" else None for name in data}
      return jax.vmap(program, in_axes=(0, None, axes))(first, shard, data)

    return mapped

  def _take_steps(
    self, steps: int, state: PyTree, shard: dict, data: dict
  ) -> tuple[PyTree, jax.Array]:
    names = ("example", "image", "label")
    streamed = {name: shard[name] for name in names if name in shard}
    if steps == 1:  # not a loop of one: XLA:CPU runs convolutions inside a loop 100 times slower
      return self._take_step(state, shard | jax.tree.map(lambda x: x[0], streamed), data)
    state, losses = jax.lax.scan(
      lambda state, batch: self._take_step(state, shard | batch, data),
      state,
      streamed,
      length=steps,
    )
    return state, losses[-1]

  def _take_step(self, state: PyTree, shard: dict, data: dict) -> tuple[PyTree, jax.Array]:
    step = state.step
    offset = step % self._steps_per_epoch
    start = offset * self._config.batch_size
    found = input_pipeline.examples_of(shard, data, start)
    key = jax.random.wrap_key_data(state.key)
    batch = self._preprocess_train(key, step, shard["rows"], *found, AXIS)
    state, metrics = self._train_step(state, batch)
    sums = state.sums.add(metrics, step, first=offset == 0)
    return state.replace(sums=sums), metrics["loss"]

  def _evaluate_batches(self, tta: str, variables: PyTree, shard: dict, data: dict) -> dict:
    def one_batch(batch: dict) -> dict:
      _, images, labels = input_pipeline.examples_of(batch, data)
      image = self._preprocess_eval(images)
      batch = {"image": image, "label": labels, "mask": batch["mask"]}
      return self._eval_step(variables, batch, tta)

    if self._evaluation_batches == 1:
      return one_batch(jax.tree.map(lambda x: x[0], shard))
    return jax.tree.map(lambda x: jnp.sum(x, 0), jax.lax.map(one_batch, shard))
