"""Time to 94, 95 and 96 % on CIFAR-10: ours against the airbench scripts.

  python -m benchmarks.speed.to_accuracy --airbench=FOLDER --peer_python=.venv-peers/bin/python

Ours is main.py with configs/airbench94.py, airbench95.py and airbench96.py, one run for each of
`--runs` seeds, on real CIFAR-10. The peers are airbench94.py, … (KellerJordan/cifar10-airbench) in
FOLDER, unchanged. Each runs there until it has printed a first result, of its warm-up, and `--runs`
more. The scripts need a GPU, torchvision, and CIFAR-10 in FOLDER/cifar10.

'train s' is the time that each program reports: training without compiling. 'command s' is the time
of our command from start to end, with compiling and testing. Sides do not alternate, because a
script makes many runs in one process. Whatever is missing is skipped with a line.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from benchmarks import records, timing
from cifar_jax.types import Row

_COLUMNS = {"accuracy %": "accuracy", "train s": "train", "command s": "command"}


def main() -> None:
  parser = records.parser(__doc__, "to_accuracy")
  records.add_peer_option(parser)
  parser.add_argument("--airbench", type=pathlib.Path, help="folder with airbench94.py, …")
  parser.add_argument("--targets", default="94,95,96", help="accuracies in per cent")
  parser.add_argument("--runs", type=int, default=3)
  parser.add_argument("--epochs", type=int, help="shorten ours, to check the command")
  options = records.parse(parser)
  columns = ["target %", "side", "runs", *_COLUMNS, "ours / it"]
  record = records.Record("to_accuracy", options, columns)
  for target in options.targets.split(","):
    our_seconds = None
    for name, side in (("ours", ours), ("airbench", airbench)):
      row: Row = {"target %": target, "side": name}
      try:
        runs = side(target, options)
      except timing.Failed as error:
        record.add(row | {"note": str(error)})
        continue
      row["runs"] = len(runs)
      for column, key in _COLUMNS.items():
        if key in runs[0]:
          row[column] = statistics.mean(run[key] for run in runs)
      if name == "ours":
        our_seconds = row["train s"]
      elif our_seconds:
        row["ours / it"] = our_seconds / row["train s"]
      record.add(row, each=runs)


def ours(target: str, options: argparse.Namespace) -> list[dict[str, float]]:
  """Train our config with each seed.

  Returns:
    'accuracy' on the test images in per cent, 'train', 'command' and 'compile' in seconds, of each
    seed.

  Raises:
    Failed: there is no such config, or a run failed or took longer than --limit.
  """
  config = records.ROOT / "configs" / f"airbench{target}.py"
  if not config.exists():
    raise timing.Skipped(f"configs/{config.name} does not exist")
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
        completed = subprocess.run(
          command, cwd=records.ROOT, capture_output=True, text=True, timeout=options.limit
        )
      except subprocess.TimeoutExpired:
        raise timing.Failed(f"took more than {options.limit:.0f} s") from None
      if completed.returncode:
        raise timing.Failed((completed.stderr.splitlines() or ["no output"])[-1])
      seconds = time.monotonic() - start
      results = json.loads((pathlib.Path(workdir) / "run" / "results.json").read_text())
    runs.append(
      {
        "accuracy": 100 * results.get("test_tta_accuracy", results["test_accuracy"]),
        "train": results["seconds_to_train"],
        "command": seconds,
        "compile": results["compile_seconds"],
      }
    )
  return runs


def airbench(target: str, options: argparse.Namespace) -> list[dict[str, float]]:
  """Run an airbench script.

  Returns:
    'accuracy' in per cent and 'train' in seconds, of each run after the first.

  Raises:
    Failed: the script is missing or printed no result.
  """
  if not options.airbench:
    raise timing.Skipped("--airbench: missing; name the folder of the airbench scripts")
  script = options.airbench / f"airbench{target}.py"
  if not script.exists():
    raise timing.Skipped(f"{script} does not exist")
  runs: list[dict[str, float]] = []
  lines: list[str] = []
  with tempfile.TemporaryFile("w+") as errors:
    try:
      process = subprocess.Popen(
        [options.peer_python, "-u", script.name],
        cwd=options.airbench,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
      )
    except OSError as error:
      raise timing.Skipped(f"{options.peer_python}: {error.strerror}") from error
    timer = threading.Timer(options.limit, process.kill)
    timer.start()
    try:
      for line in process.stdout or ():
        lines.append(line)
        runs = final_rows(lines)
        if len(runs) > options.runs:
          break
    finally:
      timer.cancel()
      process.kill()
      process.wait()
    errors.seek(0)
    if not runs:
      raise timing.failure(errors.read(), process.returncode)
  return runs[1:] or runs


def final_rows(lines: list[str]) -> list[dict[str, float]]:
  """Return 'accuracy' (per cent) and 'train' (seconds) of each finished run of an airbench script.

  Args:
    lines: the table that the script prints. The first row names the columns; the last row of a run
      has 'eval' for its epoch.
  """
  rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
  if not rows:
    return []
  header, *others = rows
  runs = []
  for row in others:
    values = dict(zip(header, row, strict=False))
    if values.get("epoch") == "eval":
      seconds = values.get("total_time_seconds") or values["time_seconds"]
      runs.append({"accuracy": 100 * float(values["tta_val_acc"]), "train": float(seconds)})
  return runs


if __name__ == "__main__":
  main()
