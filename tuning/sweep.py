"""Sweeps: train many trials of one config, each in its run folder, and rank them by validation.

  <workdir>/trials/<name>/   the run folder of each trial
  <workdir>/sweep.json       all trials, and the ranking of the configurations
  <workdir>/best.py          the best configuration, as a file for --config
  <workdir>/curves.png       the learning curves of each configuration, the best outlined
  <workdir>/together/        unfinished trials that train in one program (see together.py)

Trials that differ in the field 'seed' only belong to one configuration, which is ranked by their
mean. No trial uses the test set; `--mode=evaluate` tests the winner.

A second start skips finished trials, resumes unfinished ones and retries failed ones. A sweep may
grow: add values and start it in the same workdir. Several tasks, on one machine or many, may share
a sweep: each trains its share, and the last to end writes the complete ranking.
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
from cifar_jax.runs.locks import lock_folder
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.runtime.console import log
from cifar_jax.types import Row
from configs.sweeps import Sweep
from tuning import panel, ranking, table, together
from tuning.trials import Trial, base_of, expand, parse

__all__ = ["parse", "run_sweep"]

_HEADER = ("trial", "status", "epochs", "validation accuracy", "loss")
_STATUSES = ("running", "unfinished", "finished", "failed", "waiting")  # in the table's order


def run_sweep(
  sweep: Sweep,
  base_config: ml_collections.ConfigDict | None,
  workdir: epath.PathLike,
  task: tuple[int, int] = (0, 1),
) -> Row:
  """Train the trials of a sweep, or one task's share of them, and rank all finished trials.

  Args:
    base_config: the config that the trials start from; None for the sweep's base.
    workdir: the sweep's folder; created if needed.
    task: (index, number of tasks), the index counted from 0.

  Returns:
    The contents of sweep.json, and 'text', a description of them.

  Raises:
    UserError: a field or the folder is invalid, or every trial of the share failed.
    Interrupted: SIGTERM or SIGINT came; the state is saved.
  """
  index, num_tasks = task
  if not 0 <= index < num_tasks:
    raise errors.UserError(
      f"--task: task {index} of {num_tasks} does not exist; count the tasks from 0"
    )
  folder = epath.Path(workdir if "://" in str(workdir) else os.path.abspath(workdir))
  trials = expand(sweep, base_config, folder)
  task_trials = together.share(trials, index, num_tasks)

  def update_summary(with_picture: bool = False) -> Row:
    base, _ = base_of(sweep, base_config)
    with _lock(folder, ".sweep.lock"):
      summary, config_file = ranking.summarize(trials, sweep.rank_by, base)
      files = []
      if jax.process_index() == 0:
        files = ranking.write(folder, summary, config_file)
        if with_picture and panel.draw_curves(summary, trials, folder / "curves.png"):
          files.append("curves.png")
    lines = [ranking.describe(summary), *(f"wrote {folder / name}" for name in files)]
    return summary | {"text": "\n".join(lines)}

  busy = f"another sweep is writing to {folder}; wait for it, or give each its --task"
  with _lock(folder, f".task-{index}-of-{num_tasks}.lock", busy):
    todo = [trial for trial in task_trials if ranking.read_state(trial)["status"] != "finished"]
    num_done = len(task_trials) - len(todo)
    if num_done:
      log.info("%d of %d trials have already finished", num_done, len(task_trials))
    running: list[Trial] = []
    with table.live_table(_HEADER, lambda: _rows(task_trials, running, folder)):
      for group in together.groups(todo, folder, sweep.at_once):
        running[:] = group
        try:
          _run(group, folder)
        finally:
          running.clear()
          summary = update_summary()
        _log_progress(group, task_trials, summary)
        jax.clear_caches()  # the next trial cannot use the compiled programs of this one
  summary = update_summary(with_picture=True)
  _raise_if_all_failed(task_trials, summary)
  return summary


def _run(group: Sequence[Trial], folder: epath.Path) -> None:
  """Train a group in one program, or its trials one after the other if that is impossible."""
  if len(group) > 1:
    try:
      if not together.train_together(group, folder):
        log.warning(
          "Too little memory for %d trials together: train half of them at a time", len(group)
        )
        half = len(group) // 2
        _run(group[:half], folder)
        _run(group[half:], folder)
        return
    except errors.UserError as error:
      log.warning("Train the trials one after the other: %s", error)
  for trial in group:
    if ranking.read_state(trial)["status"] != "finished":
      _run_alone(trial)


def _run_alone(trial: Trial) -> None:
  """Train a trial; write error.txt if it fails."""
  log.info("trial %s", trial.name)
  error_file = trial.path / "error.txt"
  is_writer = jax.process_index() == 0
  try:
    train.train_and_evaluate(trial.config, str(trial.path), evaluate_test=False)
    if is_writer:
      error_file.unlink(missing_ok=True)
    return
  except errors.UserError as error:
    message = str(error)
  except jax.errors.JaxRuntimeError as error:
    if not errors.is_out_of_memory(error):
      raise
    message = "batch_size: too large for the device's memory; take a smaller one"
  log.warning("%s failed: %s", trial.name, message)
  if is_writer:
    trial.path.mkdir(parents=True, exist_ok=True)
    error_file.write_text(message + "\n")


def _raise_if_all_failed(task_trials: Sequence[Trial], summary: Row) -> None:
  names = {trial.name for trial in task_trials}
  entries = [entry for entry in summary["trials"] if entry["name"] in names]
  if entries and all(entry["status"] == "failed" for entry in entries):
    raise errors.UserError(
      f"sweep: every trial failed; {entries[0]['name']}: {entries[0]['error']}"
    )


def _log_progress(group: Sequence[Trial], task_trials: Sequence[Trial], summary: Row) -> None:
  """Log a line for each trial of a finished group, and one for the sweep."""
  by_name = {entry["name"]: entry for entry in summary["trials"]}
  for trial in group:
    entry = by_name[trial.name]
    if entry["status"] == "finished":
      log.info("%s: %s", trial.name, table.named_metric(summary["rank_by"], entry))
  num_done = sum(by_name[trial.name]["status"] in ("finished", "failed") for trial in task_trials)
  best = f"; best so far: {summary['best']['name']}" if summary["best"] else ""
  log.info("%d of %d trials done%s", num_done, len(task_trials), best)


def _rows(
  task_trials: Sequence[Trial], running: Sequence[Trial], folder: epath.Path
) -> list[list[str]]:
  """Return the rows of the live table: running trials first, waiting ones last."""
  running = list(running)
  group_rows: list[Row] = []
  if len(running) > 1:
    group_rows = RunFolder(together.folder_of(running, folder), writer=False).metrics()
  rows: list[list[str]] = []
  for trial in task_trials:
    state = ranking.read_state(trial)
    status, epochs = state["status"], state["epochs"]
    metrics: dict[str, Any] = [{}, *RunFolder(trial.path, writer=False).metrics()][-1]
    if trial in running and status != "finished":
      status = "running"
      if group_rows:
        metrics, epochs = group_rows[-1]["seeds"][running.index(trial)], len(group_rows)
    metrics = state.get("results", metrics)
    rows.append(
      [
        trial.name,
        status,
        f"{epochs}/{trial.config.num_epochs}" if epochs else "",
        *(table.with_error(metrics, name) for name in ("val_accuracy", "val_loss")),
      ]
    )
  return sorted(rows, key=lambda row: _STATUSES.index(row[1]))


def _lock(folder: epath.Path, name: str, busy: str | None = None) -> AbstractContextManager[None]:
  """Return a context in which this sweep's first process holds a lock of `folder`."""
  return lock_folder(folder, name, busy) if jax.process_index() == 0 else nullcontext()
