"""Orbax checkpoints of a run: `latest` to resume from, `best` by the monitored metric, and `kept`.

A checkpoint is complete or absent, because Orbax writes to another folder and renames it. `latest`
holds the best weights too and is written first. A run can therefore be resumed from `latest` alone,
and a `best` that is missing or damaged is written again. `kept` holds what `latest` held after
every `config.keep_every` epochs; nothing there is ever deleted.

Only the first process writes. It writes in a thread, so that training continues meanwhile.

A run never deletes what it cannot use. Damaged checkpoints, and those newer than the one it resumes
from, are moved to `checkpoints/set_aside`.
"""

import json
from collections.abc import Sequence

import jax
from etils import epath

from cifar_jax import errors
from cifar_jax.runs import checkpoint_arrays
from cifar_jax.runs.checkpoint_arrays import Arrays, Unreadable
from cifar_jax.runs.checkpoint_files import (
  BEST,
  KEPT,
  CheckpointFiles,
  checkpoint_folder,
  list_steps,
)
from cifar_jax.runtime import distributed
from cifar_jax.runtime.console import log
from cifar_jax.types import Params, PyTree


class Checkpoints:
  """The checkpoints of one run folder: trees of arrays, all with the same structure.

  Every process creates an instance and calls the same methods.

  Args:
    workdir: the run folder.
  """

  def __init__(self, workdir: epath.PathLike):
    root = epath.Path(workdir) / "checkpoints"
    self._latest_directory, self._best_directory = root / "latest", root / "best"
    self._files = CheckpointFiles(root) if jax.process_index() == 0 else None

  def save_latest(
    self,
    step: int,
    run: PyTree,
    selected_steps: Sequence[int] | None = None,
    is_kept: bool = False,
  ) -> None:
    """Start writing the state of a run, once the previous checkpoint is written.

    The arrays are copied first, so the caller may donate them.

    Args:
      run: a dictionary, in which 'best' holds the best variables.
      selected_steps: the step at which each seed's best variables were selected, if they changed
        and `best` must be written too; else None.
      is_kept: whether to write the checkpoint to `kept` too.

    Raises:
      UserError: this checkpoint, or the previous one, cannot be written.
    """
    if self._files:
      self._files.wait()
      self._files.start(step, checkpoint_arrays.to_host(run), selected_steps, is_kept)

  def save_best(self, selected_steps: Sequence[int], variables: PyTree) -> None:
    """Write the best variables and wait until they are written; see `save_latest`."""
    if self._files:
      self._files.wait()
      self._files.write_best(checkpoint_arrays.to_host(variables), selected_steps)

  def restore_latest(self, template: PyTree) -> tuple[int, PyTree] | None:
    """Return the newest intact checkpoint as (step, tree of NumPy arrays); None if there is none.

    Log a damaged checkpoint and continue with the one before. Set aside all newer checkpoints. The
    first process chooses; the others read the same arrays.

    Args:
      template: a tree with the structure and the shapes of the saved one.

    Raises:
      UserError: the checkpoint does not fit the template, cannot be read at present, or no
        checkpoint is intact.
    """
    if self._files is None:
      return self._restore_as_first(template)
    chosen = self._choose(template)
    if chosen is not None:
      step, arrays = chosen
      folder = checkpoint_folder(self._latest_directory, step)
      run = checkpoint_arrays.fit(arrays, template, folder)
    self._files.wait()
    self._files.set_aside_newer(step if chosen else -1)
    if distributed.joined():
      summary = [step, checkpoint_arrays.digest(arrays)] if chosen else []
      distributed.value_of_first("checkpoint", lambda: json.dumps(summary))
    return (step, run) if chosen else None

  def keep_best(self, selected_steps: Sequence[int], variables: PyTree) -> None:
    """Write `best` again unless it holds these variables, with which a run was resumed."""
    if self._files is None:
      return
    expected = checkpoint_arrays.checksums(checkpoint_arrays.to_host(variables))
    newest = max(self._files.best.all_steps(), default=None)
    if newest is not None:
      try:
        saved = checkpoint_arrays.read(checkpoint_folder(self._best_directory, newest))
        if saved.checksums == expected:
          return
      except Unreadable as error:
        log.error("%s; writing it again, from `latest`", error)
        self._files.set_aside(self._files.best, newest)
    self._files.set_aside_newer(max(selected_steps) - 1, which=("best",))
    self.save_best(selected_steps, variables)

  def is_empty(self) -> bool:
    """Return whether there is nothing to resume from, as the first process sees it."""
    steps = distributed.value_of_first("steps", lambda: json.dumps(self._list_latest()))
    return not json.loads(steps)

  def wait(self) -> None:
    """Wait until everything is written; raise UserError if that fails."""
    if self._files:
      self._files.wait()

  def close(self) -> None:
    """Wait until everything is written, and end the thread."""
    if self._files:
      self._files.close()

  def _list_latest(self) -> list[int]:
    return sorted(self._files.latest.all_steps()) if self._files else []

  def _choose(self, template: PyTree) -> tuple[int, Arrays] | None:
    """Return the newest intact checkpoint as (step, arrays); None if there is none."""
    steps = self._list_latest()[::-1]
    for step in steps:
      try:
        return step, self._read_latest(step, template)
      except Unreadable as error:
        log.error("%s; trying the previous one", error)
    if steps:
      raise errors.UserError(
        f"{self._latest_directory}: no checkpoint can be read; move the folder away to start anew"
      )
    return None

  def _restore_as_first(self, template: PyTree) -> tuple[int, PyTree] | None:
    """Return what the first process restores; raise UserError if this process reads other data."""
    summary = json.loads(distributed.value_of_first("checkpoint", lambda: ""))
    if not summary:
      return None
    step, digest = summary
    folder = checkpoint_folder(self._latest_directory, step)
    try:
      arrays = self._read_latest(step, template)
    except Unreadable as error:
      raise errors.UserError(
        f"{error}, but the first process can read it; check that all hosts share the run folder"
      ) from error
    if checkpoint_arrays.digest(arrays) != digest:
      raise errors.UserError(
        f"{folder}: differs from what the first process reads; check that all hosts share the run "
        "folder"
      )
    return step, checkpoint_arrays.fit(arrays, template, folder)

  def _read_latest(self, step: int, template: PyTree) -> Arrays:
    """Return the arrays of `latest`, with the best variables added that old checkpoints lack."""
    arrays = checkpoint_arrays.read(checkpoint_folder(self._latest_directory, step)).arrays
    if not any(path.startswith(BEST) for path in arrays):
      older = [s for s in list_steps(self._best_directory) if s <= step]
      best = (
        checkpoint_arrays.read(checkpoint_folder(self._best_directory, max(older))).arrays
        if older
        else checkpoint_arrays.to_host(template["best"])
      )
      arrays |= {f"{BEST}{path}": array for path, array in best.items()}
    return arrays


def list_states(workdir: epath.PathLike) -> list[int]:
  """Return the steps, ascending, at which a run folder holds the whole state of its run."""
  root = epath.Path(workdir) / "checkpoints"
  return sorted({step for name in ("latest", KEPT) for step in list_steps(root / name)})


def read_state(workdir: epath.PathLike, step: int) -> Arrays:
  """Return every array of a run at one of the steps of `list_states`, by path.

  Raises:
    UserError: the run folder has no such checkpoint, or it is damaged.
  """
  root = epath.Path(workdir) / "checkpoints"
  damaged = None
  for name in (KEPT, "latest"):
    if step in list_steps(root / name):
      try:
        return checkpoint_arrays.read(checkpoint_folder(root / name, step)).arrays
      except Unreadable as error:
        damaged = error
  if damaged:
    raise errors.UserError(f"{damaged}; use another step") from damaged
  known = ", ".join(map(str, list_states(workdir))) or "none"
  raise errors.UserError(f"{workdir}: has no checkpoint of step {step}; take one of: {known}")


def read_weights(workdir: epath.PathLike, step: int, seed: int | None = None) -> dict[str, Params]:
  """Return a run's weights for evaluation, at one of the steps of `list_states`.

  Args:
    seed: as for `read_best`.

  Returns:
    {'params': {…}, 'batch_stats': {…}}, as from `read_best`; the moving average if the run has one.

  Raises:
    UserError: as `read_state`.
  """
  arrays = read_state(workdir, step)
  has_average = any(path.startswith("state.average.") for path in arrays)
  prefix = "state.average." if has_average else "state."
  return checkpoint_arrays.variables_of(
    {
      path.removeprefix(prefix): array if seed is None else array[seed]
      for path, array in arrays.items()
      if path.startswith((f"{prefix}params.", f"{prefix}batch_stats."))
    }
  )


def read_selected_steps(workdir: epath.PathLike) -> list[int]:
  """Return the step at which the newest best weights of each seed were selected; [] for none."""
  directory = epath.Path(workdir) / "checkpoints" / "best"
  if not (steps := list_steps(directory)):
    return []
  try:
    saved = checkpoint_arrays.read(checkpoint_folder(directory, max(steps)))
  except Unreadable as error:
    raise errors.UserError(f"{error}; name a step instead") from error
  return saved.selected_steps or [max(steps)]


def read_best(workdir: epath.PathLike, seed: int | None = None) -> tuple[int, dict[str, Params]]:
  """Return the selected weights of a run folder, without needing the model.

  Args:
    seed: the index of one of several seeds; None for all seeds, or the only one.

  Returns:
    The step at which the weights were selected (the latest of all seeds), and
    {'params': {…}, 'batch_stats': {…}} of NumPy arrays, which have a leading axis of seeds if the
    run has several and `seed` is None.

  Raises:
    UserError: the folder has no checkpoint, or none that can be read.
  """
  directory = epath.Path(workdir) / "checkpoints" / "best"
  steps = list_steps(directory)
  for step in sorted(steps, reverse=True):
    try:
      saved = checkpoint_arrays.read(checkpoint_folder(directory, step))
    except Unreadable as error:
      log.error("%s; trying the previous one", error)
      continue
    selected_steps = saved.selected_steps or [step]  # old checkpoints have none
    if seed is not None:
      saved = saved._replace(arrays={path: array[seed] for path, array in saved.arrays.items()})
      selected_steps = selected_steps[seed : seed + 1] or selected_steps
    return max(selected_steps), checkpoint_arrays.variables_of(saved.arrays)
  reason = "none of its checkpoints can be read" if steps else "it holds no selected weights"
  raise errors.UserError(f"{workdir}: {reason}; pass the folder of a run that has trained")
