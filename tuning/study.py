"""The Optuna study of a sweep: its trials, their states and their results.

  <sweep>/study.journal   the study, which any number of workers share; optuna-dashboard opens it
  <sweep>/.claims/        a lock for each trial, which its worker holds

A trial waits, runs, and ends as complete, pruned or failed. If a worker dies, its locks are
released, and other workers take over its trials, which resume from their checkpoints. A trial's
weights and results are in its run folder alone: even without the journal, finished trials are not
trained again. Another sweep in the same folder is a separate study in the same journal.
"""

import contextlib
import dataclasses
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from etils import epath
from optuna.trial import FrozenTrial, TrialState

from cifar_jax import errors
from cifar_jax.runs.locks import hold_lock, lock_folder
from cifar_jax.types import Row
from configs.sweeps import RANK_BY, Sweep
from tuning import journal, ranking
from tuning.trials import Trial

_MAX_REPEATS = 100  # repeated draws in a row after which TPE's space counts as exhausted


@dataclasses.dataclass
class _Claim:
  """A trial that this worker trains.

  Attributes:
    optuna_trial: the trial in the study.
    lock: releases the claim when it is closed.
    judged: the rungs at which this worker has asked whether to prune the trial.
    is_pruned: whether the answer was yes.
  """

  optuna_trial: optuna.Trial
  lock: contextlib.ExitStack
  judged: set[int] = dataclasses.field(default_factory=set)
  is_pruned: bool = False


class Study:
  """The study of a sweep, as one worker sees it.

  Args:
    sweep: the sweep.
    listed: the trials that the sweep lists; [] if it has a search space instead.
    make_trial: returns the trial that sets the given fields.
    folder: the sweep's folder. In a bucket, the study is kept in memory, for one worker.
    num_epochs: the length of each trial, for the pruner.

  Raises:
    UserError: the journal is corrupt.
  """

  def __init__(
    self,
    sweep: Sweep,
    listed: Sequence[Trial],
    make_trial: Callable[[Mapping[str, Any]], Trial],
    folder: epath.Path,
    num_epochs: int,
  ):
    self._sweep, self._folder, self._make_trial = sweep, folder, make_trial
    self._draws = sweep.distributions()
    self._trials = {trial.name: trial for trial in listed}
    self._claims: dict[str, _Claim] = {}
    with self._locked():
      self._study = journal.open_study(sweep, folder, num_epochs)
      self._enqueue(listed)

  def trials(self) -> list[Trial]:
    """Return all trials so far."""
    names = self._trials if not self._sweep.space else {}
    for frozen in self._stored_trials() if self._sweep.space else ():
      if name := frozen.user_attrs.get("name"):
        names[name] = self._trial(frozen)
    return [self._trials[name] for name in names]

  def pruned(self) -> set[str]:
    """Return the names of the trials that were stopped at a rung."""
    return {frozen.user_attrs["name"] for frozen in self._stored_trials(TrialState.PRUNED)}

  def num_elsewhere(self) -> int:
    """Return the number of trials that other workers train."""
    names = {frozen.user_attrs.get("name") for frozen in self._stored_trials(TrialState.RUNNING)}
    return len(names - self._claims.keys())

  def claim(self, at_once: int) -> list[Trial]:
    """Claim trials for this worker.

    Returns:
      The trials that dead workers left, else at most `at_once` new ones; [] if there are none.

    Raises:
      UserError: TPE drew an invalid config.
    """
    with self._locked():
      if left := self._claim_left():
        return left
      while claimed := self._claim_new(at_once):
        # Some may have finished in another study of the folder, or before the journal was lost.
        if unfinished := [trial for trial in claimed if not self._end_if_finished(trial)]:
          return unfinished
      return []

  def release(self, trials: Sequence[Trial]) -> None:
    """Give up claims on trials that have not ended; any worker may take them over."""
    for trial in trials:
      if claim := self._claims.pop(trial.name, None):
        claim.lock.close()

  def end(self, trial: Trial) -> None:
    """Record how a trial has ended, and release it."""
    claim, state = self._claims[trial.name], ranking.read_state(trial)
    value = state.get("results", {}).get(self._sweep.rank_by)
    if value is not None:
      self._study.tell(claim.optuna_trial, value)
    elif claim.is_pruned:
      self._study.tell(claim.optuna_trial, state=TrialState.PRUNED)
    else:
      reason = state.get("error", f"{self._sweep.rank_by} is not a number")
      claim.optuna_trial.set_user_attr("error", reason)
      self._study.tell(claim.optuna_trial, state=TrialState.FAIL)
    self.release([trial])

  def is_pruned(self, trial: Trial, rows: Sequence[Row]) -> bool:
    """Return whether a trial ends at a rung that it has reached.

    Args:
      trial: a claimed trial.
      rows: its rows of metrics.jsonl so far.
    """
    claim = self._claims[trial.name]
    optuna_trial, rung = claim.optuna_trial, self._sweep.first_rung
    while self._sweep.pruner and rung <= len(rows):
      if rung not in claim.judged:
        if rung not in self._stored_trials()[optuna_trial.number].intermediate_values:
          optuna_trial.report(self._value(trial, rows[:rung]), rung)
        claim.judged.add(rung)
        if optuna_trial.should_prune():
          claim.is_pruned = True
          return True
      rung *= self._sweep.reduction
    return False

  def _value(self, trial: Trial, rows: Sequence[Row]) -> float:
    """Return the ranking metric of the weights that would be selected after these rows."""
    values = [row[self._sweep.rank_by] for row in rows]
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers or values[-1] is None:
      return math.nan
    best = max if RANK_BY[self._sweep.rank_by] == "max" else min
    return best(numbers) if trial.config.select.monitor else values[-1]

  # --- Waiting trials -----------------------------------------------------------------------------

  def _enqueue(self, listed: Sequence[Trial]) -> None:
    """Enqueue the listed trials that the study does not know, and enqueue failed ones again."""
    last: dict[str, FrozenTrial] = {}
    for frozen in self._stored_trials():
      if "name" in frozen.user_attrs:
        last[frozen.user_attrs["name"]] = frozen
    new = [trial for trial in listed if trial.name not in last]
    if self._sweep.pruner:  # in grid order, each trial might be the best so far and escape pruning
      random.Random(0).shuffle(new)
    for trial in new:
      labels = {name: self._draws[name].label(value) for name, value in trial.fields.items()}
      distributions = {name: self._draws[name].distribution() for name in labels}
      self._add_waiting(trial.name, labels, distributions)
    for name, frozen in last.items():
      if frozen.state == TrialState.FAIL:
        self._add_waiting(name, frozen.params, frozen.distributions)

  def _add_waiting(self, name: str, params: dict[str, Any], distributions: dict[str, Any]) -> None:
    self._study.add_trial(
      optuna.create_trial(
        state=TrialState.WAITING,
        params=params,
        distributions=distributions,
        user_attrs={"name": name},
      )
    )

  def _ask(self) -> tuple[Trial, optuna.Trial] | None:
    """Ask the study for a waiting trial, or else for a new draw; return None if it has neither."""
    if self._stored_trials(TrialState.WAITING):
      optuna_trial = self._study.ask()
      return self._trial(self._stored_trials()[optuna_trial.number]), optuna_trial
    if len(self.trials()) < self._sweep.count:
      return self._draw_new()
    return None

  def _draw_new(self) -> tuple[Trial, optuna.Trial] | None:
    """Draw a trial that differs from all earlier ones; return None if the space is exhausted."""
    known = {trial.name for trial in self.trials()}
    for _ in range(_MAX_REPEATS):
      trial, optuna_trial = self._draw()
      if trial.name not in known:
        self._trials[trial.name] = trial
        optuna_trial.set_user_attr("name", trial.name)
        return trial, optuna_trial
      self._end_repeat(trial.name, optuna_trial)
    return None

  def _draw(self) -> tuple[Trial, optuna.Trial]:
    """Draw a trial with TPE; raise UserError if its config is invalid."""
    # Workers with the same seed would draw the same trial, and a generator's state would not
    # survive a restart.
    seed = self._sweep.sampler_seed + len(self._stored_trials())
    self._study.sampler = optuna.samplers.TPESampler(seed=seed)
    drawn = self._study.ask({name: draw.distribution() for name, draw in self._draws.items()})
    try:
      return self._make_trial(self._fields(drawn.params)), drawn
    except errors.UserError:
      self._study.tell(drawn, state=TrialState.FAIL)
      raise

  def _end_repeat(self, name: str, drawn: optuna.Trial) -> None:
    """End a draw that repeats a trial: with its value if that trial is complete, else as failed."""
    drawn.set_user_attr("repeats", name)
    for frozen in self._stored_trials(TrialState.COMPLETE):
      if frozen.user_attrs.get("name") == name:
        self._study.tell(drawn, frozen.values)
        return
    self._study.tell(drawn, state=TrialState.FAIL)

  # --- Claims -------------------------------------------------------------------------------------

  def _claim_left(self) -> list[Trial]:
    """Claim the unfinished trials that dead workers left."""
    running = self._stored_trials(TrialState.RUNNING)
    return [trial for trial in map(self._take, running) if trial is not None]

  def _claim_new(self, at_once: int) -> list[Trial]:
    """Claim at most `at_once` trials that wait or are drawn; return [] if there are none."""
    claimed: list[Trial] = []
    while len(claimed) < at_once and (asked := self._ask()):
      trial, optuna_trial = asked
      # If a worker of another study trains it, a later `claim` takes it over once it is free.
      if self._hold(trial, optuna_trial):
        claimed.append(trial)
    return claimed

  def _take(self, frozen: FrozenTrial) -> Trial | None:
    """Take over a running trial; return None if a worker holds it or it has already ended."""
    name = frozen.user_attrs.get("name")
    if name is None:  # its worker died while drawing it
      self._study.tell(frozen.number, state=TrialState.FAIL)
      return None
    trial = self._trial(frozen)
    # Only the constructor gives access to a trial that another process asked for.
    if name in self._claims or not self._hold(trial, optuna.Trial(self._study, frozen._trial_id)):
      return None
    return None if self._end_if_finished(trial) else trial

  def _hold(self, trial: Trial, optuna_trial: optuna.Trial) -> bool:
    """Try to take the lock of a trial; return whether this worker now holds it."""
    lock = contextlib.ExitStack()
    if "://" not in str(self._folder):
      claims = self._folder / ".claims"
      claims.mkdir(exist_ok=True)
      try:
        lock.enter_context(hold_lock(claims / f"{trial.name}.lock", _raise_busy))
      except BlockingIOError:
        return False
    self._claims[trial.name] = _Claim(optuna_trial, lock)
    return True

  def _end_if_finished(self, trial: Trial) -> bool:
    """End a claimed trial whose run folder is finished; return whether it was."""
    is_finished = ranking.read_state(trial)["status"] == "finished"
    if is_finished:
      self.end(trial)
    return is_finished

  @contextlib.contextmanager
  def _locked(self) -> Iterator[None]:
    """Keep other workers from claiming or adding trials during the block."""
    with lock_folder(self._folder, ".study.lock"):
      yield

  # --- Trials in the study ------------------------------------------------------------------------

  def _stored_trials(self, *states: TrialState) -> list[FrozenTrial]:
    """Return the study's trials in these states, by default in all."""
    return self._study.get_trials(deepcopy=False, states=states or None)

  def _trial(self, frozen: FrozenTrial) -> Trial:
    name = frozen.user_attrs["name"]
    if name not in self._trials:
      self._trials[name] = self._make_trial(self._fields(frozen.params))
    return self._trials[name]

  def _fields(self, params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: self._draws[name].value(drawn) for name, drawn in params.items()}


def _raise_busy() -> None:
  raise BlockingIOError
