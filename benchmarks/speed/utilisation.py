"""Throughput, and the share of the device's matrix speed that training uses.

  python -m benchmarks.speed.utilisation --models=resnet18,wrn28_10 --batch=512

The peak is measured in the same process before and after the steps: products of two square matrices
of `--matmul` rows in the model's dtype, the best block; on CPU the kernels' multiplications of data
in the first cache, on all cores at once, if that is more. The operations of a step are counted from
the network's shapes (flops.py): convolutions and dense layers, forward and backward. Utilisation is
the operations per second on a constant batch, divided by the peak.
"""

import argparse

from benchmarks import records, timing
from benchmarks.peers.common import MODELS


def main() -> None:
  parser = records.parser(__doc__, "utilisation")
  records.add_names_option(parser, "--models", MODELS)
  parser.add_argument("--batch", type=int, help="default: 512 on a GPU, 32 on CPU")
  parser.add_argument("--matmul", type=int, help="default: 8192 on a GPU, 2048 on CPU")
  options = records.parse(parser)
  gpu = records.on_gpu()
  options.batch = options.batch or (512 if gpu else 2 if options.quick else 32)
  options.matmul = options.matmul or (8192 if gpu else 256 if options.quick else 2048)
  columns = ["model", "batch", "dtype", "step ms", "images/s", "GFLOP/image", "TFLOP/s"]
  record = records.Record("utilisation", options, [*columns, "peak TFLOP/s", "used %"])
  with records.images(options.data_dir) as folder:
    for model in options.models:
      side = timing.ours(model, model, options, folder, f"--batch={options.batch}")
      measure(side, options, record)


def measure(side: timing.Side, options: argparse.Namespace, record: records.Record) -> None:
  """Measure a model, and record a row.

  Args:
    side: our side, whose name is the model's.
  """
  cell = timing.Cell(side, "constant")
  request = {"matmul": options.matmul, "seconds": options.seconds}
  peaks = []
  with timing.running([side], options.limit) as problems:
    if not problems:
      peaks.append(side.ask(request, options.limit)["flops_per_second"])
    timings = timing.measure([cell], problems, options.rounds, options.seconds, options.limit)
    median = timings[cell].median
    if median is not None:
      peaks.append(side.ask(request, options.limit)["flops_per_second"])
  record.describe(side.name, side.description)
  row = {"model": side.name, "batch": options.batch, "note": timings[cell].problem}
  if median is not None:
    flops_per_image = side.description["training_flops_per_example"]
    speed = flops_per_image * options.batch / median
    row |= {
      "dtype": side.description["dtype"],
      "step ms": timings[cell].milliseconds,
      "images/s": options.batch / median,
      "GFLOP/image": flops_per_image / 1e9,
      "TFLOP/s": speed / 1e12,
      "peak TFLOP/s": max(peaks) / 1e12,
      "used %": 100 * speed / max(peaks),
    }
  record.add(row, step_seconds=timings[cell].seconds, peaks=peaks)


if __name__ == "__main__":
  main()
