"""How two runs of one config differ: in no bit, or from which epoch and by how much."""

import pathlib
from typing import NamedTuple

import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.runs import checkpoint_arrays, checkpoint_files, run_folder
from cifar_jax.types import Row

_WEIGHTS = "state.params."
_TIMES = ("seconds", "images_per_second")
_NOT_PER_SEED = ("step", "epoch", "file")


class ComparedRun(NamedTuple):
  """One of the two runs that are compared.

  Attributes:
    workdir: the run folder.
    seed: the index of the seed to compare, if the run has several; None for the only one, or all.
  """

  workdir: pathlib.Path
  seed: int | None = None


class Difference(NamedTuple):
  """What differs between two runs.

  Attributes:
    is_same: whether no bit differs in the last checkpoint and in the metrics of any epoch, except
      times.
    weights: as `distance` returns it.
    epoch: the first epoch whose metrics differ; None if there is none.
  """

  is_same: bool
  weights: float
  epoch: int | None


def compare(a: ComparedRun, b: ComparedRun) -> Difference:
  """Compare the metrics and the newest checkpoints `latest` of two finished runs.

  Raises:
    UserError: a checkpoint or a row is damaged or missing.
  """
  rows_a, rows_b = metrics(a), metrics(b)
  is_same = rows_a == rows_b and checkpoint_arrays.checksums(
    _arrays(a)
  ) == checkpoint_arrays.checksums(_arrays(b))
  weights = 0.0 if is_same else distance(a, b)
  return Difference(is_same, weights, first_difference(rows_a, rows_b))


def distance(a: ComparedRun, b: ComparedRun) -> float:
  """Return the norm of the difference of the final weights, relative to the norm of those of `a`.

  Raises:
    UserError: a checkpoint is damaged or missing.
  """
  arrays, others = _arrays(a), _arrays(b)
  weights = [path for path in arrays if path.startswith(_WEIGHTS)]
  # One norm over all weights, because some, such as biases before batch norm, are only rounding.
  reference = np.concatenate([arrays[path].ravel() for path in weights]).astype(np.float64)
  other = np.concatenate([others[path].ravel() for path in weights])
  return float(np.linalg.norm(reference - other) / np.linalg.norm(reference))


def metrics(run: ComparedRun) -> list[Row]:
  """Return the rows of metrics.jsonl without times, of the chosen seed if one is chosen."""
  rows = []
  for row in run_folder.RunFolder(run.workdir, writer=False).metrics():
    values = {name: value for name, value in row.items() if name != "seeds"}
    if run.seed is not None and "seeds" in row:
      values = {name: row[name] for name in _NOT_PER_SEED if name in row}
      values |= {name: v for name, v in row["seeds"][run.seed].items() if name != "seed"}
    elif "seeds" in row:
      values["seeds"] = row["seeds"]
    rows.append({name: value for name, value in values.items() if name not in _TIMES})
  return rows


def first_difference(rows_a: list[Row], rows_b: list[Row]) -> int | None:
  """Return the first epoch whose rows differ or that only one run has; None if there is none."""
  for epoch, (a, b) in enumerate(zip(rows_a, rows_b, strict=False), 1):
    if a != b:
      return epoch
  shorter, longer = sorted((len(rows_a), len(rows_b)))
  return None if shorter == longer else shorter + 1


def _arrays(run: ComparedRun) -> checkpoint_arrays.Arrays:
  """Return the arrays of the newest `latest` without times, of the chosen seed if one is chosen."""
  folder = epath.Path(run.workdir) / "checkpoints" / "latest"
  steps = checkpoint_files.list_steps(folder)
  if not steps:
    raise errors.UserError(f"{run.workdir}: has no checkpoint; train it to the end")
  try:
    arrays = checkpoint_arrays.read(checkpoint_files.checkpoint_folder(folder, max(steps))).arrays
  except checkpoint_arrays.Unreadable as error:
    raise errors.UserError(f"{error}; repeat the training") from error
  del arrays["seconds"]
  if run.seed is not None:
    arrays = {path: array[run.seed] for path, array in arrays.items()}
  return arrays
