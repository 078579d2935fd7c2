"""Keras' callbacks as pure functions of a state: plateau, early stopping, the best epoch.

Each class holds settings. `init()` returns the first state, and `update(state, ...)` the state
after an epoch, given its monitored value (shape []). States are NamedTuples of arrays, which
are saved in checkpoints. Everything may be jitted and vmapped: with several seeds each seed has its
own state and stops on its own. `Callbacks` builds all three from a config.

mode: 'min' if lower values are better, 'max' if higher values are. NaN never counts as an
improvement. (In Keras a NaN in the first epoch counts, and nothing improves on it afterwards.)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from cifar_jax import errors
from cifar_jax.registry import check_number

Scalar: TypeAlias = jax.typing.ArrayLike
Epoch: TypeAlias = jax.Array | np.ndarray | int
# The states by name: 'plateau', 'early_stopping' and 'select'.
CallbacksState: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plateau:
  """Keras' ReduceLROnPlateau, through optax.contrib.reduce_on_plateau.

  The state's `scale` (float32, 1 at first) multiplies the learning rate. `factor` multiplies the
  scale when `patience` epochs in a row have not improved on the best value by more than
  `min_delta`.

  Attributes:
    learning_rate: the rate that `scale` multiplies, > 0 or traced; needed for min_lr.
    mode: 'min' or 'max'.
    factor: in (0, 1).
    patience: epochs >= 0; 0 means the same as 1.
    min_delta: >= 0, in the value's unit.
    cooldown: epochs >= 0 that are not counted after a reduction. As in Keras, the last of them
      counts, so 0 and 1 mean the same.
    min_lr: >= 0, the lower bound of learning_rate * scale. With a schedule that decays from
      `learning_rate`, the rate of a step may fall below it.

  Raises:
    UserError: a value is out of range; the message names the field, `plateau.…`.
  """

  learning_rate: Scalar
  mode: str = "min"
  factor: float = 0.1
  patience: int = 10
  min_delta: float = 1e-4
  cooldown: int = 0
  min_lr: float = 0.0

  def __post_init__(self) -> None:
    check_number("optimizer.learning_rate", self.learning_rate, "a number > 0", lambda x: x > 0)
    _check_mode("plateau", self.mode)
    check_number("plateau.factor", self.factor, "a number in (0, 1)", lambda x: 0 < x < 1)
    _check_epochs("plateau.patience", self.patience)
    check_number("plateau.min_delta", self.min_delta, "a number >= 0", lambda x: x >= 0)
    _check_epochs("plateau.cooldown", self.cooldown)
    check_number("plateau.min_lr", self.min_lr, "a number >= 0", lambda x: x >= 0)

  def init(self) -> optax.contrib.ReduceLROnPlateauState:
    """Return the state before the first epoch."""
    return self._transform().init(jnp.zeros([], jnp.float32))

  def update(
    self, state: optax.contrib.ReduceLROnPlateauState, value: Scalar
  ) -> optax.contrib.ReduceLROnPlateauState:
    """Return the state after an epoch whose monitored value is `value`."""
    value = jnp.asarray(value, jnp.float32)
    value = -value if self.mode == "max" else value
    _, state = self._transform().update(jnp.zeros([], jnp.float32), state, value=value)
    return state

  def _transform(self) -> optax.GradientTransformationExtraArgs:
    return optax.contrib.reduce_on_plateau(
      factor=self.factor,
      patience=max(self.patience, 1),
      rtol=0.0,
      # optax needs one tolerance > 0; this one is below float32's resolution, so it has no effect.
      atol=max(self.min_delta, float(np.finfo(np.float32).tiny)),
      # optax skips `cooldown` epochs after a reduction, Keras one fewer.
      cooldown=max(self.cooldown - 1, 0),
      # optax applies the bound at once; Keras never raises the rate.
      min_scale=jnp.minimum(self.min_lr / self.learning_rate, 1.0),
    )


class EarlyStoppingState(NamedTuple):
  """The state of EarlyStopping; every array has shape []."""

  best: jax.Array  # float32, the best value so far
  wait: jax.Array  # int32, epochs since the best one
  stopped_epoch: jax.Array  # int32, the last epoch of a stopped run, -1 while running
  improved: jax.Array  # bool, whether the last epoch was the best


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
  """Keras' EarlyStopping: stop after `patience` epochs in a row without an improvement.

  After the stop, further updates change nothing.

  Attributes:
    mode: 'min' or 'max'.
    patience: epochs >= 0; 0 means the same as 1.
    min_delta: >= 0, the least difference that counts as an improvement.

  Raises:
    UserError: a value is out of range; the message names the field, `early_stopping.…`.
  """

  mode: str = "min"
  patience: int = 0
  min_delta: float = 0.0

  def __post_init__(self) -> None:
    _check_mode("early_stopping", self.mode)
    _check_epochs("early_stopping.patience", self.patience)
    check_number("early_stopping.min_delta", self.min_delta, "a number >= 0", lambda x: x >= 0)

  def init(self) -> EarlyStoppingState:
    """Return the state before the first epoch."""
    return EarlyStoppingState(
      best=_worst(self.mode),
      wait=jnp.zeros([], jnp.int32),
      stopped_epoch=jnp.full([], -1, jnp.int32),
      improved=jnp.zeros([], bool),
    )

  def update(self, state: EarlyStoppingState, epoch: Epoch, value: Scalar) -> EarlyStoppingState:
    """Return the state after `epoch` (from 0), whose monitored value is `value`."""
    is_active = state.stopped_epoch < 0
    improved = is_active & _improves(value, state.best, self.mode, self.min_delta)
    wait = jnp.where(is_active, jnp.where(improved, 0, state.wait + 1), state.wait)
    # As in Keras, training never stops after the first epoch.
    stops = is_active & ~improved & (wait >= self.patience) & (epoch > 0)
    return EarlyStoppingState(
      best=jnp.where(improved, value, state.best),
      wait=wait,
      stopped_epoch=jnp.where(stops, epoch, state.stopped_epoch),
      improved=improved,
    )


class BestTrackerState(NamedTuple):
  """The state of BestTracker; every array has shape []."""

  best: jax.Array  # float32, the best value so far
  best_epoch: jax.Array  # int32, its epoch, -1 before the first improvement
  improved: jax.Array  # bool, whether the last epoch was the best


@dataclasses.dataclass(frozen=True)
class BestTracker:
  """Keras' ModelCheckpoint(save_best_only=True): the first of equal values is the best.

  Attributes:
    mode: 'min' or 'max'.

  Raises:
    UserError: the mode is unknown; the message names the field `select.mode`.
  """

  mode: str = "min"

  def __post_init__(self) -> None:
    _check_mode("select", self.mode)

  def init(self) -> BestTrackerState:
    """Return the state before the first epoch."""
    return BestTrackerState(
      best=_worst(self.mode),
      best_epoch=jnp.full([], -1, jnp.int32),
      improved=jnp.zeros([], bool),
    )

  def update(
    self, state: BestTrackerState, epoch: Scalar, value: Scalar, frozen: Scalar = False
  ) -> BestTrackerState:
    """Return the state after `epoch`; a `frozen` seed has stopped and keeps its best."""
    improved = _improves(value, state.best, self.mode) & ~jnp.asarray(frozen)
    return BestTrackerState(
      best=jnp.where(improved, value, state.best),
      best_epoch=jnp.where(improved, epoch, state.best_epoch),
      improved=improved,
    )


class Callbacks:
  """The plateau, early stopping and selection that a config describes.

  `init` and `update` are for one seed and may be vmapped. The other methods read the state of all
  seeds: each seed stops and selects on its own, and a run ends when all its seeds have stopped.

  Raises:
    UserError: a value is out of range, or two fields exclude each other; it names the field.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    plateau, stopping = config.plateau, config.early_stopping
    tests_last_weights = not (config.select.monitor or config.ema_decay)
    if config.lookahead.every and stopping.monitor and tests_last_weights:
      raise errors.UserError(
        "early_stopping.monitor: a run that stops early ends with the fast weights of Lookahead "
        "(lookahead.every); set select.monitor to test its best epoch, or early_stopping.monitor=''"
      )
    self._monitors = {
      "plateau": plateau.monitor,
      "early_stopping": stopping.monitor,
      "select": config.select.monitor,
    }
    self._plateau = Plateau(
      learning_rate=config.optimizer.learning_rate,
      mode=plateau.mode,
      factor=plateau.factor,
      patience=plateau.patience,
      min_delta=plateau.min_delta,
      cooldown=plateau.cooldown,
      min_lr=plateau.min_lr,
    )
    self._early_stopping = EarlyStopping(
      mode=stopping.mode, patience=stopping.patience, min_delta=stopping.min_delta
    )
    self._select = BestTracker(mode=config.select.mode)

  def init(self) -> CallbacksState:
    """Return the state before the first epoch."""
    return {
      "plateau": self._plateau.init(),
      "early_stopping": self._early_stopping.init(),
      "select": self._select.init(),
    }

  def update(
    self, state: CallbacksState, epoch: Epoch, values: Mapping[str, Scalar]
  ) -> CallbacksState:
    """Return the state after `epoch` (from 0), whose metrics by name are `values` (shape [])."""
    state = dict(state)
    has_stopped = state["early_stopping"].stopped_epoch >= 0
    if monitor := self._monitors["plateau"]:
      state["plateau"] = self._plateau.update(state["plateau"], values[monitor])
    if monitor := self._monitors["early_stopping"]:
      state["early_stopping"] = self._early_stopping.update(
        state["early_stopping"], epoch, values[monitor]
      )
    monitor = self._monitors["select"]
    # Without a monitor each epoch counts as better than the one before, so the last is selected.
    better = 1.0 if self._select.mode == "max" else -1.0
    value = values[monitor] if monitor else better * epoch
    state["select"] = self._select.update(
      state["select"], epoch, jnp.asarray(value, jnp.float32), has_stopped
    )
    return state

  def is_stopped(self, state: CallbacksState) -> bool:
    """Return whether every seed has stopped early."""
    return bool(np.all(np.asarray(state["early_stopping"].stopped_epoch) >= 0))

  def epochs_run(self, state: CallbacksState, num_epochs: int) -> list[int]:
    """Return the number of epochs until each seed stopped early; `num_epochs` if it did not."""
    stopped_epochs = np.atleast_1d(state["early_stopping"].stopped_epoch).tolist()
    return [num_epochs if epoch < 0 else epoch + 1 for epoch in stopped_epochs]

  def is_improved(self, state: CallbacksState) -> jax.Array:
    """Return whether the last epoch's weights are the best so far: bool, [] or [seeds]."""
    return state["select"].improved

  def lr_scale(self, state: CallbacksState) -> jax.Array:
    """Return the factor on the schedule's learning rate: float32, [] or [seeds]."""
    return state["plateau"].scale

  def best_epochs(self, state: CallbacksState) -> list[int]:
    """Return the epoch of the best weights of each seed, from 1; 0 if no epoch was ever best."""
    return (np.atleast_1d(state["select"].best_epoch) + 1).tolist()


def _worst(mode: str) -> jax.Array:
  return jnp.full([], jnp.inf if mode == "min" else -jnp.inf, jnp.float32)


def _improves(value: Scalar, best: jax.Array, mode: str, min_delta: float = 0.0) -> jax.Array:
  value = jnp.asarray(value, jnp.float32)
  return value + min_delta < best if mode == "min" else value - min_delta > best


def _check_mode(section: str, mode: str) -> None:
  if mode not in ("min", "max"):
    raise errors.UserError(f"{section}.mode: must be 'min' or 'max', got {mode!r}")


def _check_epochs(field: str, epochs: int) -> None:
  check_number(field, epochs, "a whole number of epochs >= 0", lambda x: x >= 0 and x == int(x))
