"""(g) How the time of a step grows with batch, width, depth and number of devices.

  python -m benchmarks.speed.scaling
  python -m benchmarks.speed.scaling --over=batch,devices

Each series changes one thing and leaves the rest; its members are processes of their own, measured
in turn on a constant batch. 'ratio' is to the series' first member, round by round; 'per work' is
that divided by the ratio of operations (flops.py): 1 is growth in proportion, below 1
the larger one makes better use of the device. For devices the whole batch stays the same, so that
a ratio of 1/n were perfect; where there is one device, they are virtual ones on the CPU, which
share its cores: 1 is then the best there can be, and more is the cost of the division.
"""

import json
import sys

from benchmarks import records, timing

# Series: (model, config fields) of each member, beside the batch and the virtual devices.
WIDTHS, DEPTHS, DEVICES = (1, 2, 4), (10, 16, 22), (1, 2, 4)


def series(batch: int) -> dict[str, list[tuple[int, str, int, dict, int]]]:
  """By name: (what changes, model, batch, config fields, virtual devices or 0)."""
  return {
    "batch": [(n, "simple_cnn", n, {}, 0) for n in (batch // 4, batch // 2, batch, 2 * batch)],
    "width": [(n, "wide_resnet", batch, {"width": n, "depth": 10}, 0) for n in WIDTHS],
    "depth": [(n, "wide_resnet", batch, {"width": 1, "depth": n}, 0) for n in DEPTHS],
    "devices": [(n, "simple_cnn", batch, {}, n) for n in DEVICES],
  }


def main() -> None:
  records.end_with_signals()
  parser = records.parser(__doc__, "scaling")
  parser.add_argument("--over", default="batch,width,depth,devices")
  parser.add_argument("--batch", type=int, help="default: 512 on a GPU, 64 on CPU")
  options = records.parse(parser)
  batch = options.batch or (8 if options.quick else 512 if records.on_gpu() else 64)
  known = series(batch)
  if unknown := set(options.over.split(",")) - set(known):
    parser.error(f"--over: {', '.join(unknown)} is none of {', '.join(known)}")
  columns = ["over", "value", "model", "batch", "devices", "step ms", "ratio", "per work"]
  record = records.Record("scaling", options, columns)
  with records.images(options.data_dir) as folder:
    for over in options.over.split(","):
      one_series(over, known[over][: 2 if options.quick else None], options, folder, record)


def one_series(over: str, members: list, options, folder: str, record: records.Record) -> None:
  sides = []
  for _, model, batch, fields, devices in members:
    arguments = [f"--batch={batch}"]
    arguments += [f"--set=model.{name}={json.dumps(value)}" for name, value in fields.items()]
    sides.append(timing.ours(over, model, options, folder, *arguments, devices=devices))
  cells = [timing.Cell(side, "constant") for side in sides]
  with timing.running(sides, options.limit) as problems:
    found = timing.measure(cells, problems, options.rounds, options.seconds, options.limit)
  work = [
    side.description.get("training_flops_per_example", 0) * member[2]
    for side, member in zip(sides, members, strict=True)
  ]
  for (value, model, batch, *_), cell, operations in zip(members, cells, work, strict=True):
    ratio = timing.ratio(found[cell], found[cells[0]])
    described = cell.side.description
    record.describe(cell.side)
    row = {
      "over": over,
      "value": value,
      "model": model,
      "batch": batch,
      "devices": described["device"]["count"] if described else "",
      "step ms": found[cell].milliseconds,
      "ratio": ratio,
      "per work": ratio["median"] * work[0] / operations if ratio else "",
      "note": found[cell].problem,
    }
    record.add(row, step_seconds=found[cell].seconds)


if __name__ == "__main__":
  sys.exit(main())
