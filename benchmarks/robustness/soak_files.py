"""Faults of soak.py in saves and restarts: failed operations on files, and kills between them.

One of two processes that are one run is also killed in a save.
"""

import errno
import functools
import os
import pathlib
import signal
import time

import numpy as np

from benchmarks.robustness import file_faults
from benchmarks.robustness.soak_faults import Fault, Missed, Skipped
from benchmarks.robustness.soak_run import EPOCHS, LIMIT, STEPS, Place

# Numbers of operations, about those of an undisturbed run; a fault beyond the last one is missed.
_IN_CHECKPOINTS, _IN_RUN_FOLDER = 1500, 1800


def failed_operation(error: int, at: Place, rng: np.random.Generator) -> None:
  """Let an operation on a file of the run folder fail with an error number, in the first start."""
  _disturb(at, "", int(rng.integers(1, _IN_RUN_FOLDER)), error)
  if at.process.wait(LIMIT):  # the program may also continue without what failed
    at.wait_for_exit(1)


def failed_operation_on_resuming(error: int, at: Place, rng: np.random.Generator) -> None:
  """Kill the run when it has a checkpoint, and let an operation fail when it is resumed."""
  at.start()
  if not at.wait_for(lambda: at.steps("latest")) or not at.kill():
    raise Missed
  _disturb(at, "", int(rng.integers(1, 150)), error)
  if at.process.wait(LIMIT):
    at.wait_for_exit(1)


def kill_between_files(at: Place, rng: np.random.Generator) -> None:
  """Kill the run before an operation on a file of its checkpoints."""
  number = int(rng.integers(1, _IN_CHECKPOINTS))
  _disturb(at, "checkpoints/", number, file_faults.KILL)
  at.wait_for_exit(-signal.SIGKILL)


def kill_one_of_two(at: Place, rng: np.random.Generator) -> None:
  """Kill one of two processes while a checkpoint is written; the other must end with one line."""
  at.num_processes = 2
  at.start()
  newest = STEPS * int(rng.integers(EPOCHS))
  if not at.wait_for(lambda: at.newest("latest") >= newest and at.is_writing()):
    raise Missed
  time.sleep(rng.uniform(0, 0.05))
  children = pathlib.Path(f"/proc/{at.process.pid}/task/{at.process.pid}/children")
  pids = [int(pid) for pid in children.read_text().split()]
  if len(pids) < 2:
    raise Missed
  os.kill(pids[rng.integers(2)], signal.SIGKILL)
  at.wait_for_exit(128 + signal.SIGKILL)


def _disturb(at: Place, folder: str, number: int, error: int) -> None:
  """Start the run with a fault, and wait for its end.

  Raises:
    Missed: the run had fewer operations.
    Skipped: this machine cannot compile the layer.
  """
  try:
    library = file_faults.build(at.folder)
  except file_faults.Unavailable as reason:
    raise Skipped(str(reason)) from reason
  log = pathlib.Path(at.folder / "operations")
  part = f"{at.workdir}/{folder}"
  log.unlink(missing_ok=True)
  at.environment = file_faults.variables(library, part, number, error, log)
  at.start()
  at.environment = {}
  at.process.wait(LIMIT)
  if not log.exists() or len(log.read_text().splitlines()) < number:
    raise Missed


_ERRORS = {"EIO": errno.EIO, "EMFILE": errno.EMFILE, "ENOSPC": errno.ENOSPC}

FAULTS: dict[str, Fault] = {
  **{f"{name}: run": functools.partial(failed_operation, e) for name, e in _ERRORS.items()},
  **{
    f"{name}: resume": functools.partial(failed_operation_on_resuming, e)
    for name, e in _ERRORS.items()
  },
  "kill between files": kill_between_files,
  "one of two killed": kill_one_of_two,
}
