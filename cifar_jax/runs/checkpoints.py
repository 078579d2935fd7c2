"""Orbax checkpoints of a run: `latest` to resume from, `best` by the monitored metric.

A checkpoint is complete or absent, because Orbax writes to another folder and renames it. `latest`
holds the best weights too. A run can therefore be resumed from `latest` alone, and a damaged `best`
is written again. Checkpoints newer than the `latest` that a run resumes from are deleted: training
is deterministic, so the repeated epochs write the same checkpoints again.

TensorStore returns some arrays with flipped bits without an error. Orbax's metadata of each
checkpoint therefore holds the SHA-256 of every array.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from cifar_jax import errors
from cifar_jax.runtime.console import log
from cifar_jax.types import Params, PyTree

_KEEP = 2
_STEP_DIGITS = 8  # in the name of a checkpoint's folder
_METADATA = "_CHECKPOINT_METADATA"  # Orbax's file; its 'custom_metadata' is free for use
_CHECKSUMS = "sha256"  # the key in the metadata, of checksums by path of the array

# Sums of the current epoch that old checkpoints lack: NaN, so that a row never holds a part of one.
_ADDED_SUMS = ("state.sums.top5",)

# The arrays of a checkpoint by path, such as 'state.params.stem_conv.kernel'.
Arrays: TypeAlias = dict[str, np.ndarray]


class Unreadable(Exception):
  """A checkpoint is damaged: 'folder: cannot be read (why)'."""


class Checkpoints:
  """The checkpoints of one run folder, which are trees of arrays with one structure."""

  def __init__(self, workdir: epath.PathLike):
    root = epath.Path(workdir) / "checkpoints"
    self._latest = _create_manager(root / "latest")
    self._best = _create_manager(root / "best")

  def save_best(self, step: int, variables: PyTree) -> None:
    """Write the best variables, which training had at `step`, and wait for the end."""
    with _one_line_errors(self._best):
      _save(self._best, step, variables)
      self._best.wait_until_finished()

  def save_latest(self, step: int, run: PyTree) -> None:
    """Start to write a run. Its arrays are copied first, so the caller may donate them.

    Args:
      run: a dictionary, in which 'best' holds the best variables.
    """
    with _one_line_errors(self._latest):
      _save(self._latest, step, run)

  def restore_latest(self, template: PyTree) -> tuple[int, PyTree] | None:
    """Return the newest readable checkpoint as (step, tree of NumPy arrays), None without any.

    Log a damaged checkpoint and continue with the one before. Delete all newer checkpoints.

    Args:
      template: a tree with the structure and the shapes of the saved one.

    Raises:
      UserError: the checkpoint does not fit the template, or no checkpoint can be read.
    """
    steps = sorted(self._latest.all_steps(), reverse=True)
    for step in steps:
      folder = _folder(self._latest, step)
      try:
        arrays = read(folder)
        if not any(path.startswith("best.") for path in arrays):
          arrays |= self._read_separate_best(step, template)
      except Unreadable as error:
        log.error("%s; trying the previous one", error)
        continue
      run = _fit(arrays, template, folder)
      self._rewind(step)
      return step, run
    if steps:
      raise errors.UserError(
        f"{self._latest.directory}: no checkpoint can be read; move the folder away to start anew"
      )
    return None

  def keep_best(self, step: int, variables: PyTree) -> None:
    """Make `best` hold these variables, with which a run was resumed at `step`."""
    newest = self._best.latest_step()
    if newest is not None:
      folder = _folder(self._best, newest)
      try:
        if _checksums(read(folder)) == _checksums(_to_host(variables)):
          return
      except Unreadable as error:
        log.error("%s; writing it again, from `latest`", error)
      if newest == step:
        self._best.delete(step)
    self.save_best(step, variables)

  def is_empty(self) -> bool:
    """Return whether there is nothing to resume from."""
    return not self._latest.all_steps()

  def close(self) -> None:
    """Wait until everything is written."""
    for manager in (self._best, self._latest):
      with _one_line_errors(manager):
        manager.wait_until_finished()
        manager.close()

  def _rewind(self, step: int) -> None:
    for manager in (self._latest, self._best):
      for newer in [s for s in manager.all_steps() if s > step]:
        manager.delete(newer)

  def _read_separate_best(self, step: int, template: PyTree) -> Arrays:
    """Return the best variables for an old `latest`, which does not hold them itself."""
    older = [s for s in self._best.all_steps() if s <= step]
    best = read(_folder(self._best, max(older))) if older else _to_host(template["best"])
    return {f"best.{path}": array for path, array in best.items()}


def read(folder: epath.Path) -> Arrays:
  """Return the arrays of a checkpoint by path.

  Raises:
    Unreadable: a file in the folder is missing, truncated or altered.
  """
  try:
    metadata = json.loads((folder / _METADATA).read_text())["custom_metadata"] or {}
    with ocp.StandardCheckpointer() as checkpointer:
      leaves = checkpointer.restore(_absolute(folder / "default"))
    arrays = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    if _CHECKSUMS in metadata:  # old checkpoints have none
      saved, actual = metadata[_CHECKSUMS], _checksums(arrays)
      bad = sorted(p for p in actual.keys() | saved.keys() if actual.get(p) != saved.get(p))
      if bad:
        raise ValueError(f"{bad[0]} is not what was written there")
  except Exception as error:  # damaged files fail in many ways, within Orbax and TensorStore
    raise Unreadable(f"{folder}: cannot be read ({_first_line(error)})") from error
  return arrays


def read_best(workdir: epath.PathLike) -> tuple[int, dict[str, Params]]:
  """Return the selected weights of a run folder, without knowing the model.

  Returns:
    The step that the weights were selected at, and {'params': {…}, 'batch_stats': {…}} of NumPy
    arrays, which have a leading axis of seeds if the run has several.

  Raises:
    UserError: the folder has no checkpoint, or none that can be read.
  """
  directory = epath.Path(workdir) / "checkpoints" / "best"
  steps = [int(path.name) for path in directory.glob("*") if path.name.isdigit()]
  for step in sorted(steps, reverse=True):
    try:
      arrays = read(directory / str(step).zfill(_STEP_DIGITS))
    except Unreadable as error:
      log.error("%s; trying the previous one", error)
      continue
    tree = traverse_util.unflatten_dict(arrays, sep=".")
    return step, {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}
  reason = "none of its checkpoints can be read" if steps else "it holds no selected weights"
  raise errors.UserError(f"{workdir}: {reason}; pass the folder of a run that has trained")


@contextlib.contextmanager
def _one_line_errors(manager: ocp.CheckpointManager) -> Iterator[None]:
  """Convert a failure of this save, or of a pending one, into a one-line `UserError`."""
  try:
    yield
  except (OSError, ValueError, RuntimeError) as error:
    full = "No space left on device" in str(error)
    reason = "No space left on device" if full else _first_line(error)
    raise errors.UserError(
      f"{manager.directory}: cannot write the checkpoint ({reason}); fix this, then rerun the same "
      "command to resume from the previous checkpoint"
    ) from error


def _first_line(error: Exception) -> str:
  return (str(error).strip() or repr(error)).splitlines()[0][:200]


def _create_manager(directory: epath.Path) -> ocp.CheckpointManager:
  options = ocp.CheckpointManagerOptions(
    max_to_keep=_KEEP,
    step_format_fixed_length=_STEP_DIGITS,
    cleanup_tmp_directories=True,
    enable_async_checkpointing=True,
  )
  return ocp.CheckpointManager(
    directory, options=options, item_handlers=ocp.StandardCheckpointHandler()
  )


def _absolute(path: epath.Path) -> epath.Path:
  """Return the path as Orbax needs it; the path of a bucket is always absolute."""
  return path if "://" in str(path) else path.resolve()


def _folder(manager: ocp.CheckpointManager, step: int) -> epath.Path:
  return manager.directory / str(step).zfill(_STEP_DIGITS)


def _leaves_by_path(tree: PyTree) -> dict[str, Any]:
  """Return the leaves by path, such as 'params.Conv_0.kernel'; reading them needs no classes."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _to_host(tree: PyTree) -> Arrays:
  # Copies, because on CPU device_get may alias a buffer that the next step is about to overwrite.
  return {path: np.array(jax.device_get(leaf)) for path, leaf in _leaves_by_path(tree).items()}


def _save(manager: ocp.CheckpointManager, step: int, tree: PyTree) -> None:
  arrays = _to_host(tree)
  metadata = {_CHECKSUMS: _checksums(arrays)}
  manager.save(step, args=ocp.args.StandardSave(arrays), custom_metadata=metadata)


def _checksums(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
  return {path: _sha256(array) for path, array in arrays.items()}


def _sha256(array: np.ndarray) -> str:
  digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
  digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def _fit(arrays: Arrays, template: PyTree, folder: epath.Path) -> PyTree:
  """Return the arrays as a tree like `template`; raise UserError if they are another model's."""
  expected = _leaves_by_path(template)
  for path in _ADDED_SUMS:
    if path in expected and path not in arrays:
      arrays[path] = np.full(expected[path].shape, np.nan)
  for path in sorted(arrays.keys() | expected.keys()):
    saved_shape = arrays[path].shape if path in arrays else "absent"
    shape = tuple(expected[path].shape) if path in expected else "absent"
    if saved_shape != shape:
      raise errors.UserError(
        f"{folder}: does not fit the model: {path} is {saved_shape} there but {shape} by the "
        "config; use another workdir"
      )
  leaves = [np.asarray(arrays[path], leaf.dtype) for path, leaf in expected.items()]
  return jax.tree.unflatten(jax.tree.structure(template), leaves)
