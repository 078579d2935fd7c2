"""Everything that a GPU is needed for, measured by one command in less than `--minutes`.

  python -m benchmarks.speed.gpu --peer_python=PATH

runs the other benchmarks one after the other, the most telling first. Each part has a time of its
own; one that fails, or whose time is up, is a line of the table and of the JSON, and the others go
on. Parts for which too little time is left are skipped, and said to be; `--parts` runs them alone.
The JSON (`--output`) holds every row that any part has finished, and is rewritten while they run,
so that a cut loses nothing. Without a GPU it measures the CPU, which takes longer: --quick does for
seeing whether it works.
"""

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


class Part(NamedTuple):
  """A benchmark of this folder, its arguments, and the seconds that it may take at most."""

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
_LEAST = 20  # seconds for which a part is still begun


def main() -> None:
  records.end_with_signals()
  parser = records.parser(__doc__, "gpu")
  records.peer_option(parser)
  parser.add_argument("--minutes", type=float, default=8.7)
  parser.add_argument("--parts", default=",".join(part.name for part in PARTS))
  options = records.parse(parser)
  wanted = options.parts.split(",")
  if unknown := set(wanted) - {part.name for part in PARTS}:
    parser.error(f"--parts: there is no {', '.join(sorted(unknown))}")
  end = time.monotonic() + 60 * options.minutes
  record = Record(options)
  try:
    with records.images(options.data_dir) as data, tempfile.TemporaryDirectory() as folder:
      for part in PARTS:
        if part.name in wanted:
          run(part, options, data, pathlib.Path(folder), end - time.monotonic(), record)
  finally:
    record.write()
  print()
  for name, found in record.content["parts"].items():
    print(f"{name:<12} {found['outcome']:<40} {found['seconds']:6.0f} s")
  print(f"wrote {options.output}")


class Record:
  """What the parts have found so far, in one file."""

  def __init__(self, options):
    self._path = options.output
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self.content: dict[str, Any] = {"environment": records.environment(), "parts": {}}
    self.write()

  def update(self, part: Part, outcome: str, seconds: float, file: pathlib.Path) -> None:
    """`file`: the part's own record, which may not be there yet."""
    found: dict[str, Any] = {"outcome": outcome, "seconds": seconds}
    if file.exists():
      found |= json.loads(file.read_text())
    self.content["parts"][part.name] = found
    self.write()

  def write(self) -> None:
    records.write_json(self._path, self.content)


def run(part: Part, options, data: str, folder: pathlib.Path, left: float, record: Record) -> None:
  """Runs a part for as long as it may, and notes how it went."""
  file = folder / f"{part.name}.json"
  limit = min(part.seconds, left - 5)
  if limit < _LEAST:
    record.update(part, f"skipped: {max(0, left):.0f} s left", 0.0, file)
    print(f"\n{part.name}: skipped, {max(0, left):.0f} s left", flush=True)
    return
  command = [sys.executable, "-m", f"benchmarks.{part.benchmark}", *part.arguments]
  command += [f"--output={file}", f"--data_dir={data}", f"--limit={limit:.0f}"]
  command += [f"--peer_python={options.peer_python}"] * part.peers
  command += [f"--dtype={options.dtype}"] * bool(options.dtype) + ["--quick"] * options.quick
  print(f"\n{part.name}: {part.benchmark} {' '.join(part.arguments)}", flush=True)
  start = time.monotonic()
  process = subprocess.Popen(command, cwd=records.ROOT, start_new_session=True)
  try:
    while (seconds := time.monotonic() - start) < limit and process.poll() is None:
      record.update(part, "under way", seconds, file)
      time.sleep(0.5)
    outcome = "done" if process.returncode == 0 else f"failed with code {process.returncode}"
    if process.returncode is None:
      outcome = f"cut after {limit:.0f} s"
  finally:
    _end(process)
  record.update(part, outcome, time.monotonic() - start, file)


def _end(process: subprocess.Popen) -> None:
  """Asks a part to end, and after ten seconds ends it with all that it started."""
  for number in (signal.SIGTERM, signal.SIGKILL):
    try:
      os.killpg(process.pid, number)
      process.wait(timeout=10)
    except (ProcessLookupError, subprocess.TimeoutExpired):
      continue


if __name__ == "__main__":
  sys.exit(main())
