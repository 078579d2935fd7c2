"""The faults of soak.py: each function disturbs the run of a place, which soak.py then finishes."""

import contextlib
import functools
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from benchmarks.robustness.soak_run import (
  BUSY,
  EPOCHS,
  FULL_WHEN_PREPARING,
  HAS_DATA,
  LIMIT,
  PREPARES,
  SAVED,
  STEPS,
  Place,
  Wrong,
)

# A sitecustomize module, which Python imports at its start. (libfaketime would also break waits by
# the monotonic clock, which a change of the time does not.)
_CLOCK = """
import os, time

_time = time.time
def jumped():
  with open(os.environ["CLOCK"]) as file:
    return _time() + float(file.read())
time.time = jumped
time.time_ns = lambda: int(jumped() * 1e9)
"""


class Missed(Exception):
  """The run ended before the fault happened; another attempt is needed."""


class Skipped(Exception):
  """This machine does not permit the fault; the argument is the reason."""


def kill_in_preparation(at: Place, rng: np.random.Generator) -> None:
  """Kill the run while it prepares the data."""
  at.data = at.folder / "data"
  _kill_after(at, lambda: (at.data / "digits" / "prepare.lock").exists(), rng.uniform(0, 2))


def kill_in_compilation(at: Place, rng: np.random.Generator) -> None:
  """Kill the run while it compiles, or soon after."""
  at.cache = at.folder / "cache"
  _kill_after(at, functools.partial(_has_data, at), rng.uniform(0, 8))


def kill_in_training(at: Place, rng: np.random.Generator) -> None:
  """Kill the run while it trains."""
  _kill_after(at, functools.partial(_has_data, at), rng.uniform(0, 3))


def kill_in_checkpoint(at: Place, rng: np.random.Generator) -> None:
  """Kill the run while it writes a checkpoint."""
  newest = at.newest("latest") + STEPS * int(rng.integers(EPOCHS))

  def is_writing() -> bool:
    return at.newest("latest") >= newest and at.is_writing()

  _kill_after(at, is_writing, rng.uniform(0, 0.05))


def kill_in_evaluation(at: Place, rng: np.random.Generator) -> None:
  """Kill the run while it tests the selected weights."""
  _kill_after(at, functools.partial(_has_ended, at, EPOCHS), rng.uniform(0, 0.6))


def kill_at_any_time(at: Place, rng: np.random.Generator) -> None:
  """Kill the run up to six seconds after its start."""
  _kill_after(at, lambda: True, rng.uniform(0, 6))


def _kill_after(at: Place, is_true: Callable[[], object], seconds: float) -> None:
  """Start the run; kill it some seconds after a condition is true."""
  at.start()
  if at.wait_for(is_true):
    time.sleep(seconds)
  if not at.kill():
    raise Missed


def sigterm(at: Place, rng: np.random.Generator) -> None:
  """Send SIGTERM after an epoch; the run must save and exit."""
  at.start()
  at.wait_for(functools.partial(_has_ended, at, 1))
  time.sleep(rng.uniform(0, 0.5))
  if not at.kill(signal.SIGTERM):
    raise Missed
  output = at.wait_for_exit(128 + signal.SIGTERM)
  if not output.endswith(f"{SAVED}\n"):
    raise Wrong("SIGTERM: no message that the state is saved")


def damaged_checkpoint(how: str, at: Place, rng: np.random.Generator) -> None:
  """Kill the run when it has two checkpoints, and damage a file of the newest.

  Args:
    how: 'truncated', 'flipped' or 'missing'.
  """
  at.start()
  if not at.wait_for(lambda: len(at.steps("latest")) > 1) or not at.kill():
    raise Missed
  kind = str(rng.choice(["latest", "best"]))
  _damage(at.workdir / "checkpoints" / kind / f"{at.newest(kind):08}", how, rng)
  at.finish(is_damaged=kind == "latest")


def damaged_cache(at: Place, rng: np.random.Generator) -> None:
  """Kill the run, and damage a file of the decoded images."""
  at.data = pathlib.Path(shutil.copytree(at.data, at.folder / "data"))
  kill_in_training(at, rng)
  (folder,) = (at.data / "digits").glob("decoded-*")
  _damage(folder, str(rng.choice(["truncated", "flipped", "missing"])), rng)
  if f"{PREPARES}digits" not in at.finish():
    raise Wrong("the damage went unnoticed")


def _damage(folder: pathlib.Path, how: str, rng: np.random.Generator) -> None:
  """Damage one of the files in a folder."""
  files = sorted(f for f in folder.rglob("*") if f.is_file() and f.stat().st_size)
  file = files[rng.integers(len(files))]
  content = bytearray(file.read_bytes())
  position = int(rng.integers(len(content)))
  if how == "missing":
    file.unlink()
  elif how == "truncated":
    file.write_bytes(content[:position])
  else:
    content[position] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)


def full_disk(at: Place, rng: np.random.Generator) -> None:
  """Start the run on a disk that has room for a part of the run folder."""
  _disk(at, at.workdir, f"size={int(rng.integers(40, 500))}k")
  at.start()
  _wait_for_full_disk(at)
  _mount("-o", "remount,size=1g", str(at.workdir))


def full_at_metrics(at: Place, rng: np.random.Generator) -> None:
  """Fill the disk at the end of an epoch, before metrics.jsonl is written."""
  _disk(at, at.workdir, "size=64m")
  at.start()
  at.wait_for(lambda: _has_ended(at, 1) and not at.is_writing())
  with (at.workdir / "filler").open("wb", buffering=0) as filler:
    for size in (1 << 20, 1 << 12, 1):
      with contextlib.suppress(OSError):
        while True:
          filler.write(bytes(size))
  _wait_for_full_disk(at)
  (at.workdir / "filler").unlink()


def full_at_decoded(at: Place, rng: np.random.Generator) -> None:
  """Start the run with a disk for the data that has room for a part of the decoded images."""
  at.data = at.folder / "data"
  _disk(at, at.data, f"size={int(rng.integers(40, 5000))}k")
  at.start()
  _wait_for_full_disk(at)
  _mount("-o", "remount,size=1g", str(at.data))


def _wait_for_full_disk(at: Place) -> None:
  """Wait until the run fails with an error that names the full disk."""
  if at.process.wait(LIMIT) == 0:
    raise Missed
  output = at.wait_for_exit(1)
  if "No space left on device" not in output and FULL_WHEN_PREPARING not in output:
    raise Wrong("the error does not name the full disk")


def read_only(at: Place, rng: np.random.Generator) -> None:
  """Make the run folder read-only before the first start, or before the run is resumed."""
  at.workdir.mkdir()
  if rng.integers(2):
    kill_in_training(at, rng)
  _mount("--bind", str(at.workdir), str(at.workdir))
  with contextlib.ExitStack() as undo:
    undo.callback(subprocess.run, ["umount", str(at.workdir)], check=True)
    _mount("-o", "remount,bind,ro", str(at.workdir))
    at.start()
    at.wait_for_exit(1)


def second_run(at: Place, rng: np.random.Generator) -> None:
  """Start another run in the folder, which must fail."""
  at.start()
  time.sleep(rng.uniform(0, 1))
  at.wait_for(functools.partial(_has_data, at))
  first = at.process
  try:
    at.start()
    if BUSY not in at.wait_for_exit(1):
      raise Wrong("the error of the second run does not name the reason")
  finally:
    at.process = first
    if first.wait(LIMIT):
      raise Wrong("the first run failed")


def clock_jumps(at: Place, rng: np.random.Generator) -> None:
  """Set the clock back or forward by up to three years, during the run and between two starts."""
  (at.folder / "sitecustomize.py").write_text(_CLOCK)
  at.environment = {"PYTHONPATH": str(at.folder), "CLOCK": str(at.folder / "clock")}

  def jump() -> None:
    seconds = rng.choice([-1, 1]) * 10 ** rng.uniform(0, 8)
    (at.folder / "new").write_text(str(seconds))
    (at.folder / "new").replace(at.folder / "clock")

  jump()
  at.start()
  for epoch in range(1, EPOCHS):
    at.wait_for(functools.partial(_has_ended, at, epoch))
    jump()
  if not at.kill():
    raise Missed
  jump()


def _has_data(at: Place) -> bool:
  """Return whether the run has loaded its data, which its first log line describes."""
  return HAS_DATA in at.output()


def _has_ended(at: Place, epoch: int) -> bool:
  """Return whether the run has logged the end of an epoch, counted from 1."""
  return f"epoch {epoch}/{EPOCHS}" in at.output()


def _mount(*arguments: str) -> None:
  completed = subprocess.run(["mount", *arguments], capture_output=True, text=True)
  if completed.returncode:
    raise Skipped(f"mounting is not permitted ({completed.stderr.strip()})")


def _disk(at: Place, folder: pathlib.Path, options: str) -> None:
  """Mount a file system in memory at a new folder, until the end of the place."""
  folder.mkdir()
  _mount("-t", "tmpfs", "-o", options, "tmpfs", str(folder))
  at.undo.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)


# --- By name -------------------------------------------------------------------------------------

Fault: TypeAlias = Callable[[Place, np.random.Generator], None]

KILLS: dict[str, Fault] = {
  "preparation": kill_in_preparation,
  "compilation": kill_in_compilation,
  "training": kill_in_training,
  "checkpoint": kill_in_checkpoint,
  "evaluation": kill_in_evaluation,
  "any time": kill_at_any_time,
}
OTHERS: dict[str, Fault] = {
  "SIGTERM": sigterm,
  "checkpoint truncated": functools.partial(damaged_checkpoint, "truncated"),
  "checkpoint flipped": functools.partial(damaged_checkpoint, "flipped"),
  "checkpoint file missing": functools.partial(damaged_checkpoint, "missing"),
  "decoded cache damaged": damaged_cache,
  "full disk: run folder": full_disk,
  "full disk: metrics": full_at_metrics,
  "full disk: decoded cache": full_at_decoded,
  "read-only run folder": read_only,
  "two runs at once": second_run,
  "clock jumps": clock_jumps,
}
