"""Cyclical learning-rate schedules: warm restarts, triangles, and one cycle over the run.

`schedules` describes what a schedule function receives and returns.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax import errors
from cifar_jax.optim.schedule_arguments import Curve, Rate, RunLength, check_fraction, resolve_steps
from cifar_jax.registry import check_number


def cosine_restarts(
  learning_rate: Rate,
  run: RunLength,
  first_decay_steps: int | None = None,
  t_mul: float = 2.0,
  m_mul: float = 1.0,
  alpha: float = 0.0,
) -> Curve:
  """Return cosine decay with warm restarts: Keras' CosineDecayRestarts (Loshchilov & Hutter 2017).

  Args:
    first_decay_steps: the first cycle's length in steps, not epochs; one epoch by default. Report
      000 uses 200, half an epoch, with t_mul=2, m_mul=0.8, alpha=1e-5.
    t_mul: each cycle's length as a multiple of the previous cycle's, >= 1.
    m_mul: each cycle's initial rate as a multiple of the previous cycle's, > 0.
    alpha: the lowest rate as a fraction of learning_rate, >= 0.
  """
  first = run.steps_per_epoch if first_decay_steps is None else first_decay_steps
  check_number(
    "schedule.first_decay_steps",
    first,
    "a whole number of steps > 0",
    lambda x: x > 0 and x == int(x),
  )
  check_number("schedule.t_mul", t_mul, "a number >= 1", lambda x: x >= 1)
  check_number("schedule.m_mul", m_mul, "a number > 0", lambda x: x > 0)
  check_fraction("alpha", alpha)
  starts, lengths = _list_cycles(first, t_mul, run.total_steps)
  with np.errstate(over="ignore"):
    tops = np.asarray(float(m_mul) ** np.arange(len(starts)), np.float32)
  if not np.isfinite(tops).all():
    raise errors.UserError(
      f"schedule.m_mul: {m_mul} makes the rate of the last of {len(starts)} cycles infinite; "
      "lower it"
    )

  def curve(step: jax.Array) -> jax.Array:
    cycle = jnp.searchsorted(starts, step, side="right") - 1
    progress = jnp.minimum((step - jnp.take(starts, cycle)) / jnp.take(lengths, cycle), 1.0)
    cosine = jnp.take(tops, cycle) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return learning_rate * ((1 - alpha) * cosine + alpha)

  return curve


def _list_cycles(first: int, t_mul: float, total_steps: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the cycles' starts and lengths in steps, float32, up to the end of the run.

  Keras finds the cycle by a logarithm, whose rounding may miss a restart; a table does not.
  """
  starts, lengths = [0.0], [float(first)]
  while starts[-1] + lengths[-1] <= total_steps:
    starts.append(starts[-1] + lengths[-1])
    lengths.append(lengths[-1] * t_mul)
  return np.asarray(starts, np.float32), np.asarray(lengths, np.float32)


def cyclical(
  learning_rate: Rate,
  run: RunLength,
  base_lr: float | None = None,
  step_size: float | None = None,
  step_size_epochs: float | None = None,
  mode: str = "triangular",
  gamma: float = 0.99994,
) -> Curve:
  """Return straight lines up and down between base_lr and learning_rate (max_lr) (Smith 2017).

  Args:
    base_lr: the lowest rate, >= 0; by default learning_rate / 4, as in section 3.3 of the paper.
    step_size: the number of steps in half a cycle, or
    step_size_epochs: the same in epochs; 4 epochs if neither is set (2 to 10 in the paper).
    mode: 'triangular'; 'triangular2': the height halves after each cycle; 'exp_range': the height
      is multiplied by gamma ** step.
    gamma: in (0, 1], for 'exp_range'.
  """
  half = resolve_steps(("step_size", step_size), ("step_size_epochs", step_size_epochs), 4, run)
  check_number("schedule.gamma", gamma, "a number in (0, 1]", lambda x: 0 < x <= 1)
  heights: dict[str, Callable[[jax.Array, jax.Array], Rate]] = {
    "triangular": lambda step, cycle: 1.0,
    "triangular2": lambda step, cycle: 0.5**cycle,
    # gamma ** step would also raise the float32 rounding of gamma to the power of step.
    "exp_range": lambda step, cycle: jnp.exp(math.log(gamma) * step),
  }
  if mode not in tuple(heights):  # not the dict, because `mode` may be unhashable
    raise errors.UserError(f"schedule.mode: must be one of {', '.join(heights)}, got {mode!r}")
  lowest = _resolve_base_rate(base_lr, learning_rate)

  def curve(step: jax.Array) -> jax.Array:
    cycle, position = jnp.divmod(step, 2 * half)
    triangle = 1 - jnp.abs(position / half - 1)
    return lowest + (learning_rate - lowest) * triangle * heights[mode](step, cycle)

  return curve


def _resolve_base_rate(base_lr: float | None, learning_rate: Rate) -> Rate:
  if base_lr is None:
    return learning_rate / 4
  check_number("schedule.base_lr", base_lr, "a number >= 0", lambda x: x >= 0)
  if not isinstance(learning_rate, jax.Array) and base_lr > learning_rate:
    raise errors.UserError(
      f"schedule.base_lr: must not exceed optimizer.learning_rate, the top of the cycle "
      f"({learning_rate}), got {base_lr}"
    )
  return base_lr


def one_cycle(
  learning_rate: Rate,
  run: RunLength,
  pct_start: float = 0.3,
  anneal: str = "cosine",
  div_factor: float = 25.0,
  final_div_factor: float = 1e4,
) -> Curve:
  """Return one rise and one fall over the run (Smith & Topin 2018, super-convergence).

  The shape is that of PyTorch's OneCycleLR in two phases: from learning_rate / div_factor at step 0
  to learning_rate at step pct_start * total_steps - 1, then to learning_rate / (div_factor *
  final_div_factor) at the last update, step total_steps - 1. The momentum is constant; the paper
  cycles it in the opposite direction.

  Args:
    pct_start: in (0, 1), the fraction of the run in which the rate rises.
    anneal: 'cosine' or 'linear', the shape of both phases.
    div_factor, final_div_factor: > 1e-30, so that their product is not 0.
  """
  check_number("schedule.pct_start", pct_start, "a number in (0, 1)", lambda x: 0 < x < 1)
  for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
    check_number(f"schedule.{name}", value, "a number > 1e-30", lambda x: x > 1e-30)
  eases: dict[str, Callable[[jax.Array], jax.Array]] = {
    "cosine": lambda fraction: 0.5 * (1 - jnp.cos(jnp.pi * fraction)),
    "linear": lambda fraction: fraction,
  }
  if anneal not in tuple(eases):
    raise errors.UserError(f"schedule.anneal: must be one of {', '.join(eases)}, got {anneal!r}")
  ease = eases[anneal]
  start, end = 1 / div_factor, 1 / (div_factor * final_div_factor)
  top, last = pct_start * run.total_steps - 1, run.total_steps - 1

  def curve(step: jax.Array) -> jax.Array:
    rise = start + (1 - start) * ease(step / max(top, 1))
    fall = end + (1 - end) * ease(jnp.maximum((last - step) / (last - top), 0))
    return learning_rate * jnp.where(step < top, rise, fall)

  return curve
