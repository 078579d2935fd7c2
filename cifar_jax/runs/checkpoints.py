"""Orbax checkpoints of a run: `latest` to resume from, `best` by the monitored metric.

A checkpoint is complete or absent: Orbax writes beside and renames. `latest` holds the best weights
too, so that a run can be resumed from it alone, and `best`, should it be damaged, be written again.
What is newer than the `latest` resumed from is dropped: the repeated epochs, being deterministic,
make it again.

With each checkpoint, in Orbax's own metadata and so whole or absent with it, goes the SHA-256 of
every array, since TensorStore gives back some arrays with flipped bits and says nothing.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from cifar_jax import errors
from cifar_jax.runtime.console import log

PyTree = Any
_KEEP = 2
_DIGITS = 8  # of a step in the name of its folder
_METADATA = "_CHECKPOINT_METADATA"  # Orbax's file, whose 'custom_metadata' is ours
_CHECKSUMS = "sha256"  # of every array by its path, in there


class Unreadable(Exception):
  """A checkpoint is damaged: 'folder: cannot be read (why)'."""


class Checkpoints:
  """The checkpoints of one run folder: trees of arrays with the same structure throughout."""

  def __init__(self, workdir: epath.PathLike):
    root = epath.Path(workdir) / "checkpoints"
    self._latest = _manager(root / "latest")
    self._best = _manager(root / "best")

  def save_best(self, step: int, variables: PyTree) -> None:
    """Writes the best variables, as of `step`, and waits for it."""
    with _told(self._best):
      _save(self._best, step, variables)
      self._best.wait_until_finished()

  def save_latest(self, step: int, run: PyTree) -> None:
    """Starts writing the run; its arrays are copied first, so the caller may donate them.

    Args:
      run: a dictionary, in which 'best' holds the best variables.
    """
    with _told(self._latest):
      _save(self._latest, step, run)

  def restore_latest(self, template: PyTree) -> tuple[int, PyTree] | None:
    """The newest whole checkpoint as (step, tree of NumPy arrays), or None if there is none.

    One that cannot be read is reported and passed over for the one before it. What is newer is
    dropped.

    Args:
      template: a tree like the one that was saved.

    Raises:
      UserError: it does not fit the template, or none of those there can be read.
    """
    steps = sorted(self._latest.all_steps(), reverse=True)
    for step in steps:
      folder = _folder(self._latest, step)
      try:
        found = read(folder)
        if not any(path.startswith("best.") for path in found):
          found |= self._best_apart(step, template)
      except Unreadable as error:
        log.error("%s; trying the one before", error)
        continue
      run = _fitted(found, template, folder)
      self._rewind(step)
      return step, run
    if steps:
      raise errors.UserError(
        f"{self._latest.directory}: none of the checkpoints there can be read; move the folder "
        "away to start anew"
      )
    return None

  def keep_best(self, step: int, variables: PyTree) -> None:
    """Sees to it that `best` holds these variables, with which a run was resumed at `step`."""
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
    """Whether there is nothing to resume from."""
    return not self._latest.all_steps()

  def close(self) -> None:
    """Waits until everything is written."""
    for manager in (self._best, self._latest):
      with _told(manager):
        manager.wait_until_finished()
        manager.close()

  def _rewind(self, step: int) -> None:
    for manager in (self._latest, self._best):
      for newer in [s for s in manager.all_steps() if s > step]:
        manager.delete(newer)

  def _best_apart(self, step: int, template: PyTree) -> dict[str, np.ndarray]:
    """The best variables for a `latest` from before it held them itself."""
    older = [s for s in self._best.all_steps() if s <= step]
    best = read(_folder(self._best, max(older))) if older else _to_host(template["best"])
    return {f"best.{path}": array for path, array in best.items()}


def read(folder: epath.Path) -> dict[str, np.ndarray]:
  """The arrays of a checkpoint by path.

  Raises:
    Unreadable: something in the folder is missing, truncated or altered.
  """
  try:
    notes = json.loads((folder / _METADATA).read_text())["custom_metadata"] or {}
    with ocp.StandardCheckpointer() as checkpointer:
      found = checkpointer.restore(_absolute(folder / "default"))
    arrays = {path: np.asarray(leaf) for path, leaf in found.items()}
    if _CHECKSUMS in notes:  # those from before there were any are taken as they are
      noted, sums = notes[_CHECKSUMS], _checksums(arrays)
      bad = sorted(p for p in sums.keys() | noted.keys() if sums.get(p) != noted.get(p))
      if bad:
        raise ValueError(f"{bad[0]} is not what was written there")
  except Exception as error:  # damaged files fail in Orbax's and TensorStore's own many ways
    raise Unreadable(f"{folder}: cannot be read ({_first_line(error)})") from error
  return arrays


def _absolute(path: epath.Path) -> epath.Path:
  """The path as Orbax insists on it; that of a bucket is so already."""
  return path if "://" in str(path) else path.resolve()


def read_best(workdir: epath.PathLike) -> tuple[int, dict[str, PyTree]]:
  """The selected weights of a run folder, read without knowing the model.

  Returns:
    The step they were taken at, and {'params': {…}, 'batch_stats': {…}} of NumPy arrays; those of
    a run with several seeds have a leading axis of seeds.

  Raises:
    UserError: there is no checkpoint in the folder, or none that can be read.
  """
  directory = epath.Path(workdir) / "checkpoints" / "best"
  steps = [int(path.name) for path in directory.glob("*") if path.name.isdigit()]
  for step in sorted(steps, reverse=True):
    try:
      found = read(directory / str(step).zfill(_DIGITS))
    except Unreadable as error:
      log.error("%s; trying the one before", error)
      continue
    tree = traverse_util.unflatten_dict(found, sep=".")
    return step, {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}
  reason = "none of its checkpoints can be read" if steps else "it holds no selected weights"
  raise errors.UserError(f"{workdir}: {reason}; name the folder of a run that has trained")


@contextlib.contextmanager
def _told(manager: ocp.CheckpointManager) -> Iterator[None]:
  """Turns a failure to write, of this save or of one still under way, into one line."""
  try:
    yield
  except (OSError, ValueError, RuntimeError) as error:
    full = "No space left on device" in str(error)
    reason = "No space left on device" if full else _first_line(error)
    raise errors.UserError(
      f"{manager.directory}: a checkpoint cannot be written ({reason}); mend that, and the same "
      "command resumes from the one before"
    ) from error


def _first_line(error: Exception) -> str:
  return (str(error).strip() or repr(error)).splitlines()[0][:200]


def _manager(directory: epath.Path) -> ocp.CheckpointManager:
  options = ocp.CheckpointManagerOptions(
    max_to_keep=_KEEP,
    step_format_fixed_length=_DIGITS,
    cleanup_tmp_directories=True,
    enable_async_checkpointing=True,
  )
  return ocp.CheckpointManager(
    directory, options=options, item_handlers=ocp.StandardCheckpointHandler()
  )


def _flat(tree: PyTree) -> dict[str, Any]:
  """The leaves by path, such as 'params.Conv_0.kernel': readable without its classes."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _to_host(tree: PyTree) -> dict[str, np.ndarray]:
  # Copies, because on CPU device_get may alias a buffer that the next step is about to overwrite.
  return {path: np.array(jax.device_get(leaf)) for path, leaf in _flat(tree).items()}


def _save(manager: ocp.CheckpointManager, step: int, tree: PyTree) -> None:
  arrays = _to_host(tree)
  notes = {_CHECKSUMS: _checksums(arrays)}
  manager.save(step, args=ocp.args.StandardSave(arrays), custom_metadata=notes)


def _checksums(arrays: dict[str, np.ndarray]) -> dict[str, str]:
  return {path: _sha256(array) for path, array in arrays.items()}


def _sha256(array: np.ndarray) -> str:
  digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
  digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return digest.hexdigest()


def _folder(manager: ocp.CheckpointManager, step: int) -> epath.Path:
  return manager.directory / str(step).zfill(_DIGITS)


def _fitted(found: dict[str, np.ndarray], template: PyTree, folder: epath.Path) -> PyTree:
  """The arrays as a tree like `template`; UserError if they are another model's."""
  wanted = _flat(template)
  for path in sorted(found.keys() | wanted.keys()):
    there = found[path].shape if path in found else "absent"
    needed = tuple(wanted[path].shape) if path in wanted else "absent"
    if there != needed:
      raise errors.UserError(
        f"{folder}: does not fit the model: {path} is {there} there but {needed} by the config; "
        "use another workdir"
      )
  leaves = [np.asarray(found[path], leaf.dtype) for path, leaf in wanted.items()]
  return jax.tree.unflatten(jax.tree.structure(template), leaves)
