"""Our side of a speed benchmark: the project's own programs, timed in a process of their own.

  python -m benchmarks.speed.ours --model=resnet18 --data_dir=FOLDER

prints one line of JSON when everything is compiled, and then answers every line of JSON on standard
input, {"input": ..., "steps": n}, with the seconds that n training steps took (rounded up to whole
dispatches, and said so); 0 steps are an epoch. The clock stops when the state is on the device.

Inputs, each of which is `Experiment` and `CompiledSteps.train` as main.py uses them:

  constant    one normalised float batch that is on the device already: the step alone
  plain       the data set on the device: shuffled, gathered, normalised in the step
  augmented   the same with random_crop(padding=4) | random_flip()

Every model is trained with SGD, Nesterov momentum 0.9, at a rate so small that the numbers stay as
they are, on the cross-entropy without penalties; peers do the same.
"""

import argparse
import importlib.metadata
import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import input_pipeline
from benchmarks.speed import flops
from cifar_jax.data import sources
from cifar_jax.runs import results
from cifar_jax.training import compiled_steps, steps
from cifar_jax.training.compiled_steps import CompiledSteps
from cifar_jax.types import Batch, ResidentData, StreamedExamples, TrainShard
from configs import default
from experiment import Experiment, resolve

INPUTS = {"constant": "", "plain": "", "augmented": "random_crop(padding=4) | random_flip()"}
_IN_FLIGHT = 4  # dispatches that may be queued, as in train.py
_CONSTANT_STEPS = 25  # in a dispatch on accelerators: enough to hide it, few enough to stop soon


def make_config(
  model: str, data_dir: str, batch: int, fields: dict[str, Any] | None = None
) -> ml_collections.ConfigDict:
  """The config of every measurement; `fields` are changed by dotted name."""
  config = default.get_config()
  config.data.name = "cifar10"
  config.data.dir = data_dir
  config.data.validation = 0
  config.select.monitor = ""
  config.num_epochs = 1_000_000
  config.batch_size = batch
  config.model.name = model
  config.optimizer.learning_rate = 1e-4
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  for name, value in (fields or {}).items():
    *parents, leaf = name.split(".")
    section = config
    for parent in parents:
      section = section[parent]
    section[leaf] = value
  return config


class Trainer:
  """Training on one kind of input.

  Args:
    config: as `make_config` returns it.
    kind: one of `INPUTS`.
  """

  def __init__(self, config: ml_collections.ConfigDict, kind: str):
    config = resolve(config)
    config.augment = INPUTS[kind]
    self.experiment = Experiment(config)
    self.state = compiled_steps.replicate(self.experiment.init())
    if kind == "constant":
      self._compiled, self._shards = _constant_batch(self.experiment)
    else:
      self._compiled = self.experiment.compile_steps()
      self._shards = self._epochs()

  def run(self, count: int) -> tuple[float, int]:
    """Take at least `count` steps, an epoch if that is 0; return seconds and steps."""
    count = count or self.experiment.steps_per_epoch
    queue: deque[jax.Array] = deque()
    start, num_done = time.perf_counter(), 0
    while num_done < count:
      num_steps, shard, resident = next(self._shards)
      self.state, loss = self._compiled.train(num_steps, self.state, shard, resident)
      num_done += num_steps
      queue.append(loss)
      if len(queue) > _IN_FLIGHT:
        queue.popleft().block_until_ready()
    jax.block_until_ready(self.state)
    return time.perf_counter() - start, num_done

  def _epochs(self) -> Iterator[tuple[int, TrainShard, ResidentData]]:
    experiment = self.experiment
    size = min(experiment.steps_per_dispatch, experiment.steps_per_epoch)
    # Full dispatches only, so that one program is compiled; the rest of an epoch is left out.
    dispatches = [size] * (experiment.steps_per_epoch // size)
    for epoch in itertools.count():
      shards = experiment.train_shards(epoch, dispatches)
      for num_steps, (shard, resident) in zip(dispatches, shards, strict=True):
        yield num_steps, shard, resident


def _constant_batch(
  experiment: Experiment,
) -> tuple[CompiledSteps, Iterator[tuple[int, TrainShard, ResidentData]]]:
  """Return steps that train on one batch without preprocessing, and that batch per dispatch."""
  config, num_classes = experiment.config, len(experiment.dataset.class_names)
  shape = experiment.dataset.train.images.shape[1:]
  on_cpu = jax.default_backend() == "cpu"
  num_steps = config.steps_per_dispatch or (1 if on_cpu else _CONSTANT_STEPS)

  def make_batch(
    key: jax.Array, step: jax.Array, shard: TrainShard, resident: ResidentData
  ) -> Batch:
    del key, step, resident
    assert shard.examples is not None
    _, images, labels = shard.examples
    return {"image": images, "target": jax.nn.one_hot(labels, num_classes), "label": labels}

  rng = np.random.default_rng(0)
  images = rng.normal(size=(config.batch_size, *shape)).astype(np.float32)
  labels = rng.integers(0, num_classes, config.batch_size).astype(np.int32)
  rows = sources.global_rows(config.batch_size)
  repeat = jax.pmap(
    lambda batch: jnp.broadcast_to(batch[None], (num_steps, *batch.shape)),
    axis_name=compiled_steps.AXIS,
  )
  examples = StreamedExamples(*(repeat(array) for array in (rows, images[rows], labels[rows])))
  compiled = CompiledSteps(
    experiment.train_step(experiment.model),
    steps.make_eval_step(experiment.model, compiled_steps.AXIS),
    make_batch,
    input_pipeline.make_eval_batch(experiment.preprocess),
    config.num_seeds,
    experiment.steps_per_epoch,
  )
  return compiled, itertools.repeat((num_steps, TrainShard(rows, examples), ResidentData()))


def describe(experiment: Experiment, seconds: float) -> dict[str, Any]:
  """What the first line says."""
  config = experiment.config
  forward = flops.of_model(experiment.model, (1, *experiment.dataset.train.images.shape[1:]))
  return {
    "parameters": experiment.parameters,
    "batch": config.batch_size,
    "steps_per_epoch": experiment.steps_per_epoch,
    "dtype": config.dtype,
    "training_flops_per_example": flops.of_training(forward),
    "seconds_to_warm_up": seconds,
    "device": results.device(),
    "versions": {n: importlib.metadata.version(n) for n in ("jax", "jaxlib", "flax", "optax")},
  }


def matmul_peak(size: int, dtype: str, seconds: float) -> float:
  """FLOP/s of products of two [size, size] matrices, the best of several blocks."""
  a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype)) / size**0.5

  @jax.jit
  def products(x: jax.Array) -> jax.Array:
    for _ in range(8):
      x = x @ a
    return x

  products(a).block_until_ready()
  best, end = 0.0, time.perf_counter() + seconds
  while time.perf_counter() < end or not best:
    start = time.perf_counter()
    products(a).block_until_ready()
    best = max(best, 8 * 2 * size**3 / (time.perf_counter() - start))
  return best


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--model", required=True)
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--dtype", default="auto")
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument("--epoch_examples", type=int, default=0, help="0 means all")
  parser.add_argument("--inputs", default="constant", help="separated by commas; compiled at once")
  parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON")
  options = parser.parse_args()
  start = time.monotonic()
  fields = {"dtype": options.dtype, "num_seeds": options.seeds}
  fields["data.train_examples"] = options.epoch_examples
  fields |= {name: json.loads(value) for name, value in (s.split("=", 1) for s in options.set)}
  config = make_config(options.model, options.data_dir, options.batch, fields)
  trainers = {kind: Trainer(config, kind) for kind in options.inputs.split(",")}
  for trainer in trainers.values():
    trainer.run(1)
  first = next(iter(trainers.values())).experiment
  answer(describe(first, time.monotonic() - start))
  for line in sys.stdin:
    request = json.loads(line)
    if "matmul" in request:
      found = matmul_peak(request["matmul"], first.config.dtype, request["seconds"])
      answer({"flops_per_second": found})
      continue
    seconds, done = trainers[request["input"]].run(request["steps"])
    answer({"seconds": seconds, "steps": done})


def answer(found: dict[str, Any]) -> None:
  print(json.dumps(found), flush=True)


if __name__ == "__main__":
  main()
