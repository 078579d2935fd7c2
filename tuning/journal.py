"""The journal of a sweep: a file to which several workers append, and the Optuna study in it."""

import hashlib
import os

import optuna
from etils import epath
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from cifar_jax import errors
from configs.sweeps import RANK_BY, Sweep


def open_study(sweep: Sweep, folder: epath.Path, num_epochs: int) -> optuna.Study:
  """Return the study of a sweep: from the folder's journal if it is there, else a new one.

  Args:
    folder: the sweep's folder. In a bucket the study is kept in memory.
    num_epochs: the length of each trial.

  Raises:
    UserError: the journal is corrupt.
  """
  return optuna.create_study(
    storage=_open_storage(folder),
    study_name=_study_name(sweep),
    direction="maximize" if RANK_BY[sweep.rank_by] == "max" else "minimize",
    pruner=_make_pruner(sweep, num_epochs),
    load_if_exists=True,
  )


def _study_name(sweep: Sweep) -> str:
  """Return a name that is the same for workers of the same sweep."""
  how = (sweep.pruner, sweep.first_rung, sweep.reduction, sweep.rank_by, sweep.sampler_seed)
  trials = sorted(repr(sorted(trial.items())) for trial in sweep.trials)
  description = repr([trials, sweep.space, how])
  kind = "tpe" if sweep.space else "listed"
  digest = hashlib.sha256(description.encode()).hexdigest()[:8]
  return "-".join(part for part in (kind, sweep.pruner, digest) if part)


def _make_pruner(sweep: Sweep, num_epochs: int) -> optuna.pruners.BasePruner:
  if not sweep.pruner:
    return optuna.pruners.NopPruner()
  if sweep.pruner == "halving":
    return optuna.pruners.SuccessiveHalvingPruner(sweep.first_rung, sweep.reduction)
  return optuna.pruners.HyperbandPruner(sweep.first_rung, num_epochs, sweep.reduction)


def _open_storage(folder: epath.Path) -> BaseStorage:
  if "://" in str(folder):
    return InMemoryStorage()
  path = folder / "study.journal"
  try:
    return JournalStorage(JournalFileBackend(os.fspath(path), lock_obj=_RepairingLock(path)))
  except (ValueError, LookupError, TypeError) as error:
    raise errors.UserError(
      f"{path}: corrupt ({errors.describe(error)}); remove the file: finished trials keep their "
      "results in their folders"
    ) from error


class _RepairingLock(JournalFileSymlinkLock):
  """The lock that a worker holds to append; taking it drops a line that a killed worker began.

  Optuna ignores such a line at the end of the file, but would append to it and then fail.
  """

  def __init__(self, path: epath.Path):
    super().__init__(os.fspath(path))
    self._path = path

  def acquire(self) -> bool:
    is_acquired = super().acquire()
    try:
      _drop_partial_line(self._path)
    except BaseException:
      self.release()
      raise
    return is_acquired


def _drop_partial_line(path: epath.Path) -> None:
  with open(path, "rb+") as file:
    size = file.seek(0, os.SEEK_END)
    if not size:
      return
    file.seek(size - 1)
    if file.read(1) != b"\n":
      file.seek(0)
      file.truncate(file.read().rfind(b"\n") + 1)
