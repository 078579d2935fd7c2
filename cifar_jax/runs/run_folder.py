"""A run folder: config.json, dataset.json, metrics.jsonl, results.json and the folders of a run.

Every file is written under another name and then renamed, so that a reader finds the old file or
the new one, never a partial one.
"""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from typing import Any

import ml_collections
from etils import epath

from cifar_jax import errors
from cifar_jax.config import as_json, differences, flatten
from cifar_jax.runs import locks, tensorboard
from cifar_jax.runtime import distributed
from cifar_jax.types import Row

EARLIER_EPOCHS = "earlier_num_epochs"  # in config.json of a run that was continued
FORKED_FROM = "forked_from"  # in config.json of a run that started from another's checkpoint
HISTORY = (EARLIER_EPOCHS, FORKED_FROM)  # what config.json holds besides the config


class RunFolder:
  """The files of one run, except its checkpoints.

  Args:
    workdir: the folder of the run; created if needed.
    writer: False in all processes but the first, which alone writes.

  Raises:
    UserError: the folder cannot be written.
  """

  def __init__(self, workdir: epath.PathLike, writer: bool = True):
    self.path = epath.Path(workdir)
    if "://" not in str(workdir):
      self.path = epath.Path(os.path.abspath(workdir))  # Orbax needs absolute paths
    self.writer = writer
    self._events = tensorboard.EventWriter(self.path / "tensorboard")
    if writer:
      try:
        (self.path / "plots").mkdir(parents=True, exist_ok=True)
      except OSError as error:
        raise errors.UserError(
          f"workdir: {workdir} cannot be written ({error.strerror or error}); use another folder"
        ) from None

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Lock the folder for this process; raise UserError if another run holds it."""
    busy = f"another run is writing to {self.path}; wait for it or use another folder"
    with locks.lock_folder(self.path, ".lock", busy) if self.writer else contextlib.nullcontext():
      yield

  def raise_if_unshared(self) -> None:
    """Raise UserError in a process that does not see what the first process writes here."""
    if not distributed.joined():
      return
    token = self.path / ".processes"
    if self.writer:
      token.write_text(secrets.token_hex(16))
    if not distributed.same_as_first(
      "workdir", lambda: token.read_text() if token.exists() else ""
    ):
      raise errors.UserError(
        f"workdir: {self.path} is not the folder that the first process writes to; use a folder "
        "that all hosts share, or a gs:// path"
      )

  def raise_if_other_config(
    self, config: ml_collections.ConfigDict, defaults: ml_collections.ConfigDict
  ) -> None:
    """Raise UserError, naming the fields that differ, if the folder holds another config's run.

    Args:
      config: the config of the run that is about to start.
      defaults: every field with its default. Runs older than a field behave as if it had its
        default.
    """
    changed = self._compare_configs(config, defaults)
    if changed:
      changes = ", ".join(
        f"{name} ({there} there, {now} now)" for name, (there, now) in changed.items()
      )
      raise errors.UserError(
        f"workdir: {self.path} holds a run with another config: {changes}; use another folder, or "
        "the same values to resume"
      )

  def epochs_before_more(
    self, config: ml_collections.ConfigDict, defaults: ml_collections.ConfigDict
  ) -> int | None:
    """Return the number of epochs of the folder's run, if `config` asks only for more."""
    changed = self._compare_configs(config, defaults)
    if changed.keys() != {"num_epochs"}:
      return None
    there, now = changed["num_epochs"]
    with reading(self.path / "config.json"):
      return there if there < now else None

  def _compare_configs(
    self, config: ml_collections.ConfigDict, defaults: ml_collections.ConfigDict
  ) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ, each with its value in config.json and in `config`."""
    file = self.path / "config.json"
    if not file.exists():
      return {}
    saved = flatten(as_json(defaults)) | flatten(read_json(file, "use another workdir"))
    for name in HISTORY:
      saved.pop(name, None)
    return differences(saved, flatten(as_json(config)))

  def write_config(self, config: ml_collections.ConfigDict) -> None:
    """Write config.json, which reserves the folder for this run.

    The file keeps the numbers of epochs after which the run was continued, as `earlier_num_epochs`,
    and the checkpoint that a fork started from, as `forked_from`.
    """
    content, file = as_json(config), self.path / "config.json"
    if file.exists():
      saved = read_json(file, "use another workdir")
      earlier = list(saved.get(EARLIER_EPOCHS, ()))
      if saved.get("num_epochs", config.num_epochs) != config.num_epochs:
        earlier.append(saved["num_epochs"])
      if earlier:
        content[EARLIER_EPOCHS] = earlier
    if lineage := self.lineage():
      content[FORKED_FROM] = f"{lineage[-1]['run']}@{lineage[-1]['step']}"
    self._write_json("config.json", content)

  def set_aside_results(self, epochs: int) -> None:
    """Rename the results.json of a run of `epochs` epochs, which is about to be continued."""
    file = self.path / "results.json"
    if self.writer and file.exists():
      file.replace(self.path / f"results_{epochs}_epochs.json")

  def write_dataset(self, description: Row) -> None:
    """Write dataset.json, which describes the dataset to later users of the network."""
    self._write_json("dataset.json", description)

  def has_checkpoint(self) -> bool:
    """Return whether the folder has a checkpoint to continue from."""
    from cifar_jax.runs import checkpoint_files  # here, because reports need no Orbax

    return bool(checkpoint_files.list_steps(self.path / "checkpoints" / "latest"))

  def raise_if_other_data(self, description: Row) -> None:
    """Raise UserError if the folder's run was trained on other images.

    Args:
      description: the content of dataset.json for the run that is about to start.
    """
    file = self.path / "dataset.json"
    if not (self.has_checkpoint() and file.exists()):
      return
    saved = read_json(file, "--mode=check restores it")
    names = ("fingerprint", "train_examples", "validation_examples", "test_examples")
    changes = [
      f"{name} {saved[name]} there, {description[name]} now"
      for name in names
      if name in saved and saved[name] != description[name]
    ]
    if changes:
      raise errors.UserError(
        f"data.name: the images are not those that {self.path} was trained on "
        f"({'; '.join(changes)}); restore them, or use another workdir"
      )

  def metrics(self) -> list[Row]:
    """Return the rows of metrics.jsonl, one for each finished epoch.

    Raises:
      UserError: a line is not JSON, or the epochs are not 1, 2, and so on.
    """
    file = self.path / "metrics.jsonl"
    if not file.exists():
      return []
    try:
      rows = [json.loads(line) for line in file.read_text().splitlines()]
    except (ValueError, RecursionError):
      raise errors.UserError(f"{file}: a line is not JSON; use another workdir") from None
    if [isinstance(row, dict) and row.get("epoch") for row in rows] != [*range(1, len(rows) + 1)]:
      raise errors.UserError(
        f"{file}: the lines are not those of epochs 1, 2, …; restore the file, or use another "
        "workdir"
      )
    return rows

  def metrics_until(self, step: int, epochs: int) -> list[Row]:
    """Return the rows up to `step`; raise UserError unless there are exactly `epochs`."""
    with reading(self.path / "metrics.jsonl"):
      rows = [row for row in self.metrics() if row["step"] <= step]
    if len(rows) != epochs:
      raise errors.UserError(
        f"{self.path / 'metrics.jsonl'}: has {len(rows)} of the {epochs} epochs before the "
        f"checkpoint of step {step}; restore the file, or use another workdir"
      )
    return rows

  def write_metrics(self, rows: list[Row]) -> None:
    """Replace the content of metrics.jsonl with `rows`."""
    self._write("metrics.jsonl", "".join(json.dumps(finite(row)) + "\n" for row in rows))

  def write_scalars(self, rows: list[Row]) -> None:
    """Add the numbers of new rows to the TensorBoard events; folders in buckets have none."""
    if self.writer and "://" not in str(self.path):
      self._events.write(rows)

  def results(self) -> Row | None:
    """Return the content of results.json, or None if the run has not finished."""
    file = self.path / "results.json"
    return read_json(file, "restore the file, or remove it") if file.exists() else None

  def write_results(self, results: Row) -> None:
    """Write results.json, which marks the run as finished."""
    self._write_json("results.json", results)

  def lineage(self) -> list[Row]:
    """Return the ancestors of a fork, the parent last; [] for a run from the start.

    Each has 'run' (its folder), 'step' and 'epoch' of the checkpoint, 'config_sha256',
    'fingerprint' of its dataset, 'git_commit' (None if the run was unfinished), 'selected_on',
    'config_changes' by field as [before, after], 'learning_rates' [before, after] if they jumped,
    and 'differences' from a run from the start.
    """
    file = self.path / "lineage.json"
    if not file.exists():
      return []
    with reading(file):
      lineage = read_json(file, "restore it")["lineage"]
      return [entry | {"run": str(entry["run"]), "step": int(entry["step"])} for entry in lineage]

  def write_lineage(self, lineage: list[Row]) -> None:
    """Write lineage.json, as `lineage` returns it."""
    self._write_json("lineage.json", {"lineage": lineage})

  def close(self) -> None:
    """Close the TensorBoard events."""
    self._events.close()

  def _write_json(self, name: str, value: Row) -> None:
    self._write(name, json.dumps(finite(value), indent=2) + "\n")

  def _write(self, name: str, text: str) -> None:
    if not self.writer:
      return
    temporary = self.path / f".{name}.tmp"
    try:
      temporary.write_text(text)
      if "://" not in str(temporary):  # on disk before the old file goes, in case power fails
        with open(temporary, "rb") as stream:
          os.fsync(stream.fileno())
      temporary.replace(self.path / name)
    except OSError as error:
      raise errors.UserError(
        f"{self.path / name}: cannot be written ({error.strerror or error}); fix this, then rerun "
        "the same command to resume"
      ) from error


def read_json(file: epath.Path, remedy: str) -> Row:
  """Return the object in a JSON file; raise UserError, with the remedy, if there is none."""
  try:
    content = json.loads(file.read_text())
    if not isinstance(content, dict):
      raise ValueError
  except (ValueError, RecursionError):
    raise errors.UserError(f"{file}: not a JSON object; {remedy}") from None
  return content


@contextlib.contextmanager
def reading(path: epath.PathLike | str) -> Iterator[None]:
  """Convert any error from reading a corrupt file into a one-line `UserError`."""
  try:
    yield
  except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
    raise errors.UserError(
      f"{path}: corrupt ({errors.describe(error)}); restore the file; --debug shows where"
    ) from error


def finite(value: Any) -> Any:
  """Return `value` with None for NaN and infinity, which JSON lacks."""
  if isinstance(value, dict):
    return {key: finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
