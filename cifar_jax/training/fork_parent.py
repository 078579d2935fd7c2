"""The parent of a fork: which checkpoint `--from=RUN[@step]` names, and what its folder holds."""

from typing import NamedTuple

import ml_collections
from etils import epath

from cifar_jax import errors
from cifar_jax.config import from_json
from cifar_jax.runs import checkpoints, run_folder
from cifar_jax.runs.checkpoint_arrays import Arrays
from cifar_jax.types import Row


class Fork(NamedTuple):
  """The command-line flags of a fork.

  Attributes:
    source: the checkpoint to start from: RUN for the newest in that run folder, RUN@step, or
      RUN@best for the step of the selected weights.
    confirm_jump: accept learning rates that do not continue the parent's.
    fresh_optimizer: drop the parent's optimizer state.
  """

  source: str
  confirm_jump: bool = False
  fresh_optimizer: bool = False


class Parent(NamedTuple):
  """A checkpoint to start from, and what its run folder holds.

  Attributes:
    path: the run folder.
    step: the number of steps taken.
    arrays: the arrays of the checkpoint by path.
    config: config.json; a field that is newer than the run has its default.
    rows: the rows of metrics.jsonl up to the checkpoint.
    dataset: dataset.json.
    results: results.json, {} if the run is unfinished.
    lineage: the parent's ancestors.
    fork: the flags of the fork.
  """

  path: epath.Path
  step: int
  arrays: Arrays
  config: ml_collections.ConfigDict
  rows: list[Row]
  dataset: Row
  results: Row
  lineage: list[Row]
  fork: Fork


def find_parent(
  folder: run_folder.RunFolder, fork: Fork | None, defaults: ml_collections.ConfigDict
) -> Parent | None:
  """Return the checkpoint that a new run starts from; None for a run from the start or a resume.

  Raises:
    UserError: the checkpoint is missing, or the folder holds a run with another origin.
  """
  lineage, has_begun = folder.lineage(), bool(checkpoints.list_states(folder.path))
  if fork is None:
    if lineage and not has_begun:
      raise errors.UserError(
        f"workdir: {folder.path} was meant to start from {lineage[-1]['run']} at step "
        f"{lineage[-1]['step']}, but has no checkpoint; add --from again"
      )
    return None
  path, step = _parse(fork.source)
  if path == folder.path:
    raise errors.UserError(f"workdir: {path} is the run that --from names; use another folder")
  if not has_begun:
    return _read_parent(path, step, fork, defaults)
  origin = lineage[-1] if lineage else {}
  if origin.get("run") != str(path) or step not in (None, origin.get("step")):
    was = f"started from {origin['run']}@{origin['step']}" if origin else "did not start from a run"
    raise errors.UserError(
      f"workdir: {folder.path} holds a run that {was}, not from {fork.source}; use another folder"
    )
  return None


def _parse(source: str) -> tuple[epath.Path, int | None]:
  """Return the run folder and the step that `source` names; None for the newest step."""
  name, _, suffix = source.rpartition("@")
  if not name or not (suffix == "best" or suffix.isdecimal()):
    name, suffix = source, ""
  path = run_folder.RunFolder(name, writer=False).path
  if not (path / "config.json").exists():
    raise errors.UserError(
      f"--from: {name} is not a run folder, because it has no config.json; name a run folder, "
      "RUN@step or RUN@best"
    )
  if suffix == "best":
    return path, _best_step(path)
  return path, int(suffix) if suffix else None


def _best_step(path: epath.Path) -> int:
  selected, known = checkpoints.read_selected_steps(path), checkpoints.list_states(path)
  if len(set(selected)) == 1 and selected[0] in known:
    return selected[0]
  reason = "it has no selected weights"
  if selected:
    steps = ", ".join(map(str, sorted(set(selected))))
    reason = f"the best weights are from step {steps}, where the state of the run was not kept"
  raise errors.UserError(
    f"--from: {path}: {reason}; take one of the steps {', '.join(map(str, known)) or '(none)'}, or "
    f"only the weights (--config.model.pretrained={path} instead of --from)"
  )


def _read_parent(
  path: epath.Path, step: int | None, fork: Fork, defaults: ml_collections.ConfigDict
) -> Parent:
  known = checkpoints.list_states(path)
  if not known:
    raise errors.UserError(f"--from: {path} has no checkpoint; name a run that has trained")
  folder = run_folder.RunFolder(path, writer=False)
  step = known[-1] if step is None else step
  arrays = checkpoints.read_state(path, step)
  with run_folder.reading(path):
    saved = run_folder.read_json(path / "config.json", "restore it")
    for name in run_folder.HISTORY:
      saved.pop(name, None)
    config = from_json(saved, defaults)
    rows = [row for row in folder.metrics() if row["step"] <= step]
    dataset = run_folder.read_json(path / "dataset.json", "restore it")
    return Parent(
      path, step, arrays, config, rows, dataset, folder.results() or {}, folder.lineage(), fork
    )
