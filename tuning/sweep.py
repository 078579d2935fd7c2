"""Sweeps: train many trials of one config, each in a run folder, and rank them by validation.

  <workdir>/trials/<name>/   the run folder of each trial
  <workdir>/study.journal    the Optuna study, which the workers share (see study.py)
  <workdir>/sweep.json       all trials, and the ranking of the configurations
  <workdir>/best.py          the best configuration, as a file for --config
  <workdir>/curves.png       the learning curves of each configuration, the best outlined
  <workdir>/together/        unfinished trials that train in one program (see together.py)

Trials that differ only in the field 'seed' belong to one configuration, which is ranked by their
mean. No trial uses the test set; `--mode=evaluate` tests the winner.

All processes that run the same command with the same workdir, at once or one after another, share
the sweep: each trial trains in one of them. A later start skips finished trials, takes over
those of processes that died, and retries failed ones. A sweep may grow: add values and start it in
the same workdir. The last process to end writes the complete ranking.
"""

import json
import os
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import ml_collections
from etils import epath

from cifar_jax import errors
from cifar_jax.runs.locks import lock_folder
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.runtime import distributed
from cifar_jax.runtime.console import log
from cifar_jax.types import Row
from configs.sweeps import Sweep, import_optuna
from tuning import panel, ranking, table, together, training
from tuning.parsing import parse
from tuning.trials import Trial, choose_base, expand, make_trial

if TYPE_CHECKING:
  from tuning.study import Study

__all__ = ["parse", "run_sweep"]

_HEADER = ("trial", "status", "epochs", "validation accuracy", "loss")
# In the order of the table.
_STATUSES = ("running", "unfinished", "finished", "pruned", "failed", "waiting")


def run_sweep(
  sweep: Sweep, base_config: ml_collections.ConfigDict | None, workdir: epath.PathLike
) -> Row:
  """Train the trials of a sweep that no other worker trains, and rank all finished trials.

  Args:
    base_config: the config that the trials start from; None for the sweep's base.
    workdir: the sweep's folder; created if needed.

  Returns:
    In the first process the contents of sweep.json, and 'text', a description of them; {} in the
    other processes of a run.

  Raises:
    UserError: Optuna is missing, a field or the folder is invalid, or every trial failed.
    Interrupted: SIGTERM or SIGINT was received; the state is saved.
  """
  import_optuna()
  folder = epath.Path(workdir if "://" in str(workdir) else os.path.abspath(workdir))
  worker = _Worker(sweep, base_config, folder)
  with worker.live_table():
    while group := worker.claim_group():
      worker.train(group)
      jax.clear_caches()  # the next trial cannot use the compiled programs of this one
  return worker.finish()


class _Progress(NamedTuple):
  """How far a trial has come.

  Attributes:
    status: one of _STATUSES.
    epochs: the number of finished epochs.
    metrics: the results if there are any, else those of the last epoch; {} before the first ends.
  """

  status: str
  epochs: int
  metrics: Row


class _Worker:
  """One worker of a sweep: a process, or all processes of a run, the first of which has the study.

  The arguments are those of `run_sweep`, but with the sweep's folder instead of workdir.
  """

  def __init__(
    self, sweep: Sweep, base_config: ml_collections.ConfigDict | None, folder: epath.Path
  ):
    self._sweep, self._folder = sweep, folder
    listed = expand(sweep, base_config, folder)
    self._base, self._base_config = choose_base(sweep, base_config)
    self._draws = sweep.distributions()
    self._at_once = together.max_group_size(sweep)
    self._running: list[Trial] = []
    self._study: Study | None = None
    if jax.process_index() == 0:
      from tuning import study  # needs Optuna

      num_epochs = self._base_config.num_epochs
      self._study = study.Study(sweep, listed, self._make_trial, folder, num_epochs)
      statuses = [ranking.read_state(trial)["status"] for trial in self._study.trials()]
      if num_done := statuses.count("finished"):
        log.info("%d of %d trials have already finished", num_done, len(statuses))

  def claim_group(self) -> list[Trial]:
    """Claim the next trials, which train in one program if there are several; [] at the end."""

    def claim(study: "Study") -> str:
      claimed = study.claim(self._at_once)
      self._running = next(together.group_trials(claimed, self._folder, self._at_once), [])
      study.release([trial for trial in claimed if trial not in self._running])
      labels = [
        {name: self._draws[name].label(value) for name, value in trial.fields.items()}
        for trial in self._running
      ]
      return json.dumps(labels)

    text = self._ask_first("trials", claim)
    if self._study is None:
      self._running = [
        self._make_trial({name: self._draws[name].value(label) for name, label in labels.items()})
        for labels in json.loads(text)
      ]
    return self._running

  def train(self, group: Sequence[Trial]) -> None:
    """Train claimed trials, and record how they end."""
    summary: Row = {}
    try:
      training.train_group(group, self._folder, self._is_pruned)
      if self._study is not None:
        for trial in group:
          self._study.end(trial)
    finally:
      self._running = []
      if self._study is not None:
        self._study.release(group)
        summary = self._update_summary(self._study)
    if self._study is not None:
      self._log_progress(group, summary)

  def finish(self) -> Row:
    """Write and return the summary.

    Raises:
      UserError: every trial failed.
    """
    summary: Row = {}

    def summarize(study: "Study") -> str:
      nonlocal summary
      if num_elsewhere := study.num_elsewhere():
        log.info("Other workers are still training %d of the trials", num_elsewhere)
      summary = self._update_summary(study, with_picture=True)
      entries = summary["trials"]
      if not entries or any(entry["status"] != "failed" for entry in entries):
        return ""
      return f"sweep: every trial failed; {entries[0]['name']}: {entries[0]['error']}"

    if message := self._ask_first("failure", summarize):
      raise errors.UserError(message)
    return summary

  def live_table(self) -> AbstractContextManager[None]:
    """Return a context in which a terminal shows the trials."""
    study = self._study
    return nullcontext() if study is None else table.live_table(_HEADER, lambda: self._rows(study))

  def _make_trial(self, fields: Mapping[str, Any]) -> Trial:
    return make_trial(fields, self._base_config, self._folder)

  def _ask_first(self, name: str, answer: Callable[["Study"], str]) -> str:
    """Return the answer of the first process, which has the study."""

    def ask() -> str:
      assert self._study is not None
      return answer(self._study)

    return distributed.value_of_first(name, ask)

  def _is_pruned(self, trial: Trial, rows: Sequence[Row]) -> bool:
    if not self._sweep.pruner:
      return False
    return bool(self._ask_first("pruned", lambda study: "yes" * study.is_pruned(trial, rows)))

  def _update_summary(self, study: "Study", with_picture: bool = False) -> Row:
    trials, files = study.trials(), []
    with lock_folder(self._folder, ".sweep.lock"):
      summary, config_file = ranking.summarize(
        trials, study.pruned(), self._sweep.rank_by, self._base
      )
      files = ranking.write(self._folder, summary, config_file)
      if with_picture and panel.draw_curves(summary, trials, self._folder / "curves.png"):
        files.append("curves.png")
    lines = [ranking.describe(summary), *(f"wrote {self._folder / name}" for name in files)]
    return summary | {"text": "\n".join(lines)}

  def _log_progress(self, group: Sequence[Trial], summary: Row) -> None:
    """Log a line for each trial of a group that ended, and one for the sweep."""
    by_name = {entry["name"]: entry for entry in summary["trials"]}
    for trial in group:
      entry = by_name[trial.name]
      if entry["status"] == "finished":
        log.info("%s: %s", trial.name, table.named_metric(summary["rank_by"], entry))
    num_done = sum(
      entry["status"] in ("finished", "pruned", "failed") for entry in summary["trials"]
    )
    num_trials = max(len(by_name), self._sweep.count)
    best = f"; best so far: {summary['best']['name']}" if summary["best"] else ""
    log.info("%d of %d trials done%s", num_done, num_trials, best)

  def _rows(self, study: "Study") -> list[list[str]]:
    """Return the rows of the live table: running trials first, waiting ones last."""
    running, pruned = list(self._running), study.pruned()
    group_progress = self._read_group_progress(running)
    rows: list[list[str]] = []
    for trial in study.trials():
      progress = _read_progress(trial, pruned)
      if trial in running and progress.status != "finished":
        progress = group_progress.get(trial.name) or progress._replace(status="running")
      status, epochs, metrics = progress
      rows.append(
        [
          trial.name,
          status,
          f"{epochs}/{trial.config.num_epochs}" if epochs else "",
          *(table.format_metric(metrics, name) for name in ("val_accuracy", "val_loss")),
        ]
      )
    return sorted(rows, key=lambda row: _STATUSES.index(row[1]))

  def _read_group_progress(self, group: Sequence[Trial]) -> dict[str, _Progress]:
    """Return the progress of trials that train in one program, by name; {} if there is none."""
    if len(group) < 2:
      return {}
    rows = RunFolder(together.folder_of(group, self._folder), writer=False).metrics()
    if not rows:
      return {}
    return {
      trial.name: _Progress("running", len(rows), metrics)
      for trial, metrics in zip(group, rows[-1]["seeds"], strict=True)
    }


def _read_progress(trial: Trial, pruned: Container[str]) -> _Progress:
  """Return the progress of a trial according to its run folder."""
  state = ranking.read_state(trial, pruned)
  rows = RunFolder(trial.path, writer=False).metrics()
  metrics = state.get("results", rows[-1] if rows else {})
  return _Progress(state["status"], state["epochs"], metrics)
