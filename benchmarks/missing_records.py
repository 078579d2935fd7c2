"""Train the configs that have no record yet, the cheapest first.

  python -m benchmarks.missing_records --list
  python -m benchmarks.missing_records --runs=runs --minutes=170

The first command prints the operations that each of these trainings takes, or the reason why it
cannot run here. The second trains them in folders of `--runs`, evaluates the training images too,
and copies the record of each finished run to benchmarks/results/. After `--minutes`, or on SIGTERM
or Ctrl-C, all trainings save their states and end; the same command resumes them.

On CPU one training runs on each core, because two trainings side by side waste less of two cores
than one on both. With GPUs there is one training at a time, on all of them. Arguments after `--` go
to main.py: `-- --config.data.source=PHOTOS`.
"""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax

from benchmarks import records, tables
from benchmarks.speed import flops
from cifar_jax import errors
from cifar_jax.runs import run_folder
from cifar_jax.runtime.text_table import format_table

RECORD_FILES = ("config.json", "metrics.jsonl", "results.json")
_POLL_SECONDS = 1.0


class Missing(NamedTuple):
  """A config without a record.

  Attributes:
    name: of the config.
    operations: of its training, counted by flops.py, without a proxy network and evaluation.
    reason: why it cannot be trained here; '' if it can.
  """

  name: str
  operations: float
  reason: str = ""


def main() -> None:
  names = [*tables.config_names("configs"), *tables.config_names("configs/reproductions")]
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--list", action="store_true", help="only print what is missing")
  records.add_names_option(parser, "--names", names)
  parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"))
  parser.add_argument("--results", type=pathlib.Path, default=tables.RECORDS)
  parser.add_argument("--minutes", type=float, default=float("inf"))
  parser.add_argument("flags", nargs="*", help="flags of main.py, after --")
  options = records.parse(parser)
  end = time.monotonic() + 60 * options.minutes
  jax.config.update("jax_platforms", "cpu")  # the trainings run in other processes
  missing = find_missing(options.names, options.results)
  print(describe(missing), flush=True)
  if not options.list:
    runnable = [config.name for config in missing if not config.reason]
    train_all(runnable, options.runs, options.results, options.flags, end)


def find_missing(names: Iterable[str], results: pathlib.Path) -> list[Missing]:
  """Return the configs without a record in `results`: the cheapest first, the impossible last."""
  missing = [
    count_operations(name) for name in names if not (results / name / "results.json").exists()
  ]
  return sorted(missing, key=lambda config: (bool(config.reason), config.operations))


def count_operations(name: str) -> Missing:
  """Return the operations of a config's training, or why it cannot be trained here."""
  from experiment import Experiment, resolve

  config = tables.load_config(name)
  if config.model.get("pretrained"):
    return Missing(name, 0, "name the file of the weights; see the config")
  try:
    experiment = Experiment(resolve(config))
  except errors.UserError as error:
    return Missing(name, 0, errors.first_line(error))
  forward = flops.of_model(experiment.model, (1, *experiment.dataset.train.images.shape[1:]))
  examples = experiment.total_steps * (config.proxy.keep or config.batch_size)
  return Missing(name, flops.of_training(forward) * examples)


def describe(missing: Iterable[Missing]) -> str:
  """Return a table of what is missing."""
  rows = [
    [name, "" if reason else f"{count / 1e15:.2f}", reason] for name, count, reason in missing
  ]
  return format_table(["config", "PFLOP", "not possible here"], rows, right=[1])


def train_all(
  names: Sequence[str],
  runs: pathlib.Path,
  results: pathlib.Path,
  flags: Sequence[str],
  end: float,
) -> None:
  """Train configs, as many at a time as there are places, until all have ended or time is over.

  Args:
    names: of the configs, in order.
    runs: holds a run folder and a log for each config.
    results: where the records of finished runs go.
    flags: more flags of main.py.
    end: when to stop, by `time.monotonic`.
  """
  runs.mkdir(parents=True, exist_ok=True)
  waiting, running = list(names), dict[frozenset[int], tuple[str, subprocess.Popen]]()
  try:
    while (waiting or running) and time.monotonic() < end:
      for cores in _places():
        if cores in running and running[cores][1].poll() is not None:
          name, process = running.pop(cores)
          _finish(name, process.returncode, runs, results)
        if cores not in running and waiting:
          name = waiting.pop(0)
          running[cores] = name, _start(name, runs, flags, cores)
          print(f"{name}: training; log: {runs / name}.log", flush=True)
      time.sleep(_POLL_SECONDS)
  except KeyboardInterrupt:
    print("stopping; wait until all are saved", flush=True)
  finally:
    for _, process in running.values():
      process.send_signal(signal.SIGTERM)
    for name, process in running.values():
      process.wait()
      _finish(name, process.returncode, runs, results)


def _places() -> list[frozenset[int]]:
  """Return the cores of each training that runs at the same time."""
  cores = sorted(os.sched_getaffinity(0))
  if records.on_gpu():
    return [frozenset(cores)]
  return [frozenset([core]) for core in cores]


def _start(
  name: str, runs: pathlib.Path, flags: Sequence[str], cores: frozenset[int]
) -> subprocess.Popen:
  """Start or resume the training of a config on some cores."""
  command = [sys.executable, str(tables.ROOT / "main.py"), f"--config={tables.config_file(name)}"]
  command += [f"--workdir={runs / name}", "--config.evaluate_train=True", *flags]
  all_cores = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)  # which the process inherits
  try:
    with open(f"{runs / name}.log", "a") as log:
      # A session of its own, because Ctrl-C should reach it only once, from here.
      return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
  finally:
    os.sched_setaffinity(0, all_cores)


def _finish(name: str, code: int, runs: pathlib.Path, results: pathlib.Path) -> None:
  """Record a finished run, or say why it ended."""
  if code in (128 + signal.SIGTERM, -signal.SIGTERM):  # negative: before main.py handled it
    epochs = len(run_folder.RunFolder(runs / name, writer=False).metrics())
    print(f"{name}: stopped after epoch {epochs}; the same command resumes it", flush=True)
  elif code:
    print(f"{name}: failed with exit code {code}; see {runs / name}.log", flush=True)
  else:
    (results / name).mkdir(parents=True, exist_ok=True)
    for file in RECORD_FILES:
      shutil.copy(runs / name / file, results / name / file)
    print(f"{name}: recorded in {results / name}", flush=True)


if __name__ == "__main__":
  main()
