"""The runs below the served folders: their states, rows and pictures, read as they change.

Requests name runs and pictures. Both names are looked up among those that were found on disk, so no
text from a request becomes a path.
"""

import json
import math
import os
import pathlib
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from etils import epath

from analysis import images, run_record
from analysis.run_record import RunRecord
from cifar_jax import errors
from cifar_jax.config import as_json, flatten
from cifar_jax.runs import run_folder
from cifar_jax.types import Row
from configs import default
from serve import summaries

_MAX_RUNS = 2000
_SECONDS_BETWEEN_SCANS = 2.0
_FIGURE_FOLDERS = ("plots", "evaluation")
_SKIPPED_FOLDERS = ("checkpoints", "tensorboard")
T = TypeVar("T")


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
        self._paths = _name_folders(self.roots, set(self._paths.values()))
        self._scanned_at = time.monotonic()
      return self._paths

  def path(self, name: str) -> pathlib.Path:
    """Return the folder of a known run.

    Raises:
      KeyError: no run has this name.
    """
    return self.paths()[name]

  def list_runs(self) -> list[Row]:
    """Return for each run its name, state, progress and main figures."""
    held = summaries.locked_files()
    return [self._summarize(name, path, held) for name, path in self.paths().items()]

  def metrics(self, name: str, after: int) -> list[Row]:
    """Return the numbers of all epochs after the first `after`: means if there are several seeds.

    Raises:
      KeyError: no run has this name.
      UserError: a file of the run is not valid.
    """
    path = self.path(name)
    with run_folder.reading(path):
      rows = self._record(path).rows[max(0, after) :]
      return _checked([{k: value for k, value in row.items() if k != "seeds"} for row in rows])

  def details(self, name: str) -> Row:
    """Return the config, results and pictures of a run.

    Raises:
      KeyError: no run has this name.
      UserError: a file of the run is not valid.
    """
    path = self.path(name)
    with run_folder.reading(path):
      record = self._record(path)
      details = {
        "name": name,
        "title": record.title,
        "path": images.printable(path),
        "class_names": record.class_names,
        "config": record.fields,
        "changed": _changed_fields(record),
        "results": flatten(record.results),
      }
      figures = {
        "figures": sorted(_find_figures(path)),
        "has_report": _is_plain_file(path / "report.html"),
      }
      return _checked(details | figures)

  def figure(self, name: str, figure: str) -> bytes:
    """Return a PNG of a run by its name in `details`.

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
    stamp = tuple(summaries.stamp(path / name) for name in summaries.FILES)
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
      return _checked(summaries.describe(name, path, record, held))
    except errors.UserError as error:
      return {"name": name, "state": summaries.UNREADABLE, "problem": str(error)}
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
      problem = errors.printable(f"{type(error).__name__}: {error}")[:200]
      return {"name": name, "state": summaries.UNREADABLE, "problem": problem}


def _checked(content: T) -> T:
  """Return JSON content; raise ValueError if it holds what JSON lacks, such as NaN."""
  json.dumps(content, allow_nan=False)
  return content


def _changed_fields(record: RunRecord) -> list[str]:
  """Return the names of a config's fields that differ from their defaults."""
  defaults, missing = flatten(as_json(default.get_config())), object()
  return sorted(name for name, v in record.fields.items() if defaults.get(name, missing) != v)


def _existing_folder(root: str | os.PathLike) -> pathlib.Path:
  name = os.path.expanduser(root)
  if "://" in name:
    raise errors.UserError(f"--workdir: {name} is in a bucket; copy the runs to a local folder")
  if not os.path.isdir(name):
    raise errors.UserError(
      f"--workdir: {images.printable(name)} is not a folder; name run folders, or folders of them"
    )
  return pathlib.Path(os.path.abspath(name))


def _name_folders(
  roots: Sequence[pathlib.Path], known: Collection[pathlib.Path]
) -> dict[str, pathlib.Path]:
  found: dict[pathlib.Path, str] = {}  # the first root that holds a folder names it
  for root in roots:
    for path in _find_runs(root, known):
      short = path.relative_to(root).as_posix() if path != root else path.name
      found.setdefault(path, images.printable(short))
  names = list(found.values())
  named = {
    name if names.count(name) == 1 else images.printable(path): path for path, name in found.items()
  }
  return dict(sorted(named.items()))


def _find_runs(root: pathlib.Path, known: Collection[pathlib.Path]) -> Iterable[pathlib.Path]:
  """Yield the run folders at and below a folder; links to other folders are not followed.

  known: folders that are known to be runs.
  """
  num_found = 0
  for parent, folders, files in os.walk(root):
    path = pathlib.Path(parent)
    if "config.json" in files and (path in known or _is_run(path)):
      yield path
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
  """Return whether a path is a file and not a link, which may lead out of the run folder."""
  return path.is_file() and not path.is_symlink()
