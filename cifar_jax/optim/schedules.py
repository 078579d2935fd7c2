"""Learning-rate schedules, by name.

A schedule is a function `name(learning_rate, run, argument=default, ...)` that returns a function
of the step. `config.schedule` may set its arguments that have defaults. To add a schedule, write it
below and add it to `SCHEDULES`.

`learning_rate` is the schedule's highest value, if it has one, and may be a traced scalar, which
only allows arithmetic. Steps count from 0, the first update, to total_steps - 1, the last. An
invalid value raises UserError.
"""

import itertools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import ml_collections
import optax

from cifar_jax import errors
from cifar_jax.optim.cycles import cosine_restarts, cyclical, one_cycle
from cifar_jax.optim.schedule_arguments import (
  Curve,
  Rate,
  RunLength,
  check_fraction,
  resolve_steps,
  round_steps,
)
from cifar_jax.registry import call_named, check_number

# Maps a step, an int or an integer array of shape [], to the learning rate, float32 of shape [].
Schedule: TypeAlias = Callable[[jax.typing.ArrayLike], jax.Array]


def create(
  config_schedule: Mapping[str, Any],
  learning_rate: Rate,
  steps_per_epoch: int,
  total_steps: int,
) -> Schedule:
  """Return the schedule that a config describes.

  Args:
    config_schedule: `name`, one of `SCHEDULES`, and the schedule's arguments; None keeps a default.
    learning_rate: a number > 0, or a traced scalar.
    steps_per_epoch: updates in one epoch.
    total_steps: updates in the run.

  Returns:
    A function of the step, exact for steps up to 2**24.

  Raises:
    UserError: a name or argument is unknown, or a value is out of range.
  """
  check_number("optimizer.learning_rate", learning_rate, "a number > 0", lambda x: x > 0)
  run = RunLength(steps_per_epoch, total_steps)
  curve: Curve = call_named("schedule", SCHEDULES, config_schedule, learning_rate, run)
  # float32 gives the same numbers for a Python int, an int32 array and a traced step.
  return lambda step: jnp.asarray(curve(jnp.asarray(step, jnp.float32)), jnp.float32)


def count_steps(config: ml_collections.ConfigDict, steps_per_epoch: int) -> int:
  """Return the number of updates in a run, whose last epoch may be partial but has at least one."""
  # Round first, because 0.07 epochs of 100 steps are 7.000000000000001.
  last_steps = math.ceil(round(config.last_epoch * steps_per_epoch, 6))
  return (config.num_epochs - 1) * steps_per_epoch + max(last_steps, 1)


def constant(learning_rate: Rate, run: RunLength) -> Curve:
  """Return the same rate at every step."""
  return optax.constant_schedule(learning_rate)


def step_decay(
  learning_rate: Rate,
  run: RunLength,
  boundaries: Sequence[float] | None = None,
  factor: float = 0.1,
) -> Curve:
  """Return a rate that is multiplied by `factor` at each boundary.

  Args:
    boundaries: ascending epochs, counted from 0 and possibly fractional: the first update of epoch
      b is the first at the lower rate. By default half and three quarters of the run, as in He et
      al. 2016 on CIFAR-10. (Keras' PiecewiseConstantDecay keeps the old rate for one more step.)
    factor: > 0.
  """
  if boundaries is None:
    boundaries = [part * run.total_steps / run.steps_per_epoch for part in (0.5, 0.75)]
  is_ascending = (
    isinstance(boundaries, Sequence)
    and len(boundaries) > 0
    and all(isinstance(b, numbers.Real) for b in boundaries)
    and boundaries[0] > 0
    and all(a < b for a, b in itertools.pairwise(boundaries))
  )
  if not is_ascending:
    raise errors.UserError(
      f"schedule.boundaries: must be ascending epochs > 0 such as (100, 150), got {boundaries!r}"
    )
  largest = 3.4e38 ** (1 / len(boundaries))  # so that its last power fits in float32
  wanted = f"a number > 0 and, with {len(boundaries)} boundaries, < {largest:.3g}"
  check_number("schedule.factor", factor, wanted, lambda x: 0 < x < largest)
  steps = [round_steps(boundary, run.steps_per_epoch) for boundary in boundaries]
  shape = optax.join_schedules(
    [optax.constant_schedule(float(factor) ** i) for i in range(len(steps) + 1)], steps
  )
  return lambda step: learning_rate * shape(step)


def exponential(
  learning_rate: Rate,
  run: RunLength,
  decay_steps: float | None = None,
  decay_epochs: float | None = None,
  rate: float = 0.96,
  staircase: bool = False,
) -> Curve:
  """Return learning_rate * rate ** (step / decay_steps): Keras' ExponentialDecay.

  Args:
    decay_steps: the steps in which the learning rate falls by the factor `rate`, or
    decay_epochs: the same in epochs; one epoch if neither is set.
    rate: > 0.
    staircase: round the exponent down, so that the learning rate falls once every `decay_steps`.
  """
  duration = resolve_steps(("decay_steps", decay_steps), ("decay_epochs", decay_epochs), 1, run)
  check_number("schedule.rate", rate, "a number > 0", lambda x: x > 0)
  shape = optax.exponential_decay(1.0, duration, rate, staircase=staircase)
  return lambda step: learning_rate * shape(step)


def inverse_time(
  learning_rate: Rate,
  run: RunLength,
  decay_steps: float = 1,
  rate: float = 1e-6,
  staircase: bool = False,
) -> Curve:
  """Return learning_rate / (1 + rate * step / decay_steps): Keras' InverseTimeDecay.

  With decay_steps=1 it is the `decay=` argument of optimizers before Keras 2.11, as in
  `RMSprop(lr=1e-4, decay=1e-6)` of report 002.

  Args:
    decay_steps: > 0.
    rate: >= 0.
    staircase: round step / decay_steps down.
  """
  check_number("schedule.decay_steps", decay_steps, "a number > 0", lambda x: x > 0)
  check_number("schedule.rate", rate, "a number >= 0", lambda x: x >= 0)

  def curve(step: jax.Array) -> jax.Array:
    time = step / decay_steps
    return learning_rate / (1 + rate * (jnp.floor(time) if staircase else time))

  return curve


def linear(
  learning_rate: Rate,
  run: RunLength,
  warmup_epochs: float | None = None,
  pct_start: float | None = None,
  initial: float = 0.0,
  final: float = 0.0,
) -> Curve:
  """Return a linear rise and a linear fall: the triangle of the CIFAR-10 speedruns.

  Args:
    warmup_epochs: the epochs of the rise to learning_rate, >= 0. A run that is no longer than
      this ends on the rise. Or
    pct_start: in [0, 1), the rise as a fraction of the run, rounded down to a step.
    initial: the rate at step 0 as a fraction of learning_rate, >= 0, if there is a rise.
    final: the rate at step total_steps as a fraction of learning_rate, >= 0.
  """
  if pct_start is None:
    warmup = _count_warmup_steps(warmup_epochs or 0.0, run)
  elif warmup_epochs is None:
    check_number("schedule.pct_start", pct_start, "a number in [0, 1)", lambda x: 0 <= x < 1)
    warmup = int(pct_start * run.total_steps)
  else:
    raise errors.UserError(
      "schedule.pct_start: warmup_epochs is set too; set one and leave the other None"
    )
  check_fraction("initial", initial)
  check_fraction("final", final)
  decay = optax.linear_schedule(1.0, final, max(run.total_steps - warmup, 1))
  shape = _prepend_warmup(warmup, initial, decay)
  return lambda step: learning_rate * shape(step)


def warmup_cosine(
  learning_rate: Rate,
  run: RunLength,
  warmup_epochs: float = 0.0,
  initial: float = 0.0,
  final: float = 0.0,
) -> Curve:
  """Return a linear rise, then half a cosine down: Keras' CosineDecay with warm-up.

  Goyal et al. 2017 (the warm-up), Loshchilov & Hutter 2017 (the cosine). The arguments are those of
  `linear`; `final` is Keras' alpha.
  """
  warmup = _count_warmup_steps(warmup_epochs, run)
  check_fraction("initial", initial)
  check_fraction("final", final)
  decay = optax.cosine_decay_schedule(1.0, max(run.total_steps - warmup, 1), alpha=final)
  shape = _prepend_warmup(warmup, initial, decay)
  return lambda step: learning_rate * shape(step)


def warmup_stable_decay(
  learning_rate: Rate,
  run: RunLength,
  warmup_epochs: float = 0.0,
  decay_epochs: float | None = None,
  decay: str = "1-sqrt",
  initial: float = 0.0,
  final: float = 0.0,
) -> Curve:
  """Return a linear rise, a constant rate, and a decay at the end of the run.

  Hu et al. 2024 (MiniCPM, arXiv:2404.06395); Hägele et al. 2024 (arXiv:2405.18392), who find
  '1-sqrt' the best decay, and a fifth of the run long enough for it. Until the decay begins, the
  rate does not depend on the length of the run, so one run can be forked into longer ones.

  Args:
    warmup_epochs: the epochs of the rise to learning_rate, >= 0.
    decay_epochs: the number of epochs at the end of the run in which the rate falls, >= 0; by
      default a fifth of the run, rounded down to a step.
    decay: the factor after a fraction x of the decay: 'linear' is 1 - x, '1-sqrt' is 1 - sqrt(x),
      'cosine' is half a cosine.
    initial: the rate at step 0 as a fraction of learning_rate, >= 0, if there is a rise.
    final: the rate at step total_steps as a fraction of learning_rate, >= 0, if there is a decay.
  """
  warmup = _count_warmup_steps(warmup_epochs, run)
  num_steps = run.total_steps // 5
  if decay_epochs is not None:
    check_number("schedule.decay_epochs", decay_epochs, "a number >= 0", lambda x: x >= 0)
    num_steps = round_steps(decay_epochs, run.steps_per_epoch)
  start = run.total_steps - num_steps
  if start < warmup:
    raise errors.UserError(
      f"schedule.decay_epochs: {num_steps} steps of decay and {warmup} of warm-up are more than "
      f"the {run.total_steps} of the run; lower it"
    )
  if decay not in tuple(_DECAYS):  # not the dict, because `decay` may be unhashable
    raise errors.UserError(f"schedule.decay: must be one of {', '.join(_DECAYS)}, got {decay!r}")
  check_fraction("initial", initial)
  check_fraction("final", final)

  def stable_then_decay(step: jax.Array) -> jax.Array:  # counts from the end of the rise
    x = jnp.clip((step - (start - warmup)) / max(num_steps, 1), 0.0, 1.0)
    # Not final + (1 - final) * …, which rounding may keep from being 1 in the stable phase.
    return 1 - (1 - final) * (1 - _DECAYS[decay](x)) if num_steps else jnp.ones_like(x)

  shape = _prepend_warmup(warmup, initial, stable_then_decay)
  return lambda step: learning_rate * shape(step)


def _count_warmup_steps(warmup_epochs: float, run: RunLength) -> int:
  check_number("schedule.warmup_epochs", warmup_epochs, "a number >= 0", lambda x: x >= 0)
  return round_steps(warmup_epochs, run.steps_per_epoch)


def _prepend_warmup(warmup: int, initial: float, decay: optax.Schedule) -> optax.Schedule:
  """Return a rise from `initial` to 1 in `warmup` steps, then `decay`, which starts at 1."""
  if warmup == 0:
    return decay
  return optax.join_schedules([optax.linear_schedule(initial, 1.0, warmup), decay], [warmup])


_DECAYS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "1-sqrt": lambda x: 1 - jnp.sqrt(x),
  "cosine": lambda x: (1 + jnp.cos(jnp.pi * x)) / 2,
  "linear": lambda x: 1 - x,
}
SCHEDULES: dict[str, Callable[..., Curve]] = {
  "constant": constant,
  "cosine_restarts": cosine_restarts,
  "cyclical": cyclical,
  "exponential": exponential,
  "inverse_time": inverse_time,
  "linear": linear,
  "one_cycle": one_cycle,
  "step": step_decay,
  "warmup_cosine": warmup_cosine,
  "warmup_stable_decay": warmup_stable_decay,
}
