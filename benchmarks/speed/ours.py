"""Our side of a speed benchmark: the project's own programs, timed in a process of their own.

  python -m benchmarks.speed.ours --model=resnet18 --data_dir=FOLDER

prints one line of JSON when everything is compiled, and then answers every line of JSON on standard
input, {"input": ..., "steps": n}, with the seconds that n training steps took (rounded up to whole
dispatches, and said so); 0 steps are an epoch. The clock stops when the state is on the device.

Inputs, each of which is `Experiment` and `Programs.train` as main.py uses them:

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
from cifar_jax.runs import results
from cifar_jax.training import compiled_steps, steps
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
      self._programs, self._shards = _constant(self.experiment)
    else:
      self._programs = self.experiment.compile_steps(self.state)
      self._shards = self._epochs()

  def run(self, count: int) -> tuple[float, int]:
    """Takes at least `count` steps, an epoch if that is 0; returns seconds and steps."""
    count = count or self.experiment.steps_per_epoch
    queue: deque[jax.Array] = deque()
    start, done = time.perf_counter(), 0
    while done < count:
      taken, shard, data = next(self._shards)
      self.state, loss = self._programs.train(taken, self.state, shard, data)
      done += taken
      queue.append(loss)
      if len(queue) > _IN_FLIGHT:
        queue.popleft().block_until_ready()
    jax.block_until_ready(self.state)
    return time.perf_counter() - start, done

  def _epochs(self) -> Iterator[tuple[int, dict, dict]]:
    experiment, at_once = self.experiment, self._programs.steps_at_once
    at_once = min(at_once, experiment.steps_per_epoch)
    # Whole dispatches only, so that there is one program: the rest of an epoch is left out.
    dispatches = [at_once] * (experiment.steps_per_epoch // at_once)
    source, batch_size = self._programs.source, experiment.config.batch_size
    for epoch in itertools.count():
      shards = source.train(experiment.order(epoch), batch_size, 0, dispatches)
      for taken, (shard, data) in zip(dispatches, shards, strict=True):
        yield taken, shard, data


def _constant(
  experiment: Experiment,
) -> tuple[compiled_steps.Programs, Iterator[tuple[int, dict, dict]]]:
  """Programs that take their steps on one batch, and that batch for each dispatch."""
  config, classes = experiment.config, len(experiment.dataset.class_names)
  shape = experiment.dataset.train.images.shape[1:]
  on_cpu = jax.default_backend() == "cpu"
  at_once = config.steps_per_dispatch or (1 if on_cpu else _CONSTANT_STEPS)

  def as_it_is(key, step, rows, examples, images, labels, axis_name):
    del key, step, rows, examples, axis_name
    return {"image": images, "target": jax.nn.one_hot(labels, classes), "label": labels}

  rng = np.random.default_rng(0)
  images = rng.normal(size=(config.batch_size, *shape)).astype(np.float32)
  labels = rng.integers(0, classes, config.batch_size).astype(np.int32)
  rows = input_pipeline.global_rows(config.batch_size)

  place = jax.pmap(
    lambda batch: jnp.broadcast_to(batch[None], (at_once, *batch.shape)),
    axis_name=compiled_steps.AXIS,
  )
  batch = {"example": rows, "image": images[rows], "label": labels[rows]}
  shard = {"rows": rows} | {name: place(array) for name, array in batch.items()}
  made = compiled_steps.Programs(
    config,
    experiment.train_step(experiment.model),
    steps.make_eval_step(experiment.model, compiled_steps.AXIS),
    (as_it_is, None),
    None,
    experiment.steps_per_epoch,
    evaluation_batches=1,
    steps_at_once=at_once,
  )
  return made, itertools.repeat((at_once, shard, {}))


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
