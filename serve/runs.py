"""The runs below the served folders: their states, rows and pictures, read as they change.

Requests name runs and pictures. Both names are looked up among those that were found on disk, so no
text of a request becomes a path.
"""

import math
import os
import pathlib
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from analysis import images, run_record
from analysis.run_record import RunRecord
from cifar_jax import errors
from cifar_jax.config import as_json, flatten
from cifar_jax.runs import checkpoints
from cifar_jax.types import Row
from configs import default

TRAINING, FINISHED, STOPPED, UNREADABLE = "training", "finished", "stopped", "unreadable"
_MAX_RUNS = 2000
_SECONDS_BETWEEN_SCANS = 2.0
_FILES = ("config.json", "dataset.json", "metrics.jsonl", "results.json")
_FIGURE_FOLDERS = ("plots", "evaluation")
_LOCK_TABLE = pathlib.Path("/proc/locks")
_SKIPPED_FOLDERS = ("checkpoints", "tensorboard")


class RunIndex:
  """All runs below some folders, by name.

  A name is the path below the served folder, or the full path if two folders have the same name.
  Methods may be called from several threads.

  Args:
    roots: folders to search; a run folder stands for itself.

  Raises:
    UserError: a root is not a folder.
  """

  def __init__(self, roots: Sequence[str | os.PathLike]):
    self.roots = [_existing_folder(root) for root in roots]
    self._lock = threading.Lock()
    self._paths: dict[str, pathlib.Path] = {}
    self._scanned_at = -math.inf
    self._records: dict[pathlib.Path, tuple[tuple, RunRecord]] = {}

  def paths(self) -> dict[str, pathlib.Path]:
    """Return the run folders by name, sorted; search again if the last search is old."""
    with self._lock:
      if time.monotonic() - self._scanned_at > _SECONDS_BETWEEN_SCANS:
        self._paths = _name_folders(self.roots)
        self._scanned_at = time.monotonic()
      return self._paths

  def path(self, name: str) -> pathlib.Path:
    """Return the folder of a known run.

    Raises:
      KeyError: no run has this name.
    """
    return self.paths()[name]

  def summaries(self) -> list[Row]:
    """Return for each run its name, state, progress and main figures."""
    held = _locked_files()
    return [self._summarize(name, path, held) for name, path in self.paths().items()]

  def metrics(self, name: str, after: int) -> list[Row]:
    """Return the numbers of all epochs after the first `after`: means if there are several seeds.

    Raises:
      KeyError: no run has this name.
      UserError: a file of the run is not valid.
    """
    rows = self._record(self.path(name)).rows[max(0, after) :]
    return [{key: value for key, value in row.items() if key != "seeds"} for row in rows]

  def details(self, name: str) -> Row:
    """Return the config, results and pictures of a run.

    Raises:
      KeyError: no run has this name.
      UserError: a file of the run is not valid.
    """
    path = self.path(name)
    record = self._record(path)
    defaults = flatten(as_json(default.get_config()))
    missing = object()
    return {
      "name": name,
      "title": record.title,
      "path": images.printable(path),
      "class_names": record.class_names,
      "config": record.fields,
      "changed": sorted(k for k, v in record.fields.items() if defaults.get(k, missing) != v),
      "results": flatten(record.results),
      "figures": sorted(_find_figures(path)),
      "has_report": _is_plain_file(path / "report.html"),
    }

  def figure(self, name: str, figure: str) -> bytes:
    """Return a PNG of a run, which `details` lists.

    Raises:
      KeyError: no such run or picture.
      OSError: the file cannot be read.
    """
    return _find_figures(self.path(name))[figure].read_bytes()

  def report(self, name: str) -> bytes:
    """Return the run's report.html.

    Raises:
      KeyError: no run has this name, or it has no report.
      OSError: the file cannot be read.
    """
    file = self.path(name) / "report.html"
    if not _is_plain_file(file):
      raise KeyError(file.name)
    return file.read_bytes()

  def _record(self, path: pathlib.Path) -> RunRecord:
    """Return the files of a run, read again if one of them has changed."""
    stamp = tuple(_stamp(path / name) for name in _FILES)
    with self._lock:
      cached = self._records.get(path)
    if cached is None or cached[0] != stamp:
      cached = stamp, run_record.read_record(path)
      with self._lock:
        self._records[path] = cached
    return cached[1]

  def _summarize(self, name: str, path: pathlib.Path, held: set[int] | None) -> Row:
    try:
      record = self._record(path)
      return _describe(name, path, record, held)
    except errors.UserError as error:
      return {"name": name, "state": UNREADABLE, "problem": str(error)}
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
      problem = errors.printable(f"{type(error).__name__}: {error}")[:200]
      return {"name": name, "state": UNREADABLE, "problem": problem}


def _describe(name: str, path: pathlib.Path, record: RunRecord, held: set[int] | None) -> Row:
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
  """Estimate the rest of a training from its last epochs; None before the first has ended."""
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
  changed = max((_stamp(path / name)[0] for name in _FILES), default=0) / 1e9
  return time.time() - changed < 60 + 3 * max(record.finite_values("seconds"), default=0.0)


def _locked_files() -> set[int] | None:
  """Return the inodes of this machine's locked files; None if the system does not list them."""
  try:
    lines = _LOCK_TABLE.read_text().splitlines()
  except OSError:
    return None
  # Such as "1: FLOCK  ADVISORY  WRITE 9593 fe:00:1532542 0 EOF".
  fields = [line.split() for line in lines]
  return {int(parts[5].rsplit(":", 1)[1]) for parts in fields if parts[1] == "FLOCK"}


def _existing_folder(root: str | os.PathLike) -> pathlib.Path:
  name = os.path.expanduser(root)
  if "://" in name:
    raise errors.UserError(f"--workdir: {name} is in a bucket; copy the runs to a local folder")
  if not os.path.isdir(name):
    raise errors.UserError(
      f"--workdir: {images.printable(name)} is not a folder; name run folders, or folders of them"
    )
  return pathlib.Path(os.path.abspath(name))


def _name_folders(roots: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
  found: dict[pathlib.Path, str] = {}  # the first root that holds a folder names it
  for root in roots:
    for path in _find_runs(root):
      short = path.relative_to(root).as_posix() if path != root else path.name
      found.setdefault(path, images.printable(short))
  names = list(found.values())
  named = {
    name if names.count(name) == 1 else images.printable(path): path for path, name in found.items()
  }
  return dict(sorted(named.items()))


def _find_runs(root: pathlib.Path) -> Iterable[pathlib.Path]:
  """Yield the run folders at and below a folder; links to other folders are not followed."""
  num_found = 0
  for parent, folders, files in os.walk(root):
    if "config.json" in files and _is_run(pathlib.Path(parent)):
      yield pathlib.Path(parent)
      num_found += 1
    if num_found == _MAX_RUNS:
      return
    folders[:] = sorted(f for f in folders if f not in _SKIPPED_FOLDERS and f[0] != ".")


def _is_run(path: pathlib.Path) -> bool:
  try:
    run_record.read_config(epath.Path(path))
  except (errors.UserError, OSError):
    return False
  return True


def _find_figures(path: pathlib.Path) -> dict[str, pathlib.Path]:
  """Return the PNGs of a run by name, such as 'plots/kernels.png'."""
  figures = {}
  for folder in _FIGURE_FOLDERS:
    if not (path / folder).is_dir():
      continue
    for file in (path / folder).iterdir():
      if file.suffix == ".png" and file.name[0] != "." and _is_plain_file(file):
        figures[images.printable(f"{folder}/{file.name}")] = file
  return figures


def _is_plain_file(path: pathlib.Path) -> bool:
  """Return whether a path is a file, and no link, which may lead out of the run folder."""
  return path.is_file() and not path.is_symlink()


def _stamp(path: pathlib.Path) -> tuple[Any, ...]:
  """Return what changes when a file is replaced: time, size and inode; zeros if it is missing."""
  try:
    status = path.stat()
  except OSError:
    return 0, 0, 0
  return status.st_mtime_ns, status.st_size, status.st_ino
