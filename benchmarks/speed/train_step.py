"""(a) A training step and an epoch of four networks: ours against PyTorch and Keras.

  python -m benchmarks.speed.train_step --peer_python=.venv-peers/bin/python

All sides have the same network, parameters, batch, precision, optimiser (SGD with Nesterov
momentum) and loss; PyTorch is channels-last, on a GPU compiled (torch.compile) and in bfloat16
under autocast. A step is one on a batch that is on the device already. An epoch is `epoch examples`
shuffled, cropped by up to 4 pixels, flipped and normalised: ours and PyTorch's from the device's
memory in whole batches, Keras' by tf.data. Evaluation is in neither.

Each side is a process of its own and warms up until it is compiled; then all are measured in turn,
`--rounds` times. Figures are medians; a ratio is the median, with lowest and highest, of the
ratios of single rounds, and above 1 where ours is slower.
"""

import sys

from benchmarks import records, timing
from benchmarks.peers.common import MODELS

PEERS = ("torch", "keras_jax", "keras_tensorflow")


def main() -> None:
  records.end_with_signals()
  parser = records.parser(__doc__, "train_step")
  records.peer_option(parser)
  parser.add_argument("--models", default=",".join(MODELS))
  parser.add_argument("--peers", default=",".join(PEERS))
  parser.add_argument("--batch", type=int, help="default: 512 on a GPU; 128 on CPU, wrn28_10 16")
  parser.add_argument("--epoch_examples", type=int, help="default: 50,000, on CPU 10 batches")
  parser.add_argument("--epoch_rounds", type=int, default=3, help="0: no epochs")
  options = records.parse(parser)
  columns = ["model", "side", "batch", "step ms", "ours / it", "images/s", "epoch s"]
  record = records.Record("train_step", options, [*columns, "epoch examples", "ours / it, epoch"])
  with records.images(options.data_dir) as folder:
    for model in options.models.split(","):
      one_model(model, options, folder, record)


def one_model(model: str, options, folder: str, record: records.Record) -> None:
  gpu = records.on_gpu()
  small = {"wrn28_10": 2 if options.quick else 16}
  batch = options.batch or small.get(model, 8 if options.quick else 128)
  if gpu and not options.batch:
    batch = 512
  examples = options.epoch_examples or (50_000 if gpu else batch * (2 if options.quick else 10))
  dtype = options.dtype or ("bfloat16" if gpu else "float32")
  inputs = "constant,augmented" if options.epoch_rounds else "constant"
  common = [f"--batch={batch}", f"--inputs={inputs}", f"--dtype={dtype}"]
  ours = timing.ours("ours", model, options, folder, *common, f"--epoch_examples={examples}")
  peers = [
    timing.peer(p, model, options, *common, f"--examples={examples}")
    for p in options.peers.split(",")
  ]
  sides = [ours, *peers]
  steps = [timing.Cell(side, "constant") for side in sides]
  epochs = [timing.Cell(side, "augmented", epoch=True) for side in sides]
  found = dict.fromkeys([*steps, *epochs], timing.Timing([], "not measured: ended before"))
  try:
    with timing.running(sides, options.limit) as problems:
      found |= timing.measure(steps, problems, options.rounds, options.seconds, options.limit)
      found |= timing.measure(epochs, problems, options.epoch_rounds, 0, options.limit)
  finally:
    for side, step, epoch in zip(sides, steps, epochs, strict=True):
      record.describe(side)
      described = side.description
      if (
        described and ours.description and described["parameters"] != ours.description["parameters"]
      ):
        found[step] = found[epoch] = timing.Timing([], "failed: it has other parameters than ours")
      row = {
        "model": model,
        "side": side.name,
        "batch": batch,
        "step ms": found[step].milliseconds,
        "images/s": batch / found[step].median if found[step].seconds else "",
        "epoch s": found[epoch].median,
        "epoch examples": examples // batch * batch,
        "note": found[step].problem or found[epoch].problem,
      }
      if side is not ours:
        row["ours / it"] = timing.ratio(found[steps[0]], found[step])
        row["ours / it, epoch"] = timing.ratio(found[epochs[0]], found[epoch])
      record.add(
        row,
        dtype=dtype,
        step_seconds=found[step].seconds,
        epoch_seconds=found[epoch].seconds,
        parameters=described.get("parameters"),
        seconds_to_warm_up=described.get("seconds_to_warm_up"),
      )


if __name__ == "__main__":
  sys.exit(main())
