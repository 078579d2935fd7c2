"""Averages of the weights over training: exponential moving average, and Lookahead."""

import jax
import jax.numpy as jnp

from cifar_jax.types import PyTree


def update_ema(
  average: PyTree,
  weights: PyTree,
  step: jax.typing.ArrayLike,
  decay: float,
  warmup: bool = True,
) -> PyTree:
  """Return the exponential moving average decay * average + (1 - decay) * weights.

  Args:
    average, weights: trees of the same structure and shapes.
    step: the number of earlier updates of the average, an int or an int array of shape [].
    decay: in [0, 1].
    warmup: limit the decay to (1 + step) / (10 + step), as TensorFlow's num_updates does, so that
      the average soon forgets early weights.
  """
  limited: jax.typing.ArrayLike = decay
  if warmup:
    limited = jnp.minimum(decay, (1 + step) / (10 + step))
  return _move(average, weights, 1 - limited)


def update_lookahead(
  slow: PyTree,
  fast: PyTree,
  step: jax.typing.ArrayLike,
  total_steps: int,
  *,
  every: int,
  decay: float,
  power: float,
) -> tuple[PyTree, PyTree]:
  """Return the new (slow, fast) of Lookahead (Zhang et al. 2019) with Jordan 2024's growing decay.

  Every `every` steps both trees become d * slow + (1 - d) * fast, where d = decay * (step /
  total_steps) ** power. After step total_steps, unless that is such a step, fast becomes slow.
  A run that stops earlier ends with the fast weights. power=0 and decay=1 - alpha give the rule of
  Zhang et al.

  Args:
    slow, fast: trees of the same structure and shapes; the optimizer moves `fast`.
    step: the number of steps taken, from 1.
    total_steps: the number of steps in a run that does not stop early.
    every: > 0.
    decay: in [0, 1].
    power: >= 0.
  """
  step = jnp.asarray(step)
  is_sync = step % every == 0
  progress = jnp.minimum(step / total_steps, 1.0)
  d = jnp.where(is_sync, decay * progress**power, 1.0)
  mixed = _move(slow, fast, 1 - d)
  is_due = is_sync | (step == total_steps)
  slow, fast = (
    jax.tree.map(lambda new, old: jnp.where(is_due, new, old), mixed, tree) for tree in (slow, fast)
  )
  return slow, fast


def _move(start: PyTree, end: PyTree, share: jax.typing.ArrayLike) -> PyTree:
  """Return the point at `share` of the way to `end`, exactly `start` where both are equal.

  (1 - share) * start + share * end would change frozen weights by rounding errors.
  """
  return jax.tree.map(lambda a, b: a + share * (b - a), start, end)
