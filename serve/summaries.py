"""The state, progress and main figures of a run, read from its files."""

import math
import pathlib
import time
from typing import Any

from etils import epath

from analysis.run_record import RunRecord
from cifar_jax.runs import checkpoints
from cifar_jax.types import Row

TRAINING, FINISHED, STOPPED, UNREADABLE = "training", "finished", "stopped", "unreadable"
FILES = ("config.json", "dataset.json", "metrics.jsonl", "results.json")
_LOCK_TABLE = pathlib.Path("/proc/locks")


def describe(name: str, path: pathlib.Path, record: RunRecord, held: set[int] | None) -> Row:
  """Return the entry of a run in the list of runs.

  Args:
    name: the run's name in the list.
    path: its folder.
    record: its files.
    held: the inodes of locked files, as `locked_files` returns them.
  """
  state = FINISHED if record.results else TRAINING if _is_live(path, record, held) else STOPPED
  best = [value for value in record.finite_values("val_accuracy") if math.isfinite(value)]
  num_epochs = record.config["num_epochs"]
  return {
    "name": name,
    "state": state,
    "model": str(record.config["model"]["name"]),
    "dataset": str(record.dataset_name),
    "epochs": len(record.rows),
    "num_epochs": num_epochs,
    "num_seeds": record.config.get("num_seeds", 1),
    "seconds_left": _seconds_left(path, record) if state == TRAINING else None,
    "val_accuracy": best[-1] if best else None,
    "best_val_accuracy": max(best, default=None),
    "test_accuracy": record.results.get("test_accuracy"),
    "test_uses": record.num_test_uses,
    "parameters": (record.results.get("parameters") or {}).get("total"),
    "seconds": record.seconds,
    "can_predict": bool(record.dataset) and bool(newest_weights(path)),
  }


def newest_weights(path: pathlib.Path) -> int | None:
  """Return the step of the newest selected weights of a run, None if it has none yet."""
  return max(checkpoints.list_steps(epath.Path(path) / "checkpoints" / "best"), default=None)


def _seconds_left(path: pathlib.Path, record: RunRecord) -> float | None:
  """Estimate the time left from the last epochs; None before the first epoch has ended."""
  seconds = record.finite_values("seconds")[-5:]
  if not seconds:
    return None
  elapsed = time.time() - (path / "metrics.jsonl").stat().st_mtime
  epochs_left = record.config["num_epochs"] - len(record.rows)
  mean = sum(seconds) / len(seconds)
  return max(0.0, epochs_left * mean - min(elapsed, mean))


def _is_live(path: pathlib.Path, record: RunRecord, held: set[int] | None) -> bool:
  """Return whether a process writes to an unfinished run.

  Where the locks of other processes are unknown, a run counts as live until it has been silent for
  three epochs. Taking the lock to find out would disturb a run that is about to start.
  """
  if held is not None:
    lock = path / ".lock"
    return lock.exists() and lock.stat().st_ino in held
  changed = max((stamp(path / name)[0] for name in FILES), default=0) / 1e9
  return time.time() - changed < 60 + 3 * max(record.finite_values("seconds"), default=0.0)


def locked_files() -> set[int] | None:
  """Return the inodes of this machine's locked files; None if the system does not list them."""
  try:
    lines = _LOCK_TABLE.read_text().splitlines()
  except OSError:
    return None
  # Such as "1: FLOCK  ADVISORY  WRITE 9593 fe:00:1532542 0 EOF".
  fields = [line.split() for line in lines]
  return {int(parts[5].rsplit(":", 1)[1]) for parts in fields if parts[1] == "FLOCK"}


def stamp(path: pathlib.Path) -> tuple[Any, ...]:
  """Return what changes when a file is replaced: time, size and inode; zeros if it is missing."""
  try:
    status = path.stat()
  except OSError:
    return 0, 0, 0
  return status.st_mtime_ns, status.st_size, status.st_ino
