"""How much of a training step its convolutions take: their times alone against the complete step.

  python -m benchmarks.speed.conv_floor --model=simple_cnn --batch=128

The network's convolutions are found by tracing it (flops.py). Each is timed alone, as a compiled
program on random arrays: forward, gradient of the input (dx), gradient of the weights (dw). The
input of the first is the images, which need no gradient. The complete step (forward, backward,
update) takes a constant batch. Single convolutions and the step are measured in turn, `--rounds`
times, in one process; the numbers are medians of the rounds.

'layers' is the number of convolutions with equal shapes; the sum counts each. The sum is no strict
bound: inside the step XLA may choose another layout, or fuse neighbouring operations.
"""

import argparse
import functools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks import records
from cifar_jax.runtime import startup

if TYPE_CHECKING:
  import jax

  from benchmarks.speed import flops, ours

_DIRECTIONS = ("forward", "dx", "dw")


def main() -> None:
  parser = records.parser(__doc__, "conv_floor")
  parser.add_argument("--model", default="simple_cnn")
  parser.add_argument("--batch", type=int, default=128)
  options = records.parse(parser)
  if options.quick:
    options.batch = min(options.batch, 8)
  columns = ["kernel", "images", "stride", "layers", "forward ms", "dx ms", "dw ms", "GFLOP/s"]
  record = records.Record("conv_floor", options, columns)
  with records.images(options.data_dir, train=options.batch, test=10) as folder:
    measure(options, folder, record)


def measure(options: argparse.Namespace, folder: str, record: records.Record) -> None:
  """Time the convolutions and the step in turn, and record them."""
  from benchmarks.speed import flops, ours

  fields = {"dtype": options.dtype or "auto"}
  config = ours.make_config(options.model, folder, options.batch, fields)
  trainer = ours.Trainer(config, "constant")
  shape = (options.batch, *trainer.experiment.dataset.train.images.shape[1:])
  layers = flops.of_model(trainer.experiment.model, shape)
  convolutions = Counter(layer for layer in layers if isinstance(layer, flops.Convolution))
  first = next(iter(convolutions))

  blocks: dict[object, Callable[[], float]] = {"step": lambda: _time_step(trainer)}
  for layer in convolutions:
    for name, program in programs(layer, with_dx=layer is not first).items():
      blocks[layer, name] = functools.partial(time_calls, program, options.seconds / 10)
  for block in blocks.values():
    block()  # compiles
  seconds: dict[object, list[float]] = {key: [] for key in blocks}
  for _ in range(options.rounds):
    for key, block in blocks.items():
      seconds[key].append(block())
  _record_rows(convolutions, seconds, record)


def _record_rows(
  convolutions: "Counter[flops.Convolution]",
  seconds: dict[object, list[float]],
  record: records.Record,
) -> None:
  """Record a row for each shape of convolution, their sum, and the share of the step."""
  sums = dict.fromkeys(_DIRECTIONS, 0.0)
  for layer, count in convolutions.items():
    times = {n: statistics.median(seconds[layer, n]) for n in sums if (layer, n) in seconds}
    for name, value in times.items():
      sums[name] += count * value
    row = {
      "kernel": "×".join(map(str, layer.kernel)),
      "images": "×".join(map(str, layer.images[1:3])),
      "stride": layer.strides[0],
      "layers": count,
      "GFLOP/s": layer.flops * len(times) / sum(times.values()) / 1e9,
    }
    record.add(row | {f"{name} ms": 1000 * value for name, value in times.items()})
  total, step = sum(sums.values()), statistics.median(seconds["step"])
  row = {"kernel": "sum", "layers": sum(convolutions.values())}
  record.add(row | {f"{name} ms": 1000 * value for name, value in sums.items()})
  note = (
    f"complete step {1000 * step:.4g} ms, convolutions alone {1000 * total:.4g} ms: "
    f"{total / step:.0%} of it; {1000 * (step - total):.3g} ms for the rest"
  )
  record.add({"note": note}, step_seconds=seconds["step"], convolution_seconds=total)


def programs(layer: "flops.Convolution", with_dx: bool) -> "dict[str, Callable[[], jax.Array]]":
  """Return 'forward', 'dx' and 'dw' of a convolution, as functions without arguments."""
  import jax
  import jax.numpy as jnp

  from models.convolution import convolve

  conv = functools.partial(
    convolve,
    strides=(layer.strides[0], layer.strides[1]),
    padding=layer.padding,
  )
  dtype = jnp.dtype(layer.dtype)
  shapes = (layer.images, layer.kernel, layer.output)
  keys = jax.random.split(jax.random.key(0), 3)
  arrays = [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]
  functions = {
    "forward": lambda x, w, _: conv(x, w),
    "dx": lambda x, w, g: jax.vjp(conv, x, w)[1](g)[0],
    "dw": lambda x, w, g: jax.vjp(conv, x, w)[1](g)[1],
  }
  if not with_dx:
    del functions["dx"]
  return {name: functools.partial(jax.jit(f), *arrays) for name, f in functions.items()}


def time_calls(call: "Callable[[], jax.Array]", seconds: float) -> float:
  """Return the mean seconds of a call, over calls that together last at least `seconds`."""
  import jax

  count, start = 0, time.perf_counter()
  while not count or time.perf_counter() - start < seconds:
    for _ in range(4):  # queued together, as in a step
      out = call()
    jax.block_until_ready(out)
    count += 4
  return (time.perf_counter() - start) / count


def _time_step(trainer: "ours.Trainer") -> float:
  seconds, done = trainer.run(3)
  return seconds / done


if __name__ == "__main__":
  startup.restart_if_needed(sys.argv)  # as main.py does, because this process runs the programs
  main()
