"""Orbax checkpoints of a run: `latest` to resume from, `best` by the monitored metric.

A checkpoint is complete or absent: Orbax writes beside and renames. `best` of a step is always
written before `latest` of that step, and two of each are kept, so the best weights that a `latest`
speaks of are there whenever the run dies. What is newer than the `latest` resumed from is dropped:
the repeated epochs, being deterministic, make it again.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

import errors
from console import log

PyTree = Any
_KEEP = 2


class Checkpoints:
  """The checkpoints of one run folder: trees of arrays with the same structure throughout."""

  def __init__(self, workdir: epath.PathLike):
    root = epath.Path(workdir) / "checkpoints"
    self._latest = _manager(root / "latest")
    self._best = _manager(root / "best")

  def save_best(self, step: int, variables: PyTree) -> None:
    """Writes the best variables, as of `step`, and waits for it: `latest` must not come before."""
    with _told(self._best):
      self._best.save(step, args=ocp.args.StandardSave(_to_host(variables)))
      self._best.wait_until_finished()

  def save_latest(self, step: int, run: PyTree) -> None:
    """Starts writing the run; its arrays are copied first, so the caller may donate them."""
    with _told(self._latest):
      self._latest.save(step, args=ocp.args.StandardSave(_to_host(run)))

  def restore_latest(self, template: PyTree) -> tuple[int, PyTree] | None:
    """The newest whole checkpoint as (step, tree of NumPy arrays), or None if there is none.

    One that cannot be read is reported and passed over for the one before it.

    Raises:
      UserError: it does not fit the template, or none of those there can be read.
    """
    return _restore(self._latest, template)

  def restore_best(self, template: PyTree) -> tuple[int, PyTree] | None:
    """Likewise for the best variables."""
    return _restore(self._best, template)

  def is_empty(self) -> bool:
    """Whether there is nothing to resume from."""
    return not self._latest.all_steps()

  def rewind(self, step: int) -> None:
    """Drops what is newer than `step`, which a resumed run is about to make again."""
    for manager in (self._latest, self._best):
      for newer in [s for s in manager.all_steps() if s > step]:
        manager.delete(newer)

  def close(self) -> None:
    """Waits until everything is written."""
    for manager in (self._best, self._latest):
      with _told(manager):
        manager.wait_until_finished()
        manager.close()


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
    folder = directory / str(step).zfill(8) / "default"
    try:
      with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(folder.resolve())
    except (OSError, ValueError, KeyError, TypeError) as error:
      log.error("%s: cannot be read (%s); trying the one before", folder, _first_line(error))
      continue
    leaves = {tuple(path.split(".")): np.asarray(leaf) for path, leaf in found.items()}
    tree = traverse_util.unflatten_dict(leaves)
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
    step_format_fixed_length=8,
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


def _restore(manager: ocp.CheckpointManager, template: PyTree) -> tuple[int, PyTree] | None:
  steps = sorted(manager.all_steps(), reverse=True)
  wanted = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in _flat(template).items()}
  for step in steps:
    directory = manager.directory / str(step).zfill(8)
    try:
      _check_fits(manager.item_metadata(step), wanted, directory)
      found = manager.restore(step, args=ocp.args.StandardRestore(wanted))
    except (OSError, ValueError, KeyError, TypeError) as error:
      log.error("%s: cannot be read (%s); trying the one before", directory, _first_line(error))
      continue
    return step, jax.tree.unflatten(jax.tree.structure(template), [found[p] for p in wanted])
  if steps:
    raise errors.UserError(
      f"{manager.directory}: none of the checkpoints there can be read; move the folder away to "
      "start anew"
    )
  return None


def _check_fits(saved: Any, wanted: dict[str, np.ndarray], directory: epath.Path) -> None:
  saved = getattr(saved, "tree", saved)
  for path in sorted(saved.keys() | wanted.keys()):
    there = tuple(saved[path].shape) if path in saved else "absent"
    needed = wanted[path].shape if path in wanted else "absent"
    if there != needed:
      raise errors.UserError(
        f"{directory}: does not fit the model: {path} is {there} there but {needed} by the config; "
        "use another workdir"
      )
