"""Prediction, as --mode=evaluate and predict do it: ours against PyTorch and Keras.

  python -m benchmarks.speed.predict --peer_python=.venv-peers/bin/python

A step is a batch of 250 images, from pixels in the machine's memory to logits there. Peers run the
network in inference mode, without gradients, and start from floats on the device; ours also
normalises. PyTorch and the measurement are as in train_step.
"""

import argparse

from analysis.run import BATCH_SIZE
from benchmarks import records, timing
from benchmarks.peers.common import MODELS
from benchmarks.speed.train_step import PEERS


def main() -> None:
  parser = records.parser(__doc__, "predict")
  records.add_peer_option(parser)
  records.add_names_option(parser, "--models", MODELS)
  records.add_names_option(parser, "--peers", PEERS)
  options = records.parse(parser)
  record = records.Record("predict", options, ["model", "side", "batch", "step ms", "ours / it"])
  with records.images(options.data_dir) as folder:
    for model in options.models:
      measure(model, options, folder, record)


def measure(model: str, options: argparse.Namespace, folder: str, record: records.Record) -> None:
  """Measure a model on all sides, and record a row for each."""
  dtype = records.choose_dtype(options)
  arguments = [f"--batch={BATCH_SIZE}", "--inputs=predict", f"--dtype={dtype}"]
  sides = [timing.ours("ours", model, options, folder, *arguments)]
  sides += [timing.peer(name, model, options, *arguments) for name in options.peers]
  cells = [timing.Cell(side, "predict") for side in sides]
  with timing.running(sides, options.limit) as problems:
    timings = timing.measure(cells, problems, options.rounds, options.seconds, options.limit)
  for side, cell in zip(sides, cells, strict=True):
    record.describe(side.name, side.description)
    row = {"model": model, "side": side.name, "batch": BATCH_SIZE}
    row |= {"step ms": timings[cell].milliseconds, "note": timings[cell].problem}
    if side is not sides[0]:
      row["ours / it"] = timing.ratio(timings[cells[0]], timings[cell])
    record.add(row, dtype=dtype, step_seconds=timings[cell].seconds)


if __name__ == "__main__":
  main()
