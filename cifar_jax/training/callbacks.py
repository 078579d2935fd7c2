"""What Keras' callbacks decide after each epoch, as pure functions of a state.

Each class holds settings; `init()` gives its state and `update(state, ...)` the next one, given the
epoch's monitored value (shape []). States are NamedTuples of arrays, to be checkpointed with all
else, and everything may be jitted and vmapped: with several seeds each has its own state, and stops
on its own.

mode: 'min' when lower values are better, 'max' when higher ones are. A value of NaN never counts as
an improvement. (In Keras a NaN in the first epoch counts as one, and nothing improves on it after.)
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cifar_jax import errors
from cifar_jax.registry import check_number

Scalar = jax.typing.ArrayLike


@dataclasses.dataclass(frozen=True)
class Plateau:
  """Keras' ReduceLROnPlateau, through optax.contrib.reduce_on_plateau.

  The state's `scale` (float32, 1 at first) multiplies the learning rate: it is multiplied by
  `factor` when `patience` epochs in a row have not improved on the best value by more than
  `min_delta`.

  Attributes:
    learning_rate: the rate that `scale` multiplies, a number > 0 or a traced scalar; for min_lr.
    mode: 'min' or 'max'.
    factor: in (0, 1).
    patience: epochs >= 0; 0 means the same as 1.
    min_delta: >= 0, in the value's unit.
    cooldown: epochs >= 0 that are not counted after a reduction. Keras counts the last of them, so
      that 0 and 1 mean the same; so does this.
    min_lr: >= 0, what the learning rate stays above.

  Raises:
    UserError: for a value out of range; it names the field, `plateau.…`.
  """

  learning_rate: Scalar
  mode: str = "min"
  factor: float = 0.1
  patience: int = 10
  min_delta: float = 1e-4
  cooldown: int = 0
  min_lr: float = 0.0

  def __post_init__(self):
    check_number("optimizer.learning_rate", self.learning_rate, "a number > 0", lambda x: x > 0)
    _check_mode("plateau", self.mode)
    check_number("plateau.factor", self.factor, "a number in (0, 1)", lambda x: 0 < x < 1)
    _check_epochs("plateau.patience", self.patience)
    check_number("plateau.min_delta", self.min_delta, "a number >= 0", lambda x: x >= 0)
    _check_epochs("plateau.cooldown", self.cooldown)
    check_number("plateau.min_lr", self.min_lr, "a number >= 0", lambda x: x >= 0)

  def init(self) -> optax.contrib.ReduceLROnPlateauState:
    return self._transform().init(jnp.zeros([], jnp.float32))

  def update(
    self, state: optax.contrib.ReduceLROnPlateauState, value: Scalar
  ) -> optax.contrib.ReduceLROnPlateauState:
    value = jnp.asarray(value, jnp.float32)
    value = -value if self.mode == "max" else value
    _, state = self._transform().update(jnp.zeros([], jnp.float32), state, value=value)
    return state

  def _transform(self) -> optax.GradientTransformationExtraArgs:
    return optax.contrib.reduce_on_plateau(
      factor=self.factor,
      patience=max(self.patience, 1),
      rtol=0.0,
      # optax wants one tolerance > 0; less than any float32 resolves, this one means none.
      atol=max(self.min_delta, float(np.finfo(np.float32).tiny)),
      # optax counts no epoch for `cooldown` epochs after a reduction, Keras for one fewer.
      cooldown=max(self.cooldown - 1, 0),
      # optax applies the bound at once, Keras never raises the rate.
      min_scale=jnp.minimum(self.min_lr / self.learning_rate, 1.0),
    )


class EarlyStoppingState(NamedTuple):
  """All of shape []."""

  best: jax.Array  # float32, the best value so far
  wait: jax.Array  # int32, epochs since
  stopped_epoch: jax.Array  # int32, the epoch it stopped after, -1 while running
  improved: jax.Array  # bool, whether the last epoch was the best: the weights to restore


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
  """Keras' EarlyStopping: stops after `patience` epochs in a row without an improvement.

  After it has stopped, further updates change nothing.

  Attributes:
    mode: 'min' or 'max'.
    patience: epochs >= 0; 0 means the same as 1.
    min_delta: >= 0, what a value must be better by to count as an improvement.
    start_from_epoch: epochs before this one (from 0) are not looked at.

  Raises:
    UserError: for a value out of range; it names the field, `early_stopping.…`.
  """

  mode: str = "min"
  patience: int = 0
  min_delta: float = 0.0
  start_from_epoch: int = 0

  def __post_init__(self):
    _check_mode("early_stopping", self.mode)
    _check_epochs("early_stopping.patience", self.patience)
    check_number("early_stopping.min_delta", self.min_delta, "a number >= 0", lambda x: x >= 0)
    _check_epochs("early_stopping.start_from_epoch", self.start_from_epoch)

  def init(self) -> EarlyStoppingState:
    return EarlyStoppingState(
      best=_worst(self.mode),
      wait=jnp.zeros([], jnp.int32),
      stopped_epoch=jnp.full([], -1, jnp.int32),
      improved=jnp.zeros([], bool),
    )

  def update(self, state: EarlyStoppingState, epoch: Scalar, value: Scalar) -> EarlyStoppingState:
    """The state after `epoch` (counted from 0), whose monitored value is `value`."""
    looks = (state.stopped_epoch < 0) & (epoch >= self.start_from_epoch)
    improved = looks & _improves(value, state.best, self.mode, self.min_delta)
    wait = jnp.where(looks, jnp.where(improved, 0, state.wait + 1), state.wait)
    # As in Keras, the first epoch of all is never the last.
    stops = looks & ~improved & (wait >= self.patience) & (epoch > 0)
    return EarlyStoppingState(
      best=jnp.where(improved, value, state.best),
      wait=wait,
      stopped_epoch=jnp.where(stops, epoch, state.stopped_epoch),
      improved=improved,
    )


class BestTrackerState(NamedTuple):
  """All of shape []."""

  best: jax.Array  # float32, the best value so far
  best_epoch: jax.Array  # int32, its epoch, -1 before there is one
  improved: jax.Array  # bool, whether the last epoch was the best


@dataclasses.dataclass(frozen=True)
class BestTracker:
  """Keras' ModelCheckpoint(save_best_only=True): of equal values the first is the best.

  Attributes:
    mode: 'min' or 'max'.

  Raises:
    UserError: for another mode, naming the field `select.mode`.
  """

  mode: str = "min"

  def __post_init__(self):
    _check_mode("select", self.mode)

  def init(self) -> BestTrackerState:
    return BestTrackerState(
      best=_worst(self.mode),
      best_epoch=jnp.full([], -1, jnp.int32),
      improved=jnp.zeros([], bool),
    )

  def update(
    self, state: BestTrackerState, epoch: Scalar, value: Scalar, frozen: Scalar = False
  ) -> BestTrackerState:
    """The state after `epoch`; frozen: bool, a seed that has stopped and has no more bests."""
    improved = _improves(value, state.best, self.mode) & ~jnp.asarray(frozen)
    return BestTrackerState(
      best=jnp.where(improved, value, state.best),
      best_epoch=jnp.where(improved, epoch, state.best_epoch),
      improved=improved,
    )


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
