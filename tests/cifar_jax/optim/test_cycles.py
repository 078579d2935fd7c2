"""Cyclical schedules against Keras, SciPy and optax, step by step."""

import jax
import numpy as np
import optax
import pytest
import scipy.signal
from schedule_values import EPOCH, STEPS, TOTAL, assert_close, compute_keras_rates, compute_rates


@pytest.mark.parametrize(
  "first,t_mul,m_mul,alpha",
  [(200, 2.0, 0.8, 1e-5), (EPOCH, 1.0, 1.0, 0.0), (10, 1.5, 0.9, 0.01), (7, 3.0, 1.1, 0.0)],
)
def test_cosine_restarts_is_keras(keras_optimizers, first, t_mul, m_mul, alpha):
  keras = keras_optimizers.schedules.CosineDecayRestarts(
    0.1, first, t_mul=t_mul, m_mul=m_mul, alpha=alpha
  )
  ours = compute_rates(
    "cosine_restarts", first_decay_steps=first, t_mul=t_mul, m_mul=m_mul, alpha=alpha
  )
  # Near the bottom of a cycle 1 + cos cancels, hence the absolute term, 1e-6 of the top.
  assert_close(ours, compute_keras_rates(keras), atol=1e-7)
  restarts = np.flatnonzero(np.diff(ours) > 0)
  assert restarts[0] == first - 1


def test_cosine_restarts_defaults_are_keras_with_one_epoch(keras_optimizers):
  keras = keras_optimizers.schedules.CosineDecayRestarts(0.1, EPOCH)
  assert_close(compute_rates("cosine_restarts"), compute_keras_rates(keras), atol=1e-7)


def test_cyclical_is_a_triangle_wave():
  ours = compute_rates("cyclical", base_lr=0.01, step_size=100)
  wave = scipy.signal.sawtooth(2 * np.pi * STEPS / 200, width=0.5)
  assert_close(ours, 0.01 + 0.09 * (wave + 1) / 2, atol=1e-7)
  assert_close(
    compute_rates("cyclical", step_size_epochs=2.5),
    compute_rates("cyclical", step_size=2.5 * EPOCH),
  )
  assert_close(compute_rates("cyclical").min(), 0.1 / 4)
  assert compute_rates("cyclical").argmax() == 4 * EPOCH


def test_cyclical_modes():
  triangular = compute_rates("cyclical", base_lr=0.01, step_size=100)
  half_height = compute_rates("cyclical", base_lr=0.01, step_size=100, mode="triangular2")
  assert_close(half_height[100::200], 0.01 + 0.09 * 0.5 ** np.arange(20), atol=1e-8)
  assert_close(half_height - 0.01, (triangular - 0.01) * 0.5 ** (STEPS // 200), atol=1e-8)
  shrinking = compute_rates("cyclical", base_lr=0.01, step_size=100, mode="exp_range", gamma=0.999)
  assert_close(shrinking - 0.01, (triangular - 0.01) * 0.999**STEPS, atol=1e-7)


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
def test_one_cycle_has_pytorchs_phases(anneal):
  def between(start, end, part):
    return end + (start - end) * (
      (1 + np.cos(np.pi * part)) / 2 if anneal == "cosine" else 1 - part
    )

  top, last = 0.25 * TOTAL - 1, TOTAL - 1
  expected = np.where(
    top >= STEPS,
    between(0.004, 0.1, STEPS / top),
    between(0.1, 4e-7, np.minimum((STEPS - top) / (last - top), 1)),
  )
  ours = compute_rates("one_cycle", pct_start=0.25, anneal=anneal)
  assert_close(ours, expected, atol=1e-8)
  assert_close(ours[[0, TOTAL - 1]], [0.004, 4e-7])


def test_one_cycle_is_optaxs_with_the_ends_on_steps():
  # 1000 steps: PyTorch's phases end at steps 299 and 999, optax's at the int()s of its arguments.
  steps = np.arange(1000)
  ours = compute_rates("one_cycle", total_steps=1000, steps=steps)
  theirs = jax.jit(optax.cosine_onecycle_schedule(999, 0.1, pct_start=299.5 / 999))
  assert_close(ours, jax.vmap(theirs)(steps), atol=1e-8)
