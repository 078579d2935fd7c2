"""(f) N seeds trained at once in one program against one seed after the other.

  python -m benchmarks.speed.seeds --model=simple_cnn --seeds=1,4,8

Each number of seeds is a process of its own (`config.num_seeds`), measured in turn on augmented
input. 'ratio' is the time of a step of N seeds divided by N times the step of one, round by round:
below 1 training together saves time.
"""

import sys

from benchmarks import records, timing


def main() -> None:
  records.end_with_signals()
  parser = records.parser(__doc__, "seeds")
  parser.add_argument("--model", default="simple_cnn")
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--seeds", default="1,4,8", help="the first must be 1")
  parser.add_argument(
    "--set", action="append", default=[], metavar="FIELD=JSON", help="of the config"
  )
  options = records.parse(parser)
  batch = 8 if options.quick else options.batch
  counts = [int(count) for count in options.seeds.split(",")]
  if counts[0] != 1:
    parser.error("--seeds: the first must be 1, which the others are compared with")
  record = records.Record("seeds", options, ["model", "batch", "seeds", "step ms", "ratio"])
  with records.images(options.data_dir) as folder:
    common = [
      f"--batch={batch}",
      "--inputs=augmented",
      *(f"--set={field}" for field in options.set),
    ]
    sides = [
      timing.ours(f"{count} seeds", options.model, options, folder, *common, f"--seeds={count}")
      for count in counts
    ]
    cells = [timing.Cell(side, "augmented") for side in sides]
    with timing.running(sides, options.limit) as problems:
      found = timing.measure(cells, problems, options.rounds, options.seconds, options.limit)
  for count, cell in zip(counts, cells, strict=True):
    together = timing.ratio(found[cell], found[cells[0]])
    row = {"model": options.model, "batch": batch, "seeds": count}
    row |= {"step ms": found[cell].milliseconds, "note": found[cell].problem}
    row["ratio"] = {k: v / count for k, v in together.items()} if together else None
    record.describe(cell.side)
    record.add(row, step_seconds=found[cell].seconds)


if __name__ == "__main__":
  sys.exit(main())
