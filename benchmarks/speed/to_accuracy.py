"""(d) Time to 94, 95 and 96 % on CIFAR-10: ours against the airbench scripts.

  python -m benchmarks.speed.to_accuracy --airbench=FOLDER --peer_python=.venv-peers/bin/python

Ours is main.py with configs/airbench94.py, airbench95.py and airbench96.py, one run for each of
`--runs` seeds, on real CIFAR-10. The peers are airbench94.py, … (KellerJordan/cifar10-airbench),
which FOLDER holds; they are run there, as they are, until they have printed `--runs` results and
one before, which warms up. They need a GPU, torchvision, and CIFAR-10 in FOLDER/cifar10.

'train s' is what each program counts itself: training, without compiling. 'command s' is ours from
the command to its end, with start, compiling and testing. Runs alternate with nothing: a script
makes many in one process. Whatever is missing is skipped with a line.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from benchmarks import records, timing


def main() -> None:
  records.end_with_signals()
  parser = records.parser(__doc__, "to_accuracy")
  records.peer_option(parser)
  parser.add_argument("--airbench", type=pathlib.Path, help="folder with airbench94.py, …")
  parser.add_argument("--targets", default="94,95,96")
  parser.add_argument("--runs", type=int, default=3)
  parser.add_argument("--epochs", type=int, help="cut ours short: does it work at all?")
  options = records.parse(parser)
  columns = ["target %", "side", "runs", "accuracy %", "train s", "command s", "ours / it"]
  record = records.Record("to_accuracy", options, columns)
  for target in options.targets.split(","):
    own = None
    for name, side in (("ours", ours), ("airbench", airbench)):
      row = {"target %": target, "side": name}
      try:
        runs = side(target, options)
      except timing.Failed as error:
        record.add(row | {"note": str(error)})
        continue
      row |= {"runs": len(runs)}
      for column, key in (
        ("accuracy %", "accuracy"),
        ("train s", "train"),
        ("command s", "command"),
      ):
        if key in runs[0]:
          row[column] = statistics.mean(run[key] for run in runs)
      if name == "ours":
        own = row["train s"]
      elif own:
        row["ours / it"] = own / row["train s"]
      record.add(row, each=runs)


def ours(target: str, options) -> list[dict[str, float]]:
  """'accuracy' (of the test images, per cent), 'train' and 'command' (seconds) of each seed."""
  config = records.ROOT / "configs" / f"airbench{target}.py"
  if not config.exists():
    raise timing.Skipped(f"there is no configs/{config.name}")
  runs = []
  for seed in range(options.runs):
    with tempfile.TemporaryDirectory(prefix="to_accuracy_") as workdir:
      command = [sys.executable, "main.py", f"--config={config}", f"--workdir={workdir}/run"]
      command.append(f"--config.seed={seed}")
      for field, value in (("dtype", options.dtype), ("data.dir", options.data_dir)):
        command += [f"--config.{field}={value}"] * bool(value)
      if options.epochs:
        command += [f"--config.num_epochs={options.epochs}", "--config.last_epoch=1.0"]
      start = time.monotonic()
      try:
        done = subprocess.run(
          command, cwd=records.ROOT, capture_output=True, text=True, timeout=options.limit
        )
      except subprocess.TimeoutExpired:
        raise timing.Failed(f"took more than {options.limit:.0f} s") from None
      if done.returncode:
        raise timing.Failed((done.stderr.splitlines() or ["?"])[-1])
      seconds = time.monotonic() - start
      results = json.loads((pathlib.Path(workdir) / "run" / "results.json").read_text())
    accuracy = results.get("test_tta_accuracy", results["test_accuracy"])
    runs.append(
      {"accuracy": 100 * accuracy, "train": results["seconds_to_train"], "command": seconds}
      | {"compile": results["compile_seconds"]}
    )
  return runs


def airbench(target: str, options) -> list[dict[str, float]]:
  """'accuracy' and 'train' of each run of the script."""
  if not options.airbench:
    raise timing.Skipped("name the folder of the airbench scripts with --airbench")
  script = options.airbench / f"airbench{target}.py"
  if not script.exists():
    raise timing.Skipped(f"there is no {script}")
  wanted, runs, lines = options.runs + 1, [], []
  with tempfile.TemporaryFile("w+") as problems:
    try:
      process = subprocess.Popen(
        [options.peer_python, "-u", script.name],
        cwd=options.airbench,
        stdout=subprocess.PIPE,
        stderr=problems,
        text=True,
      )
    except OSError as error:
      raise timing.Skipped(f"{options.peer_python}: {error.strerror}") from error
    timer = threading.Timer(options.limit, process.kill)
    timer.start()
    try:
      for line in process.stdout:
        lines.append(line)
        runs = final_rows(lines)
        if len(runs) >= wanted:
          break
    finally:
      timer.cancel()
      process.kill()
      process.wait()
    problems.seek(0)
    if not runs:
      raise timing.reason(problems.read(), process.returncode)
  return runs[1:] or runs


def final_rows(lines: list[str]) -> list[dict[str, float]]:
  """'accuracy' (per cent) and 'train' (seconds) of each finished run in an airbench script's table.

  The last row of a run has 'eval' for its epoch; columns are named in the first row.
  """
  rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
  if not rows:
    return []
  header, *others = rows
  found = []
  for row in others:
    values = dict(zip(header, row, strict=False))
    if values.get("epoch") == "eval":
      seconds = values.get("total_time_seconds") or values["time_seconds"]
      found.append({"accuracy": 100 * float(values["tta_val_acc"]), "train": float(seconds)})
  return found


if __name__ == "__main__":
  sys.exit(main())
