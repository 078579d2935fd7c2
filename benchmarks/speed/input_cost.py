"""(b) What the input pipeline costs: a step with real input against one on a constant batch.

  python -m benchmarks.speed.input_cost --models=simple_cnn,resnet18

'constant' takes every step on one normalised batch that is on the device already. 'plain' shuffles
the images, gathers a batch and normalises it; 'augmented' crops and flips besides. The cost is
(seconds with input - seconds constant) / seconds constant, round by round, in per cent; a spread
that reaches below 0 is the measurement's noise. All three are main.py's own programs, in one
process, measured in turn.
"""

import statistics
import sys

from benchmarks import records, timing

INPUTS = ("constant", "plain", "augmented")


def main() -> None:
  records.end_with_signals()
  parser = records.parser(__doc__, "input_cost")
  parser.add_argument("--models", default="simple_cnn,resnet18")
  parser.add_argument("--batch", type=int, help="default: 512 on a GPU, 128 on CPU")
  options = records.parse(parser)
  batch = options.batch or (8 if options.quick else 512 if records.on_gpu() else 128)
  columns = ["model", "batch", "input", "step ms", "cost %", "lowest %", "highest %"]
  record = records.Record("input_cost", options, columns)
  with records.images(options.data_dir) as folder:
    for model in options.models.split(","):
      arguments = [f"--batch={batch}", f"--inputs={','.join(INPUTS)}"]
      side = timing.ours(model, model, options, folder, *arguments)
      cells = {name: timing.Cell(side, name) for name in INPUTS}
      with timing.running([side], options.limit) as problems:
        found = timing.measure(
          list(cells.values()), problems, options.rounds, options.seconds, options.limit
        )
      record.describe(side)
      constant = found[cells["constant"]]
      for name, cell in cells.items():
        row = {"model": model, "batch": batch, "input": name, "step ms": found[cell].milliseconds}
        row["note"] = found[cell].problem
        if name != "constant" and found[cell].seconds:
          row |= cost(found[cell].seconds, constant.seconds)
        record.add(row, step_seconds=found[cell].seconds)


def cost(with_input: list[float], constant: list[float]) -> dict[str, float]:
  """Per cent that input adds to a step, from the seconds of each round."""
  each = [100 * (a - b) / b for a, b in zip(with_input, constant, strict=True)]
  return {"cost %": statistics.median(each), "lowest %": min(each), "highest %": max(each)}


if __name__ == "__main__":
  sys.exit(main())
