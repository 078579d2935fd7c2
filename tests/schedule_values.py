"""Learning rates at every step of a run, by this project's schedules and by Keras'."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.optim import schedules

EPOCH, TOTAL = 391, 10 * 391
STEPS = np.arange(TOTAL + 1)


def compute_rates(
  name: str,
  learning_rate: float = 0.1,
  steps_per_epoch: int = EPOCH,
  total_steps: int = TOTAL,
  steps: np.ndarray = STEPS,
  **arguments: Any,
) -> np.ndarray:
  """Return the rates of the named schedule at `steps`."""
  config = {"name": name, **arguments}
  schedule = schedules.create(config, learning_rate, steps_per_epoch, total_steps)
  return np.asarray(jax.vmap(schedule)(jnp.asarray(steps)))


def compute_keras_rates(schedule: Callable[..., Any], steps: np.ndarray = STEPS) -> np.ndarray:
  """Return the rates of a Keras schedule at `steps`."""
  return np.asarray(jax.vmap(schedule)(jnp.asarray(steps)))


def assert_close(actual: Any, expected: Any, atol: float = 0.0) -> None:
  """Assert equality up to 2e-6, because Keras computes in float32 in other orders."""
  np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=atol)
