"""Our side of a speed benchmark: the compiled steps of main.py, timed in a process.

  python -m benchmarks.speed.ours --model=resnet18 --data_dir=FOLDER

prints one line of JSON when everything is compiled. It then answers each line of JSON on standard
input, {"input": ..., "steps": n}, with the seconds that n training steps took and the number of
steps, which is rounded up to complete dispatches; n = 0 stands for an epoch. The time includes the
wait until the state is on the device. {"matmul": size, "seconds": s} asks for `matmul_peak`.

Inputs, each of which is `Experiment` and `CompiledSteps.train` as main.py uses them:

  constant    one normalised float batch that is already on the device: the step alone
  plain       the dataset on the device: shuffled, gathered and normalised in the step
  augmented   the same with random_crop(padding=4) | random_flip()
  predict     no training: logits of uint8 images, as --mode=evaluate and predict compute them

Every model trains with SGD, Nesterov momentum 0.9, at a rate that hardly changes the weights, on
the cross-entropy without penalties; peers do the same.
"""

import argparse
import concurrent.futures
import importlib.metadata
import itertools
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

import input_pipeline
from analysis.run import BATCH_SIZE, Run
from benchmarks.speed import flops
from cifar_jax.data import sources
from cifar_jax.kernels import convolution
from cifar_jax.runs import results
from cifar_jax.training import compiled_steps, steps
from cifar_jax.training.compiled_steps import CompiledSteps
from cifar_jax.types import Batch, ResidentData, Row, StreamedExamples, TrainShard
from configs import default
from experiment import Experiment, resolve
from tuning.trials import set_field

INPUTS = {"constant": "", "plain": "", "augmented": "random_crop(padding=4) | random_flip()"}
_MAX_QUEUED = 4  # dispatches, as in train.py
_CONSTANT_STEPS = 25  # per dispatch on accelerators: hides its cost, but still ends soon


def make_config(
  model: str, data_dir: str, batch: int, fields: dict[str, Any] | None = None
) -> ml_collections.ConfigDict:
  """Return the config of every measurement.

  Args:
    fields: further fields by full name.
  """
  config = default.get_config()
  config.data.name = "cifar10"
  config.data.dir = data_dir
  config.data.validation = 0
  config.select.monitor = ""
  config.num_epochs = 10_000
  config.batch_size = batch
  config.model.name = model
  config.optimizer.learning_rate = 1e-4
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  for name, value in (fields or {}).items():
    set_field(config, name, value)
  return config


class Trainer:
  """Trains on one kind of input.

  Args:
    config: see `make_config`.
    input_kind: one of `INPUTS`.
  """

  def __init__(self, config: ml_collections.ConfigDict, input_kind: str):
    config = resolve(config)
    config.augment = INPUTS[input_kind]
    self.experiment = Experiment(config)
    self.state = compiled_steps.replicate(self.experiment.init())
    if input_kind == "constant":
      self._compiled, self._shards = _constant_batch(self.experiment)
    else:
      self._compiled = self.experiment.compile_steps()
      self._shards = self._epochs()

  def run(self, count: int) -> tuple[float, int]:
    """Take at least `count` steps, or an epoch if `count` is 0; return seconds and steps."""
    count = count or self.experiment.steps_per_epoch
    queue: deque[jax.Array] = deque()
    start, num_done = time.perf_counter(), 0
    while num_done < count:
      num_steps, shard, resident = next(self._shards)
      self.state, loss = self._compiled.train(num_steps, self.state, shard, resident)
      num_done += num_steps
      queue.append(loss)
      if len(queue) > _MAX_QUEUED:
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


class Predictor:
  """Predicts batches of random images with untrained weights.

  Args:
    config: see `make_config`.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    self.experiment = Experiment(resolve(config))
    data, config = self.experiment.dataset, self.experiment.config
    shape = data.train.images.shape[1:]
    description = {"class_names": data.class_names, "image_shape": shape}
    description |= {"mean": data.mean, "std": data.std}
    variables, model = self.experiment.init().variables(), self.experiment.model
    model = model.clone(axis_name=None)
    self._run = Run(epath.Path(), config, description, config.seed, 0, variables, model)
    self._images = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, *shape), np.uint8)

  def run(self, count: int) -> tuple[float, int]:
    """Predict `count` batches; return seconds and batches."""
    start = time.perf_counter()
    for _ in range(count):
      self._run.logits(self._images)
    return time.perf_counter() - start, count


def _constant_batch(
  experiment: Experiment,
) -> tuple[CompiledSteps, Iterator[tuple[int, TrainShard, ResidentData]]]:
  """Return steps that neither gather nor augment a batch, and one batch for all dispatches."""
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


def describe(experiment: Experiment, warm_up_seconds: float) -> Row:
  """Return the content of the first line."""
  config = experiment.config
  forward = flops.of_model(experiment.model, (1, *experiment.dataset.train.images.shape[1:]))
  return {
    "parameters": experiment.parameters,
    "batch": config.batch_size,
    "steps_per_epoch": experiment.steps_per_epoch,
    "dtype": config.dtype,
    "training_flops_per_example": flops.of_training(forward),
    "seconds_to_warm_up": warm_up_seconds,
    "device": results.device(config.dtype),
    "versions": {n: importlib.metadata.version(n) for n in ("jax", "jaxlib", "flax", "optax")},
  }


def matmul_peak(size: int, dtype: str, seconds: float) -> float:
  """Return the FLOP/s of products of two [size, size] matrices, the best of several blocks.

  On CPU, return the kernels' peak with one thread per core of the process if that is higher, as
  XLA's matrix products are slower.
  """
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
  if jax.default_backend() != "cpu":
    return best
  threads = len(os.sched_getaffinity(0))
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    peaks = pool.map(convolution.peak, [jnp.dtype(dtype)] * threads)
    return max(best, sum(peaks))


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", required=True)
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--dtype", default="auto")
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument("--epoch_examples", type=int, default=0, help="0 means all")
  parser.add_argument("--inputs", default="constant", help="kinds of input to compile")
  parser.add_argument(
    "--set", action="append", default=[], metavar="FIELD=JSON", help="a field of the config"
  )
  options = parser.parse_args()
  start = time.monotonic()
  fields = {"dtype": options.dtype, "num_seeds": options.seeds}
  fields["data.train_examples"] = options.epoch_examples
  fields |= {name: json.loads(value) for name, value in (s.split("=", 1) for s in options.set)}
  config = make_config(options.model, options.data_dir, options.batch, fields)
  runners = {
    kind: Predictor(config) if kind == "predict" else Trainer(config, kind)
    for kind in options.inputs.split(",")
  }
  for runner in runners.values():
    runner.run(1)
  experiment = next(iter(runners.values())).experiment
  _answer(describe(experiment, time.monotonic() - start))
  for line in sys.stdin:
    request = json.loads(line)
    if "matmul" in request:
      peak = matmul_peak(request["matmul"], experiment.config.dtype, request["seconds"])
      _answer({"flops_per_second": peak})
      continue
    seconds, num_done = runners[request["input"]].run(request["steps"])
    _answer({"seconds": seconds, "steps": num_done})


def _answer(content: Row) -> None:
  print(json.dumps(content), flush=True)


if __name__ == "__main__":
  main()
