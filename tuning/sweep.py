"""Sweeps: many trials of one config, each a run folder, ranked by validation.

  <workdir>/trials/<name>/   a run folder for each trial
  <workdir>/sweep.json       every trial, and the configurations in their order
  <workdir>/best.py          the best configuration, to be given to --config
  <workdir>/together/        trials under way in one program (see sweep_together.py)

Trials that differ in nothing but the field 'seed' are runs of one configuration, which is ranked by
their mean. Test figures decide nothing: they are in every run's results.json, and told of the best
configuration only, once it is known.

A second start leaves finished trials as they are, resumes those under way and tries failed ones
again; a sweep may grow by further values in the same workdir. Several tasks may share a sweep, on
one machine or many: each takes its share, and the last to end leaves the whole ranking.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import ml_collections
from etils import epath

import train
from cifar_jax import errors
from cifar_jax.runs.run_folder import RunFolder, hold
from cifar_jax.runtime.console import log
from configs import default
from configs.sweeps import Sweep
from tuning import ranking, table, together
from tuning.trials import Trial, expand, parse

__all__ = ["parse", "run_sweep"]


def run_sweep(
  sweep: Sweep,
  base_config: ml_collections.ConfigDict | None,
  workdir: epath.PathLike,
  task: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
  """Trains the trials of a sweep, or this task's share of them, and ranks all that have finished.

  Args:
    base_config: what the trials start from; None for the sweep's own base.
    workdir: the sweep's folder; made if it is not there.
    task: (which, of how many) this is, counted from 0.

  Returns:
    What sweep.json holds, and 'text', which tells it in lines to read.

  Raises:
    UserError: a field or the folder stands in the way, or every trial of the share failed.
    Interrupted: SIGTERM or SIGINT came; the state is saved.
  """
  index, count = task
  if not 0 <= index < count:
    raise errors.UserError(f"--task: {index}/{count} is no share; count from 0/{count}")
  folder = epath.Path(workdir if "://" in str(workdir) else os.path.abspath(workdir))
  trials = expand(sweep, base_config, folder)
  start = default if base_config is not None else sweep.base
  own = together.share(trials, index, count)
  running: list[Trial] = []

  def record() -> dict[str, Any]:
    with _locked(folder, ".sweep.lock"):
      found, config_file = ranking.collect(trials, sweep.rank_by, start)
      written = []
      if jax.process_index() == 0:
        written = ranking.write(folder, found, config_file)
    told = [ranking.text(found), *(f"wrote {folder / name}" for name in written)]
    return found | {"text": "\n".join(told)}

  busy = f"another sweep is writing to {folder}; wait for it, or give each its --task"
  with _locked(folder, f".task-{index}-of-{count}.lock", busy):
    todo = [trial for trial in own if ranking.state(trial)["status"] != "finished"]
    if len(todo) < len(own):
      log.info("%d of %d trials have finished already", len(own) - len(todo), len(own))
    with table.followed(lambda: _lines(own, running, folder)):
      for group in together.groups(todo, folder, sweep.at_once):
        running[:] = group
        try:
          _run(group, folder)
        finally:
          running.clear()
          found = record()
        _tell(group, own, found)
        jax.clear_caches()  # compiled programs of one trial are of no use to the next
  found = record()
  of_own = [trial for trial in found["trials"] if trial["name"] in {trial.name for trial in own}]
  if of_own and all(trial["status"] == "failed" for trial in of_own):
    raise errors.UserError(f"sweep: every trial failed; {of_own[0]['name']}: {of_own[0]['error']}")
  return found


def _run(group: Sequence[Trial], folder: epath.Path) -> None:
  """Trains a group; what cannot be trained together is trained one after the other."""
  if len(group) > 1:
    try:
      if not together.train_together(group, folder):
        log.warning("Too little memory for %d trials together; trying by halves", len(group))
        half = len(group) // 2
        _run(group[:half], folder)
        _run(group[half:], folder)
        return
    except errors.UserError as error:
      log.warning("Not together: %s", error)
  for trial in group:
    if ranking.state(trial)["status"] != "finished":
      _run_alone(trial)


def _run_alone(trial: Trial) -> None:
  log.info("trial %s", trial.name)
  note = trial.path / "error.txt"
  writes = jax.process_index() == 0
  try:
    train.train_and_evaluate(trial.config, str(trial.path))
    if writes:
      note.unlink(missing_ok=True)
    return
  except errors.UserError as error:
    message = str(error)
  except jax.errors.JaxRuntimeError as error:
    if not together.is_out_of_memory(error):
      raise
    message = "batch_size: too large for the device's memory; take a smaller one"
  log.warning("%s failed: %s", trial.name, message)
  if writes:
    trial.path.mkdir(parents=True, exist_ok=True)
    note.write_text(message + "\n")


def _tell(group: Sequence[Trial], own: Sequence[Trial], found: dict[str, Any]) -> None:
  """A line for each trial of a group that has ended."""
  by_name = {trial["name"]: trial for trial in found["trials"]}
  ended = sum(by_name[trial.name]["status"] in ("finished", "failed") for trial in own)
  for trial in group:
    said = by_name[trial.name]
    if said["status"] == "finished":
      log.info("%s: %s", trial.name, table.metric(found["rank_by"], said))
  best = f"; best so far: {found['best']['name']}" if found["best"] else ""
  log.info("%d of %d trials done%s", ended, len(own), best)


def _lines(own: Sequence[Trial], running: Sequence[Trial], folder: epath.Path) -> list[str]:
  """The table of a sweep under way: first what runs, then what has ended, then what waits."""
  running = list(running)
  rows: list[list[str]] = []
  order = {"running": 0, "unfinished": 1, "finished": 2, "failed": 3, "waiting": 4}
  group_rows = []
  if len(running) > 1:
    group_rows = RunFolder(together.folder_of(running, folder), writer=False).metrics()
  for trial in own:
    said = ranking.state(trial)
    last = [{}, *RunFolder(trial.path, writer=False).metrics()][-1]
    status, epochs = said["status"], said["epochs"]
    if trial in running and status != "finished":
      status = "running"
      if group_rows:
        last, epochs = group_rows[-1]["seeds"][running.index(trial)], len(group_rows)
    figures = said.get("results", last)
    rows.append(
      [
        trial.name,
        status,
        f"{epochs}/{trial.config.num_epochs}" if epochs else "",
        *(table.spread(figures, name) for name in ("val_accuracy", "val_loss")),
      ]
    )
  rows.sort(key=lambda row: order[row[1]])
  return table.aligned([["trial", "status", "epochs", "validation accuracy", "loss"], *rows])


def _locked(folder: epath.Path, name: str, busy: str | None = None) -> AbstractContextManager:
  """Holds a lock of the sweep's folder, in the first of its processes."""
  return hold(folder, name, busy) if jax.process_index() == 0 else nullcontext()
