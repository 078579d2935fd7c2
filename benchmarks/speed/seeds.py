"""N seeds trained together in one program against one seed after the other.

  python -m benchmarks.speed.seeds --model=simple_cnn --seeds=1,4,8

Each number of seeds is a process (`config.num_seeds`), measured in turn on augmented input. 'ratio'
is the time of a step of N seeds divided by N times the step of one, round by round: below 1,
training together saves time.
"""

from benchmarks import records, timing


def main() -> None:
  parser = records.parser(__doc__, "seeds")
  parser.add_argument("--model", default="simple_cnn")
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--seeds", default="1,4,8", help="numbers of seeds; the first must be 1")
  parser.add_argument(
    "--set", action="append", default=[], metavar="FIELD=JSON", help="a field of the config"
  )
  options = records.parse(parser)
  batch = 8 if options.quick else options.batch
  counts = [int(count) for count in options.seeds.split(",")]
  if counts[0] != 1:
    parser.error("--seeds: the first must be 1, with which the others are compared")
  record = records.Record("seeds", options, ["model", "batch", "seeds", "step ms", "ratio"])
  arguments = [
    f"--batch={batch}",
    "--inputs=augmented",
    *(f"--set={field}" for field in options.set),
  ]
  with records.images(options.data_dir) as folder:
    sides = [
      timing.ours(f"{n} seeds", options.model, options, folder, *arguments, f"--seeds={n}")
      for n in counts
    ]
    cells = [timing.Cell(side, "augmented") for side in sides]
    with timing.running(sides, options.limit) as problems:
      timings = timing.measure(cells, problems, options.rounds, options.seconds, options.limit)
  for count, cell in zip(counts, cells, strict=True):
    ratio = timing.ratio(timings[cell], timings[cells[0]])
    row = {
      "model": options.model,
      "batch": batch,
      "seeds": count,
      "step ms": timings[cell].milliseconds,
      "note": timings[cell].problem,
      "ratio": {name: value / count for name, value in ratio.items()} if ratio else None,
    }
    record.describe(cell.side.name, cell.side.description)
    record.add(row, step_seconds=timings[cell].seconds)


if __name__ == "__main__":
  main()
