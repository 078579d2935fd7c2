"""What the input pipeline costs: a step with real input against one on a constant batch.

  python -m benchmarks.speed.input_cost --models=simple_cnn,resnet18

'constant' takes every step on one normalised batch that is already on the device. 'plain' shuffles
the images, gathers a batch and normalises it; 'augmented' also crops and flips. The cost is
(seconds with input - seconds constant) / seconds constant, round by round, in per cent. A spread
that includes 0 is the noise of the measurement. All three are main.py's programs, in one process,
measured in turn.
"""

import argparse
import statistics

from benchmarks import records, timing
from benchmarks.peers.common import MODELS

INPUTS = ("constant", "plain", "augmented")


def main() -> None:
  parser = records.parser(__doc__, "input_cost")
  records.add_names_option(parser, "--models", MODELS, ("simple_cnn", "resnet18"))
  parser.add_argument("--batch", type=int, help="default: 512 on a GPU, 128 on CPU")
  options = records.parse(parser)
  batch = options.batch or (8 if options.quick else 512 if records.on_gpu() else 128)
  columns = ["model", "batch", "input", "step ms", "cost %", "lowest %", "highest %"]
  record = records.Record("input_cost", options, columns)
  with records.images(options.data_dir) as folder:
    for model in options.models:
      measure(model, batch, options, folder, record)


def measure(
  model: str, batch: int, options: argparse.Namespace, folder: str, record: records.Record
) -> None:
  """Measure a model on each input, and record a row for each."""
  arguments = [f"--batch={batch}", f"--inputs={','.join(INPUTS)}"]
  side = timing.ours(model, model, options, folder, *arguments)
  cells = {name: timing.Cell(side, name) for name in INPUTS}
  with timing.running([side], options.limit) as problems:
    timings = timing.measure(
      list(cells.values()), problems, options.rounds, options.seconds, options.limit
    )
  record.describe(side.name, side.description)
  constant = timings[cells["constant"]]
  for name, cell in cells.items():
    row = {"model": model, "batch": batch, "input": name, "step ms": timings[cell].milliseconds}
    row["note"] = timings[cell].problem
    if name != "constant" and timings[cell].seconds:
      row |= cost(timings[cell].seconds, constant.seconds)
    record.add(row, step_seconds=timings[cell].seconds)


def cost(with_input: list[float], constant: list[float]) -> dict[str, float]:
  """Return the percentage that input adds to a step: median, lowest and highest of the rounds.

  Args:
    with_input, constant: seconds of a step in each round.
  """
  costs = [100 * (a - b) / b for a, b in zip(with_input, constant, strict=True)]
  return {"cost %": statistics.median(costs), "lowest %": min(costs), "highest %": max(costs)}


if __name__ == "__main__":
  main()
