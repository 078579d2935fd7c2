"""A training step and an epoch of five networks: ours against PyTorch and Keras.

  python -m benchmarks.speed.train_step --peer_python=.venv-peers/bin/python

All sides have the same network, parameters, batch, precision, optimizer (SGD with Nesterov
momentum) and loss. PyTorch is channels-last, in bfloat16 under autocast, eager and by
torch.compile; on a GPU only compiled. A step is a step on a batch that is already on the device.
An epoch is `epoch examples` images, shuffled, cropped by up to 4 pixels, flipped and normalised:
ours and PyTorch's from the device's memory in whole batches, Keras' by tf.data. Nothing is
evaluated.

Each side is a process and warms up until it is compiled; then all sides are measured in turn,
`--rounds` times. The numbers are medians. A ratio is the median, with lowest and highest, of the
ratios of single rounds, and above 1 where ours is slower.

`--limit_to=avx2` sets the variables that keep kernels, XLA, PyTorch and oneDNN to AVX2.
"""

import argparse
import os
from typing import NamedTuple

from benchmarks import records, timing
from benchmarks.peers.common import MODELS
from cifar_jax.types import Row

PEERS = ("torch", "torch_compiled", "keras_jax", "keras_tensorflow")
# Variables that limit all sides to older instructions, by the limit's name.
_LIMITS = {
  "avx2": {
    "CIFAR_JAX_KERNELS": "avx2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",  # startup.py adds its flags
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
  }
}
_NOT_MEASURED = timing.Timing([], "not measured: the benchmark ended before")


class Sizes(NamedTuple):
  """The settings that a model is measured with: batch, examples in an epoch, and dtype."""

  batch: int
  examples: int
  dtype: str


def main() -> None:
  parser = records.parser(__doc__, "train_step")
  records.add_peer_option(parser)
  records.add_names_option(parser, "--models", MODELS)
  records.add_names_option(parser, "--peers", PEERS)
  parser.add_argument(
    "--batch", type=int, help="default: 512 on a GPU; 128 on CPU, wrn28_10 16, airbench94 1,024"
  )
  parser.add_argument("--epoch_examples", type=int, help="default: 50,000, on CPU 10 batches")
  parser.add_argument("--epoch_rounds", type=int, default=3, help="0: no epochs")
  parser.add_argument("--limit_to", choices=_LIMITS, help="newest instructions that sides may use")
  options = records.parse(parser)
  os.environ.update(_LIMITS.get(options.limit_to, {}))
  columns = ["model", "side", "batch", "step ms", "ours / it", "images/s", "epoch s"]
  record = records.Record("train_step", options, [*columns, "epoch examples", "ours / it, epoch"])
  with records.images(options.data_dir) as folder:
    for model in options.models:
      measure(model, options, folder, record)


def choose_sizes(model: str, options: argparse.Namespace) -> Sizes:
  """Return the sizes that the options or the device determine."""
  gpu = records.on_gpu()
  if options.batch:
    batch = options.batch
  elif gpu:
    batch = 512
  elif options.quick:
    batch = 2 if model == "wrn28_10" else 8
  else:
    batch = {"wrn28_10": 16, "airbench94": 1024}.get(model, 128)
  num_batches = 2 if options.quick else 10
  examples = options.epoch_examples or (50_000 if gpu else batch * num_batches)
  return Sizes(batch, examples, records.choose_dtype(options))


def measure(model: str, options: argparse.Namespace, folder: str, record: records.Record) -> None:
  """Measure a model on all sides, and record a row for each, even after an interruption."""
  sizes = choose_sizes(model, options)
  inputs = "constant,augmented" if options.epoch_rounds else "constant"
  arguments = [f"--batch={sizes.batch}", f"--inputs={inputs}", f"--dtype={sizes.dtype}"]
  epoch_examples = f"--epoch_examples={sizes.examples}"
  sides = [timing.ours("ours", model, options, folder, *arguments, epoch_examples)]
  sides += [
    timing.peer(name, model, options, *arguments, f"--examples={sizes.examples}")
    for name in options.peers
  ]
  steps = [timing.Cell(side, "constant") for side in sides]
  epochs = [timing.Cell(side, "augmented", epoch=True) for side in sides]
  timings = dict.fromkeys([*steps, *epochs], _NOT_MEASURED)
  try:
    with timing.running(sides, options.limit) as problems:
      timings |= timing.measure(steps, problems, options.rounds, options.seconds, options.limit)
      timings |= timing.measure(epochs, problems, options.epoch_rounds, 0, options.limit)
  finally:
    ours = sides[0].description
    for side, step, epoch in zip(sides, steps, epochs, strict=True):
      record.describe(side.name, side.description)
      if side.description and ours and side.description["parameters"] != ours["parameters"]:
        problem = timing.Timing([], "failed: the number of parameters differs from ours")
        timings[step] = timings[epoch] = problem
      row = _row(side, timings[step], timings[epoch], sizes)
      if side is not sides[0]:
        row["ours / it"] = timing.ratio(timings[steps[0]], timings[step])
        row["ours / it, epoch"] = timing.ratio(timings[epochs[0]], timings[epoch])
      record.add(
        {"model": model} | row,
        dtype=sizes.dtype,
        step_seconds=timings[step].seconds,
        epoch_seconds=timings[epoch].seconds,
        parameters=side.description.get("parameters"),
        seconds_to_warm_up=side.description.get("seconds_to_warm_up"),
      )


def _row(side: timing.Side, step: timing.Timing, epoch: timing.Timing, sizes: Sizes) -> Row:
  return {
    "side": side.name,
    "batch": sizes.batch,
    "step ms": step.milliseconds,
    "images/s": sizes.batch / step.median if step.median else None,
    "epoch s": epoch.median,
    "epoch examples": sizes.examples // sizes.batch * sizes.batch,
    "note": step.problem or epoch.problem,
  }


if __name__ == "__main__":
  main()
