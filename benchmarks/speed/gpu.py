"""Measure everything that needs a GPU, with one command that takes less than `--minutes`.

  python -m benchmarks.speed.gpu --peer_python=PATH

runs the other benchmarks one after the other, the most important first. Each part has a time limit.
A part that fails or exceeds its limit is marked in the table and in the record, and the others
continue. A part for which too little time is left is skipped; `--parts` runs it alone. The record
(`--output`) holds every row that a part has finished, and is rewritten while parts run, so that an
interruption loses nothing. Without a GPU the command measures the CPU, which takes longer; with
--quick it shows whether everything works.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from benchmarks import records
from cifar_jax.runtime.text_table import format_table
from cifar_jax.types import Row


class Part(NamedTuple):
  """A benchmark of this folder, its arguments, its time limit, and whether it measures peers."""

  name: str
  benchmark: str
  arguments: tuple[str, ...]
  seconds: int
  peers: bool = False


_STEP = ("--peers=torch", "--rounds=5", "--seconds=0.7", "--epoch_rounds=2")
_SHORT = ("--rounds=5", "--seconds=0.7")
PARTS = (
  Part("resnet18", "train_step", ("--models=resnet18", *_STEP), 150, peers=True),
  Part("input", "input_cost", ("--models=resnet18", *_SHORT), 90),
  Part("utilisation", "utilisation", ("--models=resnet18", *_SHORT), 60),
  Part("simple_cnn", "train_step", ("--models=simple_cnn", *_STEP), 90, peers=True),
  Part("seeds", "seeds", ("--seeds=1,8", *_SHORT), 90),
  Part("wrn28_10", "train_step", ("--models=wrn28_10", *_STEP), 180, peers=True),
  Part("pointwise", "train_step", ("--models=pointwise_resnet", *_STEP), 120, peers=True),
  Part("startup", "startup", ("--model=resnet18", "--peers=torch", "--rounds=1"), 150, peers=True),
)
_SHORTEST = 20  # seconds; with less time left a part is skipped
_RESERVE = 5  # seconds, for stopping a part


def main() -> None:
  parser = records.parser(__doc__, "gpu")
  records.add_peer_option(parser)
  parser.add_argument("--minutes", type=float, default=8.7, help="for all parts")
  records.add_names_option(parser, "--parts", (part.name for part in PARTS))
  options = records.parse(parser)
  end = time.monotonic() + 60 * options.minutes
  record = Record(options.output)
  try:
    with records.images(options.data_dir) as data, tempfile.TemporaryDirectory() as folder:
      for part in PARTS:
        if part.name in options.parts:
          file = pathlib.Path(folder) / f"{part.name}.json"
          run(part, options, data, file, end - time.monotonic(), record)
  finally:
    record.write()
  rows = [
    [name, part["outcome"], f"{part['seconds']:.0f}"]
    for name, part in record.content["parts"].items()
  ]
  print(f"\n{format_table(['part', 'outcome', 's'], rows, right=[2])}\nwrote {options.output}")


class Record:
  """The records of all parts so far, in one file.

  Args:
    path: the file.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self.content: dict[str, Any] = {"environment": records.describe_environment(), "parts": {}}
    self.write()

  def update(self, part: Part, outcome: str, seconds: float, file: pathlib.Path) -> None:
    """Write the state of a part.

    Args:
      seconds: the time that the part has taken.
      file: the part's record, which may not exist yet.
    """
    state: Row = {"outcome": outcome, "seconds": seconds}
    if file.exists():
      state |= json.loads(file.read_text())
    self.content["parts"][part.name] = state
    self.write()

  def write(self) -> None:
    """Write the file."""
    records.write_json(self._path, self.content)


def run(
  part: Part,
  options: argparse.Namespace,
  data: str,
  file: pathlib.Path,
  seconds_left: float,
  record: Record,
) -> None:
  """Run a part within its time limit, and record its outcome.

  Args:
    data: the data directory.
    file: where the part writes its record.
  """
  limit = min(part.seconds, seconds_left - _RESERVE)
  if limit < _SHORTEST:
    outcome = f"skipped: {max(0, seconds_left):.0f} s left"
    record.update(part, outcome, 0.0, file)
    print(f"\n{part.name}: {outcome}", flush=True)
    return
  command = [sys.executable, "-m", f"benchmarks.speed.{part.benchmark}", *part.arguments]
  command += [f"--output={file}", f"--data_dir={data}", f"--limit={limit:.0f}"]
  command += [f"--peer_python={options.peer_python}"] * part.peers
  command += [f"--dtype={options.dtype}"] * bool(options.dtype) + ["--quick"] * options.quick
  print(f"\n{part.name}: {part.benchmark} {' '.join(part.arguments)}", flush=True)
  start = time.monotonic()
  process = subprocess.Popen(command, cwd=records.ROOT, start_new_session=True)
  try:
    while (seconds := time.monotonic() - start) < limit and process.poll() is None:
      record.update(part, "running", seconds, file)
      time.sleep(0.5)
    outcome = "done" if process.returncode == 0 else f"failed with exit code {process.returncode}"
    if process.returncode is None:
      outcome = f"stopped after {limit:.0f} s"
  finally:
    _stop(process)
  record.update(part, outcome, time.monotonic() - start, file)


def _stop(process: subprocess.Popen[bytes]) -> None:
  """Terminate a part; after ten seconds kill it and the processes that it started."""
  for signum in (signal.SIGTERM, signal.SIGKILL):
    try:
      os.killpg(process.pid, signum)
      process.wait(timeout=10)
    except (ProcessLookupError, subprocess.TimeoutExpired):
      continue


if __name__ == "__main__":
  main()
