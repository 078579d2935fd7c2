"""A run folder: config.json, dataset.json, metrics.jsonl, results.json and folders beside them.

Every file is written beside and renamed into place, so a reader, or the next start, finds the old
one or the new one and never a part.
"""

import contextlib
import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from typing import Any

import ml_collections
from etils import epath

from cifar_jax import errors
from cifar_jax.config import as_json, changed_fields, flatten
from cifar_jax.runs import locks
from cifar_jax.runtime import distributed


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
    self._in_tensorboard = 0  # rows
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

  def refuse_unshared(self) -> None:
    """UserError in a process that does not see what the first one writes here."""
    if not distributed.joined():
      return
    token = self.path / ".processes"
    if self.writer:
      token.write_text(secrets.token_hex(16))
    if not distributed.same_as_first(
      "workdir", lambda: token.read_text() if token.exists() else ""
    ):
      raise errors.UserError(
        f"workdir: {self.path} is not the folder of that name which the first process writes to; "
        "name one that all hosts share, or a gs:// path"
      )

  def refuse_other_config(
    self, config: ml_collections.ConfigDict, defaults: ml_collections.ConfigDict
  ) -> None:
    """Raise UserError, naming the fields that differ, if the folder holds another config's run.

    Args:
      config: the config of the run that is about to start.
      defaults: every field with its default. Runs older than a field behave as if it had its
        default.
    """
    file = self.path / "config.json"
    if not file.exists():
      return
    saved = flatten(as_json(defaults)) | flatten(read_json(file, "name another workdir"))
    fields = flatten(as_json(config))
    differing = changed_fields(saved, fields).keys() | changed_fields(fields, saved).keys()
    if differing:
      changes = ", ".join(
        f"{name} ({saved.get(name, 'absent')} there, {fields.get(name, 'absent')} now)"
        for name in sorted(differing)
      )
      raise errors.UserError(
        f"workdir: {self.path} holds a run with another config: {changes}; use another folder, or "
        "the same values to resume"
      )

  def write_config(self, config: ml_collections.ConfigDict) -> None:
    """Writes config.json, which makes the folder this run's."""
    self._write_json("config.json", as_json(config))

  def write_dataset(self, description: dict[str, Any]) -> None:
    """Writes dataset.json: what a trained network needs to know of the data, but the images."""
    self._write_json("dataset.json", description)

  def metrics(self) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, one for each finished epoch.

    Raises:
      UserError: a line is no row, or an epoch is missing or there twice.
    """
    file = self.path / "metrics.jsonl"
    if not file.exists():
      return []
    try:
      rows = [json.loads(line) for line in file.read_text().splitlines()]
    except (ValueError, RecursionError):
      raise errors.UserError(f"{file}: a line is not JSON; name another workdir") from None
    if [isinstance(row, dict) and row.get("epoch") for row in rows] != [*range(1, len(rows) + 1)]:
      raise errors.UserError(
        f"{file}: its lines are not those of epochs 1, 2, …; put it back as it was, or name "
        "another workdir"
      )
    return rows

  def metrics_until(self, step: int, epochs: int) -> list[dict[str, Any]]:
    """The rows of the epochs that ended by `step`, of which there must be so many."""
    with reading(self.path / "metrics.jsonl"):
      rows = [row for row in self.metrics() if row["step"] <= step]
    if len(rows) != epochs:
      raise errors.UserError(
        f"{self.path / 'metrics.jsonl'}: has {len(rows)} of the {epochs} epochs before the "
        f"checkpoint of step {step}; put it back as it was, or name another workdir"
      )
    return rows

  def write_metrics(self, rows: list[dict[str, Any]]) -> None:
    """Makes metrics.jsonl hold exactly `rows`."""
    self._write("metrics.jsonl", "".join(json.dumps(_finite(row)) + "\n" for row in rows))

  def write_scalars(self, rows: list[dict[str, Any]]) -> None:
    """Adds the numbers of new rows to the TensorBoard events.

    A resumed run writes those of all its epochs again, for a killed one may not have written its
    last. Written here and now, not by SummaryWriter: its thread dies of a full disk, and then
    whoever gives it more numbers waits for ever.
    """
    if not self.writer or "://" in str(self.path):
      return
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2

    folder = self.path / "tensorboard"
    try:
      if self._tensorboard is None:
        folder.mkdir(exist_ok=True)
        self._tensorboard = event_file_writer.EventsWriter(str(folder / "events"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # replaces what was there
        event = event_pb2.Event(wall_time=time.time(), step=rows[0]["step"], session_log=start)
        self._tensorboard.write_event(event)
      for row in rows[self._in_tensorboard :]:
        for name, value in row.items():
          if isinstance(value, int | float) and name != "step":
            event = event_pb2.Event(wall_time=time.time(), step=row["step"])
            event.summary.CopyFrom(summary.scalar(name, value))
            self._tensorboard.write_event(event)
      self._tensorboard.flush()
    except OSError as error:
      raise errors.UserError(
        f"{folder}: cannot be written ({error.strerror or error}); mend that, and the same command "
        "resumes"
      ) from error
    self._in_tensorboard = len(rows)

  def results(self) -> dict[str, Any] | None:
    """What results.json holds, or None if the run has not finished."""
    file = self.path / "results.json"
    return read_json(file, "put it right, or remove it") if file.exists() else None

  def write_results(self, results: dict[str, Any]) -> None:
    self._write_json("results.json", results)

  def close(self) -> None:
    if self._tensorboard is not None:
      with contextlib.suppress(OSError):  # of rows that could not be written, which has been told
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


def read_json(file: epath.Path, remedy: str) -> dict[str, Any]:
  """The object in a file; UserError, with the remedy, if it holds no JSON object."""
  try:
    found = json.loads(file.read_text())
    if not isinstance(found, dict):
      raise ValueError
  except (ValueError, RecursionError):
    raise errors.UserError(f"{file}: holds no object of JSON; {remedy}") from None
  return found


@contextlib.contextmanager
def reading(path: epath.PathLike) -> Iterator[None]:
  """Turns what a file that nobody's run wrote makes fail, in any way, into one line."""
  try:
    yield
  except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
    why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    raise errors.UserError(
      f"{path}: holds what no run writes ({why}); put it back as it was; --debug shows where"
    ) from error


@contextlib.contextmanager
def hold(folder: epath.Path, name: str, busy: str | None = None) -> Iterator[None]:
  """Holds the lock file `name` of a folder, which is made if it is not there.

  Args:
    busy: what a UserError says if another process holds it; None to wait for that process.
  """
  if "://" in str(folder):  # object stores have no locks
    yield
    return

  def refuse() -> None:
    if busy is not None:
      raise errors.UserError(f"workdir: {busy}")

  with contextlib.ExitStack() as stack:
    try:
      folder.mkdir(parents=True, exist_ok=True)
      stack.enter_context(locks.held(folder / name, refuse))
    except OSError as error:
      raise errors.UserError(
        f"workdir: {folder} cannot be written ({error.strerror or error}); name another folder"
      ) from None
    yield


def _finite(value: Any) -> Any:
  """JSON has no NaN and no infinity: null stands for both."""
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
