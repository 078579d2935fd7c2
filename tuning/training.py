"""Train the trials that a worker of a sweep has claimed."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
from etils import epath

import train
from cifar_jax import errors
from cifar_jax.runtime.console import log
from cifar_jax.types import Row
from tuning import ranking, together
from tuning.trials import Trial

# Returns whether a trial with these rows of metrics.jsonl ends before its last epoch.
IsPruned: TypeAlias = Callable[[Trial, Sequence[Row]], bool]


def train_group(group: Sequence[Trial], folder: epath.Path, is_pruned: IsPruned) -> None:
  """Train a group in one program, or its trials one after the other if that is impossible.

  Args:
    group: the trials; none is finished.
    folder: the sweep's folder.

  Raises:
    Interrupted: SIGTERM or SIGINT was received; the state is saved.
  """
  if len(group) > 1:
    try:
      if not together.train_together(group, folder):
        log.warning(
          "Too little memory for %d trials together: training half of them at a time", len(group)
        )
        half = len(group) // 2
        train_group(group[:half], folder, is_pruned)
        train_group(group[half:], folder, is_pruned)
        return
    except errors.UserError as error:
      log.warning("Training the trials one after the other: %s", error)
  for trial in group:
    if ranking.read_state(trial)["status"] != "finished":
      _train_alone(trial, is_pruned)


def _train_alone(trial: Trial, is_pruned: IsPruned) -> None:
  """Train a trial; write error.txt if it fails."""
  log.info("trial %s", trial.name)
  message = ""
  try:
    train.train_and_evaluate(
      trial.config,
      str(trial.path),
      evaluate_test=False,
      pause=lambda rows: is_pruned(trial, rows),
    )
  except train.Paused:
    log.info("%s ends early: others were better after the same number of epochs", trial.name)
  except errors.UserError as error:
    message = str(error)
  except jax.errors.JaxRuntimeError as error:
    if not errors.is_out_of_memory(error):
      raise
    message = "batch_size: too large for the device's memory; take a smaller one"
  if message:
    log.warning("%s failed: %s", trial.name, message)
  if jax.process_index() == 0:
    error_file = trial.path / "error.txt"
    if message:
      trial.path.mkdir(parents=True, exist_ok=True)
      error_file.write_text(message + "\n")
    else:
      error_file.unlink(missing_ok=True)
