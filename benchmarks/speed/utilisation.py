"""(e) Throughput, and how much of the device's matrix speed training makes use of.

  python -m benchmarks.speed.utilisation --models=resnet18,wrn28_10 --batch=512

The peak is measured, in the same process before and after the steps: products of two square
matrices of `--matmul` rows in the model's dtype, the best block. Operations of a step are counted
from the network's shapes (benchmarks/speed/flops.py): convolutions and dense layers, forward and
backward. Utilisation is operations a second on a constant batch, divided by the peak.
"""

import sys

from benchmarks import records, timing
from benchmarks.peers.common import MODELS


def main() -> None:
  records.end_with_signals()
  parser = records.parser(__doc__, "utilisation")
  parser.add_argument("--models", default=",".join(MODELS))
  parser.add_argument("--batch", type=int, help="default: 512 on a GPU, 32 on CPU")
  parser.add_argument("--matmul", type=int, help="default: 8192 on a GPU, 2048 on CPU")
  options = records.parse(parser)
  gpu = records.on_gpu()
  batch = options.batch or (512 if gpu else 2 if options.quick else 32)
  size = options.matmul or (8192 if gpu else 256 if options.quick else 2048)
  columns = ["model", "batch", "dtype", "step ms", "images/s", "GFLOP/image", "TFLOP/s"]
  record = records.Record("utilisation", options, [*columns, "peak TFLOP/s", "used %"])
  with records.images(options.data_dir) as folder:
    for model in options.models.split(","):
      side = timing.ours(model, model, options, folder, f"--batch={batch}")
      one_model(side, model, batch, size, options, record)


def one_model(side, model, batch, size, options, record: records.Record) -> None:
  cell = timing.Cell(side, "constant")
  request = {"matmul": size, "seconds": options.seconds}
  peaks = []
  with timing.running([side], options.limit) as problems:
    if not problems:
      peaks.append(side.ask(request, options.limit)["flops_per_second"])
    found = timing.measure([cell], problems, options.rounds, options.seconds, options.limit)[cell]
    if found.seconds:
      peaks.append(side.ask(request, options.limit)["flops_per_second"])
  record.describe(side)
  row = {"model": model, "batch": batch, "note": found.problem}
  if found.seconds:
    each = side.description["training_flops_per_example"]
    speed = each * batch / found.median
    row |= {
      "dtype": side.description["dtype"],
      "step ms": found.milliseconds,
      "images/s": batch / found.median,
      "GFLOP/image": each / 1e9,
      "TFLOP/s": speed / 1e12,
      "peak TFLOP/s": max(peaks) / 1e12,
      "used %": 100 * speed / max(peaks),
    }
  record.add(row, step_seconds=found.seconds, peaks=peaks)


if __name__ == "__main__":
  sys.exit(main())
