"""Learning-rate schedules, by name.

A schedule is a function `name(learning_rate, *, steps_per_epoch, total_steps, **its own)` that
returns a function of the step. To add one, write it below and name it in `SCHEDULES`.

`learning_rate` is the schedule's highest value wherever it has one, and may be a traced scalar: it
only ever multiplies. `steps_per_epoch` and `total_steps` are positive integers. Steps count from 0,
the first update's, so the last update's is total_steps - 1.
"""

import itertools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cifar_jax import errors
from cifar_jax.registry import call_named, check_number

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


def create(
  config_schedule: Mapping[str, Any],
  learning_rate: jax.typing.ArrayLike,
  steps_per_epoch: int,
  total_steps: int,
) -> Schedule:
  """Builds the schedule a config describes.

  Args:
    config_schedule: `name`, one of `SCHEDULES`, and the schedule's own arguments; a value of None
      stands for the default.
    learning_rate: a number > 0, or a traced scalar.
    steps_per_epoch: updates in one epoch.
    total_steps: updates in the whole run.

  Returns:
    A function from the step (an int or an integer array of shape []) to the learning rate, float32
    of shape []. Steps are exact up to 2**24.

  Raises:
    UserError: for an unknown name or argument, or a value out of range; it names the field.
  """
  check_number("optimizer.learning_rate", learning_rate, "a number > 0", lambda x: x > 0)
  shape = call_named(
    "schedule",
    SCHEDULES,
    config_schedule,
    learning_rate,
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
  )
  # The same numbers come out whether the step is a Python int, an int32 or traced.
  return lambda step: jnp.asarray(shape(jnp.asarray(step, jnp.float32)), jnp.float32)


def constant(
  learning_rate: jax.typing.ArrayLike,
  *,
  steps_per_epoch: int,
  total_steps: int,
) -> Schedule:
  """The same rate at every step."""
  return optax.constant_schedule(learning_rate)


def step_decay(
  learning_rate: jax.typing.ArrayLike,
  *,
  steps_per_epoch: int,
  total_steps: int,
  boundaries: Sequence[float] | None = None,
  factor: float = 0.1,
) -> Schedule:
  """Multiplies the rate by `factor` at each boundary.

  Args:
    boundaries: ascending epochs, counted from 0 and possibly fractional: the first update of epoch
      b is the first at the lower rate. By default half and three quarters of the run, as in He et
      al. 2016 on CIFAR-10. (Keras' PiecewiseConstantDecay keeps the old rate for one more step.)
    factor: > 0.
  """
  if boundaries is None:
    boundaries = [part * total_steps / steps_per_epoch for part in (0.5, 0.75)]
  ascending = (
    isinstance(boundaries, Sequence)
    and len(boundaries) > 0
    and all(isinstance(b, numbers.Real) for b in boundaries)
    and boundaries[0] > 0
    and all(a < b for a, b in itertools.pairwise(boundaries))
  )
  if not ascending:
    raise errors.UserError(
      f"schedule.boundaries: must be ascending epochs > 0 such as (100, 150), got {boundaries!r}"
    )
  check_number("schedule.factor", factor, "a number > 0", lambda x: x > 0)
  steps = [round(boundary * steps_per_epoch) for boundary in boundaries]
  shape = optax.join_schedules(
    [optax.constant_schedule(factor**i) for i in range(len(steps) + 1)], steps
  )
  return lambda step: learning_rate * shape(step)


def exponential(
  learning_rate: jax.typing.ArrayLike,
  *,
  steps_per_epoch: int,
  total_steps: int,
  decay_steps: float | None = None,
  decay_epochs: float | None = None,
  rate: float = 0.96,
  staircase: bool = False,
) -> Schedule:
  """learning_rate * rate ** (step / decay_steps): Keras' ExponentialDecay.

  Args:
    decay_steps: the steps in which the rate falls by `rate`, or
    decay_epochs: the same in epochs; one epoch when neither is given.
    rate: > 0.
    staircase: the exponent is rounded down, so that the rate falls once every `decay_steps`.
  """
  decay_steps = _duration(
    "decay_steps", decay_steps, "decay_epochs", decay_epochs, 1, steps_per_epoch
  )
  check_number("schedule.rate", rate, "a number > 0", lambda x: x > 0)
  shape = optax.exponential_decay(1.0, decay_steps, rate, staircase=staircase)
  return lambda step: learning_rate * shape(step)


def inverse_time(
  learning_rate: jax.typing.ArrayLike,
  *,
  steps_per_epoch: int,
  total_steps: int,
  decay_steps: float = 1,
  rate: float = 1e-6,
  staircase: bool = False,
) -> Schedule:
  """learning_rate / (1 + rate * step / decay_steps): Keras' InverseTimeDecay.

  With decay_steps=1 it is the `decay=` argument that optimizers had before Keras 2.11, as in
  `RMSprop(lr=1e-4, decay=1e-6)` of report 002.

  Args:
    decay_steps: > 0.
    rate: >= 0.
    staircase: step / decay_steps is rounded down.
  """
  check_number("schedule.decay_steps", decay_steps, "a number > 0", lambda x: x > 0)
  check_number("schedule.rate", rate, "a number >= 0", lambda x: x >= 0)

  def schedule(step):
    time = step / decay_steps
    return learning_rate / (1 + rate * (jnp.floor(time) if staircase else time))

  return schedule


def linear(
  learning_rate: jax.typing.ArrayLike,
  *,
  steps_per_epoch: int,
  total_steps: int,
  warmup_epochs: float | None = None,
  pct_start: float | None = None,
  initial: float = 0.0,
  final: float = 0.0,
) -> Schedule:
  """Straight up to learning_rate, then straight down: the triangle of the CIFAR-10 speedruns.

  Args:
    warmup_epochs: >= 0, where the top lies. A run no longer than this ends on the way up. Or
    pct_start: in [0, 1), the same as a part of the run, rounded down to a step.
    initial: the rate at step 0 as a fraction of learning_rate, >= 0, if there is a warm-up.
    final: the rate at step total_steps as a fraction of learning_rate, >= 0.
  """
  if pct_start is None:
    warmup = _warmup_steps(warmup_epochs or 0.0, steps_per_epoch)
  elif warmup_epochs is None:
    check_number("schedule.pct_start", pct_start, "a number in [0, 1)", lambda x: 0 <= x < 1)
    warmup = int(pct_start * total_steps)
  else:
    raise errors.UserError(
      "schedule.pct_start: warmup_epochs is set too; set one and leave the other None"
    )
  _check_fraction("initial", initial)
  _check_fraction("final", final)
  decay = optax.linear_schedule(1.0, final, max(total_steps - warmup, 1))
  shape = _after_warmup(warmup, initial, decay)
  return lambda step: learning_rate * shape(step)


def warmup_cosine(
  learning_rate: jax.typing.ArrayLike,
  *,
  steps_per_epoch: int,
  total_steps: int,
  warmup_epochs: float = 0.0,
  initial: float = 0.0,
  final: float = 0.0,
) -> Schedule:
  """Straight up to learning_rate, then half a cosine down: Keras' CosineDecay with warm-up.

  Goyal et al. 2017 (the warm-up), Loshchilov & Hutter 2017 (the cosine). The arguments are those of
  `linear`; `final` is Keras' alpha.
  """
  warmup = _warmup_steps(warmup_epochs, steps_per_epoch)
  _check_fraction("initial", initial)
  _check_fraction("final", final)
  decay = optax.cosine_decay_schedule(1.0, max(total_steps - warmup, 1), alpha=final)
  shape = _after_warmup(warmup, initial, decay)
  return lambda step: learning_rate * shape(step)


def cosine_restarts(
  learning_rate: jax.typing.ArrayLike,
  *,
  steps_per_epoch: int,
  total_steps: int,
  first_decay_steps: int | None = None,
  t_mul: float = 2.0,
  m_mul: float = 1.0,
  alpha: float = 0.0,
) -> Schedule:
  """Cosine decay with warm restarts: Keras' CosineDecayRestarts (Loshchilov & Hutter 2017).

  Args:
    first_decay_steps: steps, not epochs, of the first cycle; by default one epoch's. Report 000
      takes 200, half an epoch, with t_mul=2, m_mul=0.8, alpha=1e-5.
    t_mul: every cycle is so many times longer than the one before; >= 1.
    m_mul: every cycle starts at so many times the rate of the one before; > 0.
    alpha: the lowest rate as a fraction of learning_rate, >= 0.
  """
  first = steps_per_epoch if first_decay_steps is None else first_decay_steps
  check_number(
    "schedule.first_decay_steps",
    first,
    "a whole number of steps > 0",
    lambda x: x > 0 and x == int(x),
  )
  check_number("schedule.t_mul", t_mul, "a number >= 1", lambda x: x >= 1)
  check_number("schedule.m_mul", m_mul, "a number > 0", lambda x: x > 0)
  _check_fraction("alpha", alpha)
  # Keras finds the cycle by a logarithm, whose rounding may miss a restart; a table does not.
  starts, lengths = [0.0], [float(first)]
  while starts[-1] + lengths[-1] <= total_steps:
    starts.append(starts[-1] + lengths[-1])
    lengths.append(lengths[-1] * t_mul)
  tops = np.asarray(m_mul ** np.arange(len(starts)), np.float32)
  starts, lengths = np.asarray(starts, np.float32), np.asarray(lengths, np.float32)

  def schedule(step):
    cycle = jnp.searchsorted(starts, step, side="right") - 1
    progress = jnp.minimum((step - jnp.take(starts, cycle)) / jnp.take(lengths, cycle), 1.0)
    cosine = jnp.take(tops, cycle) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return learning_rate * ((1 - alpha) * cosine + alpha)

  return schedule


def cyclical(
  learning_rate: jax.typing.ArrayLike,
  *,
  steps_per_epoch: int,
  total_steps: int,
  base_lr: float | None = None,
  step_size: float | None = None,
  step_size_epochs: float | None = None,
  mode: str = "triangular",
  gamma: float = 0.99994,
) -> Schedule:
  """Up and down between base_lr and learning_rate (max_lr) in straight lines (Smith 2017).

  Args:
    base_lr: the lowest rate, >= 0; by default learning_rate / 4, as in section 3.3 of the paper.
    step_size: steps of half a cycle, or
    step_size_epochs: the same in epochs; 4 epochs when neither is given (the paper: 2 to 10).
    mode: 'triangular'; 'triangular2': the height halves after each cycle; 'exp_range': the height
      is multiplied by gamma ** step.
    gamma: in (0, 1], for 'exp_range'.
  """
  half = _duration("step_size", step_size, "step_size_epochs", step_size_epochs, 4, steps_per_epoch)
  check_number("schedule.gamma", gamma, "a number in (0, 1]", lambda x: 0 < x <= 1)
  heights = {
    "triangular": lambda step, cycle: 1.0,
    "triangular2": lambda step, cycle: 0.5**cycle,
    # gamma ** step would raise gamma's rounding to float32 to the power of step as well.
    "exp_range": lambda step, cycle: jnp.exp(math.log(gamma) * step),
  }
  if mode not in heights:
    raise errors.UserError(f"schedule.mode: must be one of {', '.join(heights)}, got {mode!r}")
  if base_lr is None:
    base_lr = learning_rate / 4
  else:
    check_number("schedule.base_lr", base_lr, "a number >= 0", lambda x: x >= 0)
    if not isinstance(learning_rate, jax.Array) and base_lr > learning_rate:
      raise errors.UserError(
        f"schedule.base_lr: must not exceed optimizer.learning_rate, the top of the cycle "
        f"({learning_rate}), got {base_lr}"
      )

  def schedule(step):
    cycle, position = jnp.divmod(step, 2 * half)
    triangle = 1 - jnp.abs(position / half - 1)
    return base_lr + (learning_rate - base_lr) * triangle * heights[mode](step, cycle)

  return schedule


def one_cycle(
  learning_rate: jax.typing.ArrayLike,
  *,
  steps_per_epoch: int,
  total_steps: int,
  pct_start: float = 0.3,
  anneal: str = "cosine",
  div_factor: float = 25.0,
  final_div_factor: float = 1e4,
) -> Schedule:
  """One rise and one fall over the whole run (Smith & Topin 2018, super-convergence).

  The shape is that of PyTorch's OneCycleLR in two phases: from learning_rate / div_factor at step 0
  to learning_rate at step pct_start * total_steps - 1, then to learning_rate / (div_factor *
  final_div_factor) at the last update, step total_steps - 1. The momentum, which the paper cycles
  the other way, stays as it is.

  Args:
    pct_start: in (0, 1), the part of the run spent rising.
    anneal: 'cosine' or 'linear', the shape of both phases.
    div_factor: > 0.
    final_div_factor: > 0.
  """
  check_number("schedule.pct_start", pct_start, "a number in (0, 1)", lambda x: 0 < x < 1)
  check_number("schedule.div_factor", div_factor, "a number > 0", lambda x: x > 0)
  check_number("schedule.final_div_factor", final_div_factor, "a number > 0", lambda x: x > 0)
  eased = {"cosine": lambda part: 0.5 * (1 - jnp.cos(jnp.pi * part)), "linear": lambda part: part}
  if anneal not in eased:
    raise errors.UserError(f"schedule.anneal: must be one of {', '.join(eased)}, got {anneal!r}")
  start, end = 1 / div_factor, 1 / (div_factor * final_div_factor)
  top, last = pct_start * total_steps - 1, total_steps - 1

  def schedule(step):
    rise = start + (1 - start) * eased[anneal](step / max(top, 1))
    fall = end + (1 - end) * eased[anneal](jnp.maximum((last - step) / (last - top), 0))
    return learning_rate * jnp.where(step < top, rise, fall)

  return schedule


SCHEDULES: dict[str, Callable[..., Schedule]] = {
  "constant": constant,
  "cosine_restarts": cosine_restarts,
  "cyclical": cyclical,
  "exponential": exponential,
  "inverse_time": inverse_time,
  "linear": linear,
  "one_cycle": one_cycle,
  "step": step_decay,
  "warmup_cosine": warmup_cosine,
}


def _check_fraction(name: str, value: Any) -> None:
  check_number(f"schedule.{name}", value, "a fraction of learning_rate >= 0", lambda x: x >= 0)


def _duration(
  steps_name: str,
  steps: float | None,
  epochs_name: str,
  epochs: float | None,
  default_epochs: float,
  steps_per_epoch: int,
) -> float:
  """A duration in steps from whichever of its two arguments a config sets."""
  if steps is not None and epochs is not None:
    raise errors.UserError(
      f"schedule.{steps_name}: {epochs_name} is set too; set one and leave the other None"
    )
  if steps is not None:
    check_number(f"schedule.{steps_name}", steps, "a number > 0", lambda x: x > 0)
    return steps
  epochs = default_epochs if epochs is None else epochs
  check_number(f"schedule.{epochs_name}", epochs, "a number > 0", lambda x: x > 0)
  return epochs * steps_per_epoch


def _warmup_steps(warmup_epochs: float, steps_per_epoch: int) -> int:
  check_number("schedule.warmup_epochs", warmup_epochs, "a number >= 0", lambda x: x >= 0)
  return round(warmup_epochs * steps_per_epoch)


def _after_warmup(warmup: int, initial: float, decay: Schedule) -> Schedule:
  """From `initial` to 1 in `warmup` steps, then `decay`, which starts at 1."""
  if warmup == 0:
    return decay
  return optax.join_schedules([optax.linear_schedule(initial, 1.0, warmup), decay], [warmup])
