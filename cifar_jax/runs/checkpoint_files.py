"""The files of a run's checkpoints, in the process that writes them."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from concurrent import futures

import orbax.checkpoint as ocp
from etils import epath

from cifar_jax import errors
from cifar_jax.runs import checkpoint_arrays
from cifar_jax.runs.checkpoint_arrays import Arrays
from cifar_jax.runtime.console import log

BEST = "best."  # prefix of the paths of the best weights in `latest`
KEPT = "kept"  # the folder of checkpoints that are never deleted
_KEEP = 2
_STEP_DIGITS = 8  # in the name of a checkpoint's folder


class CheckpointFiles:
  """The files of all checkpoints, in the process that writes them.

  Attributes:
    latest, best: Orbax's managers. The writing thread uses them too.
  """

  def __init__(self, root: epath.Path):
    self._root = root
    self.latest = _create_manager(root / "latest", _KEEP)
    self.best = _create_manager(root / "best", _KEEP)
    self._thread = futures.ThreadPoolExecutor(1, "checkpoint")
    self._pending: futures.Future[None] | None = None

  @functools.cached_property
  def kept(self) -> ocp.CheckpointManager:
    """Orbax's manager of the kept checkpoints, whose folder exists once one is kept."""
    return _create_manager(self._root / KEPT, None)

  def start(
    self, step: int, arrays: Arrays, selected_steps: Sequence[int] | None, is_kept: bool = False
  ) -> None:
    """Start writing: `kept` if `is_kept`, then `latest`, then `best` if `selected_steps`."""

    def write() -> None:
      if is_kept:  # first, so that the kept checkpoint exists once `latest` does
        self._write(self.kept, step, arrays, None)
      self._write(self.latest, step, arrays, None)
      if selected_steps is not None:
        best = {p.removeprefix(BEST): a for p, a in arrays.items() if p.startswith(BEST)}
        self.write_best(best, selected_steps)

    self._pending = self._thread.submit(write)

  def write_best(self, arrays: Arrays, selected_steps: Sequence[int]) -> None:
    """Write `best`, named after the latest step at which a seed's weights were selected."""
    self._write(self.best, max(selected_steps), arrays, selected_steps)

  def wait(self) -> None:
    """Wait until everything is written; raise UserError if that fails."""
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def close(self) -> None:
    """Wait until everything is written, and end the thread."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      for manager in self._managers():
        manager.close()

  def set_aside_newer(self, step: int, which: Sequence[str] = ("latest", "best", KEPT)) -> None:
    """Set aside all checkpoints newer than `step` in the folders that `which` names."""
    for manager in self._managers():
      if manager.directory.name in which:
        for newer in [s for s in manager.all_steps() if s > step]:
          self.set_aside(manager, newer)

  def set_aside(self, manager: ocp.CheckpointManager, step: int) -> None:
    """Move a checkpoint to the folder `set_aside`."""
    folder = checkpoint_folder(manager.directory, step)
    name, number = f"{manager.directory.name}-{folder.name}", 1
    target = self._root / "set_aside" / name
    while target.exists():
      number += 1
      target = target.with_name(f"{name}-{number}")
    with _one_line_errors(folder):
      target.parent.mkdir(exist_ok=True)
      folder.rename(target)
      manager.reload()
    log.warning("%s: moved to %s", folder, target)

  def _managers(self) -> list[ocp.CheckpointManager]:
    return [self.latest, self.best, *([self.kept] if (self._root / KEPT).exists() else [])]

  def _write(
    self,
    manager: ocp.CheckpointManager,
    step: int,
    arrays: Arrays,
    selected_steps: Sequence[int] | None,
  ) -> None:
    with _one_line_errors(manager.directory):
      metadata = checkpoint_arrays.metadata(arrays, selected_steps)
      saves = ocp.args.StandardSave(arrays)
      if not manager.save(step, args=saves, custom_metadata=metadata):
        raise RuntimeError(f"step {step} is not after {manager.latest_step()}")
      # Read it again: Orbax ignores some errors and then completes a checkpoint that lacks parts.
      try:
        checkpoint_arrays.read(checkpoint_folder(manager.directory, step))
      except checkpoint_arrays.Unreadable as error:
        manager.delete(step)
        raise RuntimeError(f"{error}") from error


def list_steps(directory: epath.Path) -> list[int]:
  """Return the steps of the checkpoints in a directory."""
  return [int(path.name) for path in directory.glob("*") if path.name.isdigit()]


def checkpoint_folder(directory: epath.Path, step: int) -> epath.Path:
  """Return the folder of the checkpoint of a step."""
  return directory / str(step).zfill(_STEP_DIGITS)


@contextlib.contextmanager
def _one_line_errors(path: epath.Path) -> Iterator[None]:
  """Convert a failure to write into a one-line `UserError`."""
  try:
    yield
  except (OSError, ValueError, RuntimeError, MemoryError) as error:
    raise errors.UserError(
      f"{path}: cannot write the checkpoint ({checkpoint_arrays.reason(error)}); fix this, then "
      "rerun the same command to resume from the previous checkpoint"
    ) from error


def _create_manager(directory: epath.Path, num_kept: int | None) -> ocp.CheckpointManager:
  """Return Orbax's manager of a folder's `num_kept` newest checkpoints, or of all."""
  options = ocp.CheckpointManagerOptions(
    max_to_keep=num_kept,
    step_format_fixed_length=_STEP_DIGITS,
    enable_async_checkpointing=False,  # CheckpointFiles saves in its own thread
    create=False,  # Orbax creates no folder for one of several processes
    multiprocessing_options=checkpoint_arrays.single_process(),
  )
  with _one_line_errors(directory):
    directory.mkdir(parents=True, exist_ok=True)
    # Orbax would do this in a thread, and ignore errors until the first save.
    for incomplete in ocp.path.step.all_temporary_paths(directory):
      incomplete.get().rmtree()
    return ocp.CheckpointManager(
      directory,
      options=options,
      item_handlers=ocp.StandardCheckpointHandler(
        multiprocessing_options=checkpoint_arrays.single_process()
      ),
    )
