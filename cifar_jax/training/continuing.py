"""Continue a run for more epochs, if a run of that length would have begun with the same steps."""

import os

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from cifar_jax import errors
from cifar_jax.optim import schedules
from cifar_jax.optim.schedules import Schedule
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.runtime.console import log


def lengthen(
  folder: RunFolder,
  earlier_epochs: int,
  config: ml_collections.ConfigDict,
  schedule: Schedule,
  steps_per_epoch: int,
) -> None:
  """Turn a run of `earlier_epochs` epochs, finished or not, into an unfinished longer run.

  Args:
    folder: the locked folder of the run.
    config: the config of the longer run.
    schedule: the learning rate of the longer run.

  Raises:
    UserError: the run's steps are not the first steps of the longer run, or its checkpoint is
      missing.
  """
  reason = _difference(config, schedule, earlier_epochs * steps_per_epoch, steps_per_epoch)
  if reason:
    raise _refusal(config, f"the run of {earlier_epochs} epochs in {folder.path} {reason}", folder)
  rows, path = folder.metrics(), folder.path
  if folder.results() is not None and len(rows) < earlier_epochs:
    reason = f"early stopping ended the run in {path} after epoch {len(rows)}, as it would again"
    raise _refusal(config, reason, folder)
  if rows and not folder.has_checkpoint():
    raise errors.UserError(
      f"num_epochs: {path} has no checkpoint to continue from; restore checkpoints/latest, or use "
      "another workdir"
    )
  log.info("Continuing %s: %d epochs instead of %d", path, config.num_epochs, earlier_epochs)
  folder.set_aside_results(earlier_epochs)  # first, because results.json marks a finished run
  folder.write_config(config)


def _difference(
  config: ml_collections.ConfigDict, schedule: Schedule, earlier_steps: int, steps_per_epoch: int
) -> str:
  """Return why the steps of the shorter run are not the first of the longer one; '' if they are."""
  if config.last_epoch != 1:
    return f"ended within an epoch (last_epoch is {config.last_epoch})"
  if config.lookahead.every:
    return "ended with the slow weights of Lookahead (lookahead.every)"
  if config.data.file_by_file:
    return "divided its epochs among the files (data.file_by_file)"
  earlier_schedule = schedules.create(
    config.schedule, config.optimizer.learning_rate, steps_per_epoch, earlier_steps
  )
  steps = jnp.arange(earlier_steps)
  rates, earlier_rates = (jax.vmap(rate)(steps) for rate in (schedule, earlier_schedule))
  if not np.array_equal(rates, earlier_rates):
    return f"had learning rates that depend on its length (schedule.name is {config.schedule.name})"
  return ""


def _refusal(config: ml_collections.ConfigDict, reason: str, folder: RunFolder) -> errors.UserError:
  return errors.UserError(
    f"num_epochs: {reason}, so it cannot be continued to {config.num_epochs} epochs; train in "
    "another workdir, from the start or from its weights "
    f"(--config.model.pretrained={os.fspath(folder.path)})"
  )
