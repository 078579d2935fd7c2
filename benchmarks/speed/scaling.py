"""How the time of a step grows with batch, width, depth and number of devices.

  python -m benchmarks.speed.scaling
  python -m benchmarks.speed.scaling --over=batch,devices

Each series changes one quantity and keeps the rest. Its members are processes, measured in turn on
a constant batch. 'ratio' is to the first member of the series, round by round. 'per work' is this
ratio divided by the ratio of operations (flops.py): 1 is proportional growth; below 1, the larger
member uses the device better. In the series over devices the total batch stays the same, so that a
ratio of 1/n is perfect. On one CPU the devices are virtual and share the cores: 1 is then the best
possible ratio, and more is the cost of the division.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence

from benchmarks import records, timing

WIDTHS, DEPTHS, DEVICES = (1, 2, 4), (10, 16, 22), (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Member:
  """A member of a series.

  Attributes:
    value: the quantity that changes.
    model: the name of the network.
    batch: the total batch.
    fields: fields of config.model.
    devices: number of virtual CPU devices; 0 leaves the devices as they are.
  """

  value: int
  model: str
  batch: int
  fields: Mapping[str, int] = dataclasses.field(default_factory=dict)
  devices: int = 0


def series(batch: int) -> dict[str, list[Member]]:
  """Return the members of each series, by the quantity that changes."""
  batches = (batch // 4, batch // 2, batch, 2 * batch)
  return {
    "batch": [Member(n, "simple_cnn", n) for n in batches],
    "width": [Member(n, "wide_resnet", batch, {"width": n, "depth": 10}) for n in WIDTHS],
    "depth": [Member(n, "wide_resnet", batch, {"width": 1, "depth": n}) for n in DEPTHS],
    "devices": [Member(n, "simple_cnn", batch, devices=n) for n in DEVICES],
  }


def main() -> None:
  parser = records.parser(__doc__, "scaling")
  parser.add_argument("--over", default="batch,width,depth,devices", help="the series")
  parser.add_argument("--batch", type=int, help="default: 512 on a GPU, 64 on CPU")
  options = records.parse(parser)
  batch = options.batch or (8 if options.quick else 512 if records.on_gpu() else 64)
  members = series(batch)
  if unknown := set(options.over.split(",")) - set(members):
    parser.error(f"--over: {', '.join(unknown)} is unknown; use some of {', '.join(members)}")
  columns = ["over", "value", "model", "batch", "devices", "step ms", "ratio", "per work"]
  record = records.Record("scaling", options, columns)
  with records.images(options.data_dir) as folder:
    for over in options.over.split(","):
      measure(over, members[over][: 2 if options.quick else None], options, folder, record)


def measure(
  over: str,
  members: Sequence[Member],
  options: argparse.Namespace,
  folder: str,
  record: records.Record,
) -> None:
  """Measure a series, and record a row for each member."""
  sides = []
  for member in members:
    arguments = [f"--batch={member.batch}"]
    arguments += [f"--set=model.{name}={json.dumps(v)}" for name, v in member.fields.items()]
    side = timing.ours(over, member.model, options, folder, *arguments, devices=member.devices)
    sides.append(side)
  cells = [timing.Cell(side, "constant") for side in sides]
  with timing.running(sides, options.limit) as problems:
    timings = timing.measure(cells, problems, options.rounds, options.seconds, options.limit)
  work = [
    side.description.get("training_flops_per_example", 0) * member.batch
    for side, member in zip(sides, members, strict=True)
  ]
  for member, cell, operations in zip(members, cells, work, strict=True):
    ratio = timing.ratio(timings[cell], timings[cells[0]])
    description = cell.side.description
    record.describe(over, description)
    row = {
      "over": over,
      "value": member.value,
      "model": member.model,
      "batch": member.batch,
      "devices": description["device"]["count"] if description else None,
      "step ms": timings[cell].milliseconds,
      "ratio": ratio,
      "per work": ratio["median"] * work[0] / operations if ratio else None,
      "note": timings[cell].problem,
    }
    record.add(row, step_seconds=timings[cell].seconds)


if __name__ == "__main__":
  main()
