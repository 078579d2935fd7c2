"""A run folder: config.json, dataset.json, metrics.jsonl, results.json and folders beside them.

Every file is written beside and renamed into place, so a reader, or the next start, finds the old
one or the new one and never a part.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import filelock
import ml_collections
from etils import epath

import errors
from configs import default


class RunFolder:
  """The files of one run that are not checkpoints.

  Args:
    workdir: where the run lives; made if it is not there.
    writer: False in all processes but the first: such a folder is read and never written.
  """

  def __init__(self, workdir: epath.PathLike, writer: bool = True):
    self.path = epath.Path(workdir)
    if "://" not in str(workdir):
      self.path = epath.Path(os.path.abspath(workdir))  # which Orbax insists on
    self.writer = writer
    self._tensorboard = None
    if writer:
      try:
        (self.path / "plots").mkdir(parents=True, exist_ok=True)
      except OSError as error:
        raise errors.UserError(
          f"workdir: {workdir} cannot be written ({error.strerror or error}); name another folder"
        ) from None

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Holds the folder for this process alone; UserError if another run holds it."""
    busy = f"another run is writing to {self.path}; wait for it or name another folder"
    with hold(self.path, ".lock", busy) if self.writer else contextlib.nullcontext():
      yield

  def refuse_other_config(self, config: ml_collections.ConfigDict) -> None:
    """Compares with config.json, if there is one.

    Raises:
      UserError: the folder holds a run with another config; names the fields that differ.
    """
    file = self.path / "config.json"
    if not file.exists():
      return
    try:
      there = json.loads(file.read_text())
    except ValueError:
      raise errors.UserError(f"{file}: is not JSON; name another workdir") from None
    # A run from before a field was thought of did what the field's default does.
    old, new = flat(_as_json(default.get_config())) | flat(there), flat(_as_json(config))
    differing = [
      f"{name} ({old.get(name, 'absent')} there, {new.get(name, 'absent')} now)"
      for name in sorted(old.keys() | new.keys())
      if old.get(name) != new.get(name) or (name in old) != (name in new)
    ]
    if differing:
      raise errors.UserError(
        f"workdir: {self.path} holds a run with another config: {', '.join(differing)}; "
        "name another folder, or the same values to resume"
      )

  def write_config(self, config: ml_collections.ConfigDict) -> None:
    """Writes config.json, which makes the folder this run's."""
    self._write_json("config.json", _as_json(config))

  def write_dataset(self, description: dict[str, Any]) -> None:
    """Writes dataset.json: what a trained network needs to know of the data, but the images."""
    self._write_json("dataset.json", description)

  def metrics(self) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, one for each finished epoch."""
    file = self.path / "metrics.jsonl"
    if not file.exists():
      return []
    try:
      return [json.loads(line) for line in file.read_text().splitlines()]
    except ValueError:
      raise errors.UserError(f"{file}: a line is not JSON; name another workdir") from None

  def write_metrics(self, rows: list[dict[str, Any]]) -> None:
    """Makes metrics.jsonl hold exactly `rows`."""
    self._write("metrics.jsonl", "".join(json.dumps(_finite(row)) + "\n" for row in rows))

  def write_scalars(self, row: dict[str, Any]) -> None:
    """Appends an epoch's numbers to the TensorBoard events; a repeated epoch replaces its first."""
    if not self.writer or "://" in str(self.path):
      return
    if self._tensorboard is None:
      from tensorboardX import SummaryWriter

      self._tensorboard = SummaryWriter(
        str(self.path / "tensorboard"), purge_step=row["step"], write_to_disk=True
      )
    for name, value in row.items():
      if isinstance(value, int | float) and name not in ("step", "seeds"):
        self._tensorboard.add_scalar(name, value, row["step"])
    self._tensorboard.flush()

  def results(self) -> dict[str, Any] | None:
    """What results.json holds, or None if the run has not finished."""
    file = self.path / "results.json"
    return json.loads(file.read_text()) if file.exists() else None

  def write_results(self, results: dict[str, Any]) -> None:
    self._write_json("results.json", results)

  def close(self) -> None:
    if self._tensorboard is not None:
      self._tensorboard.close()

  def _write_json(self, name: str, value: Any) -> None:
    self._write(name, json.dumps(_finite(value), indent=2) + "\n")

  def _write(self, name: str, text: str) -> None:
    if not self.writer:
      return
    temporary = self.path / f".{name}.tmp"
    try:
      temporary.write_text(text)
      temporary.replace(self.path / name)
    except OSError as error:
      raise errors.UserError(
        f"{self.path / name}: cannot be written ({error.strerror or error}); mend that, and the "
        "same command resumes"
      ) from error


def _as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
  return json.loads(json.dumps(config.to_dict()))


@contextlib.contextmanager
def hold(folder: epath.Path, name: str, busy: str | None = None) -> Iterator[None]:
  """Holds the lock file `name` of a folder, which is made if it is not there.

  Args:
    busy: what a UserError says if another process holds it; None to wait for that process.
  """
  if "://" in str(folder):  # object stores have no locks
    yield
    return
  lock = filelock.FileLock(folder / name, timeout=-1 if busy is None else 0)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock.acquire()
  except filelock.Timeout:
    raise errors.UserError(f"workdir: {busy}") from None
  except OSError as error:
    raise errors.UserError(
      f"workdir: {folder} cannot be written ({error.strerror or error}); name another folder"
    ) from None
  try:
    yield
  finally:
    lock.release()


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """The fields of a config by their whole names, such as 'optimizer.learning_rate'."""
  fields = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      fields |= flat(value, f"{prefix}{key}.")
    else:
      fields[prefix + key] = value
  return fields


def _finite(value: Any) -> Any:
  """JSON has no NaN and no infinity: null stands for both."""
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
