"""What a config's callbacks decide after each epoch: plateau, early stopping, the best epoch.

Pure functions of a state that is checkpointed with the run. With several seeds the state, like the
values, has a leading axis of seeds, and each seed stops and selects on its own; a run is over when
all its seeds are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from cifar_jax.training import callbacks


class Controls:
  """`init` and `update` are for one seed and may be vmapped; the rest read the state of all."""

  def __init__(self, config: ml_collections.ConfigDict):
    plateau, stopping = config.plateau, config.early_stopping
    self._monitors = {
      "plateau": plateau.monitor,
      "early_stopping": stopping.monitor,
      "select": config.select.monitor,
    }
    self._plateau = callbacks.Plateau(
      learning_rate=config.optimizer.learning_rate,
      mode=plateau.mode,
      factor=plateau.factor,
      patience=plateau.patience,
      min_delta=plateau.min_delta,
      cooldown=plateau.cooldown,
      min_lr=plateau.min_lr,
    )
    self._early_stopping = callbacks.EarlyStopping(
      mode=stopping.mode, patience=stopping.patience, min_delta=stopping.min_delta
    )
    self._select = callbacks.BestTracker(mode=config.select.mode)

  def init(self) -> dict[str, Any]:
    """The state before the first epoch."""
    return {
      "plateau": self._plateau.init(),
      "early_stopping": self._early_stopping.init(),
      "select": self._select.init(),
    }

  def update(
    self, state: dict[str, Any], epoch: jax.Array, values: dict[str, jax.Array]
  ) -> dict[str, Any]:
    """The state after `epoch` (from 0), with its values by name, each of shape []."""
    state = dict(state)
    frozen = state["early_stopping"].stopped_epoch >= 0
    if monitor := self._monitors["plateau"]:
      state["plateau"] = self._plateau.update(state["plateau"], values[monitor])
    if monitor := self._monitors["early_stopping"]:
      state["early_stopping"] = self._early_stopping.update(
        state["early_stopping"], epoch, values[monitor]
      )
    monitor = self._monitors["select"]
    # With no monitor each epoch is better than the one before, so that the last is selected.
    better = 1.0 if self._select.mode == "max" else -1.0
    value = values[monitor] if monitor else better * epoch
    state["select"] = self._select.update(
      state["select"], epoch, jnp.asarray(value, jnp.float32), frozen
    )
    return state

  def stopped(self, state: dict[str, Any]) -> bool:
    """Whether every seed has stopped early."""
    return bool(np.all(np.asarray(state["early_stopping"].stopped_epoch) >= 0))

  def improved(self, state: dict[str, Any]) -> jax.Array:
    """Bool, [] or [seeds]: whether the last epoch's weights are to be kept as the best."""
    return state["select"].improved

  def lr_scale(self, state: dict[str, Any]) -> jax.Array:
    """float32, [] or [seeds]: what the schedule's learning rate is multiplied by."""
    return state["plateau"].scale

  def best_epochs(self, state: dict[str, Any]) -> list[int]:
    """For each seed, the epoch whose weights are the best, from 1; 0 if none ever was."""
    return (np.atleast_1d(state["select"].best_epoch) + 1).tolist()
