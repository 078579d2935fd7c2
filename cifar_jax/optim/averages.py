"""Averages of the weights over training: exponential moving average, and Lookahead."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def ema_update(
  average: PyTree, new: PyTree, step: jax.typing.ArrayLike, decay: float, warmup: bool = True
) -> PyTree:
  """Exponential moving average of the weights: decay * average + (1 - decay) * new.

  Args:
    average, new: trees of the same structure and shapes.
    step: updates of the average before this one, an int or int array of shape [].
    decay: in [0, 1].
    warmup: the decay is at most (1 + step) / (10 + step), TensorFlow's num_updates, so that early
      weights are forgotten soon.
  """
  if warmup:
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return optax.incremental_update(new, average, 1 - decay)


def lookahead_update(
  slow: PyTree,
  fast: PyTree,
  step: jax.typing.ArrayLike,
  total_steps: int,
  *,
  every: int,
  decay: float,
  power: float,
) -> tuple[PyTree, PyTree]:
  """Lookahead (Zhang et al. 2019) with the growing decay of Jordan 2024: the new (slow, fast).

  Every `every` steps both become d * slow + (1 - d) * fast, d = decay * (step / total_steps) **
  power. After the last step, if it is none of these, fast becomes slow. Zhang et al.'s own is
  power=0, decay=1 - alpha.

  Args:
    slow, fast: trees of the same structure and shapes; the optimiser moves `fast`.
    step: steps taken, from 1.
    total_steps: of the whole run.
    every: > 0.
    decay: in [0, 1].
    power: >= 0.
  """
  step = jnp.asarray(step)
  synced = step % every == 0
  part = jnp.minimum(step / total_steps, 1.0)
  d = jnp.where(synced, decay * part**power, 1.0)
  mixed = optax.incremental_update(fast, slow, 1 - d)
  due = synced | (step == total_steps)
  slow, fast = (
    jax.tree.map(lambda m, t: jnp.where(due, m, t), mixed, tree) for tree in (slow, fast)
  )
  return slow, fast
