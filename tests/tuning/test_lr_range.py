"""The learning-rate range test: its curve against NumPy, and a small run."""

import json

import numpy as np
import pytest
import small_runs

from cifar_jax.errors import UserError
from tuning import lr_range


def test_a_parabola_is_not_changed_by_smoothing_and_has_its_own_slope():
  step = np.arange(40.0)
  smoothed, slope = lr_range.smooth(3 - 0.2 * step + 0.01 * step**2, 9)
  np.testing.assert_allclose(smoothed, 3 - 0.2 * step + 0.01 * step**2, atol=1e-9)
  np.testing.assert_allclose(slope, -0.2 + 0.02 * step, atol=1e-9)


def test_smoothing_is_the_parabola_that_numpy_fits():
  losses = np.random.default_rng(0).normal(size=30)
  smoothed, slope = lr_range.smooth(losses, 11)
  for middle in range(5, 25):
    _, b, c = np.polyfit(np.arange(-5, 6), losses[middle - 5 : middle + 6], 2)
    assert (smoothed[middle], slope[middle]) == (pytest.approx(c), pytest.approx(b))


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_few_steps_are_smoothed_over_fewer(count):
  losses = np.arange(count, dtype=float)
  smoothed, slope = lr_range.smooth(losses, 21)
  np.testing.assert_allclose(smoothed, losses, atol=1e-9)
  np.testing.assert_allclose(slope, np.ones(count), atol=1e-9)


def test_the_window_is_half_a_decade_of_steps():
  assert lr_range.smoothing_window(10 ** (1 / 40)) == 21
  assert lr_range.smoothing_window(10.0) == 5


def test_the_fastest_fall_is_where_the_curve_is_steepest():
  rates = np.logspace(-4, 0, 401)
  # A fall in the middle of its S at 1e-2, then a rise.
  loss = 2 - np.tanh(4 * (np.log10(rates) + 2)) + np.maximum(0, np.log10(rates) + 0.5) * 9
  assert lr_range.fastest_fall(rates, *lr_range.smooth(loss, 21)) == pytest.approx(1e-2, rel=0.03)
  assert lr_range.fastest_fall(rates, *lr_range.smooth(np.linspace(1, 2, 401), 21)) is None


def test_a_range_test_suggests_a_rate_that_trains(tmp_path):
  config = small_runs.config(tmp_path / "data", augment="", lookahead__every=0)
  found = lr_range.lr_range_test(config, tmp_path / "out", low=1e-5, high=1e5, steps=100)
  rates = np.array(found["learning_rate"])
  assert rates[0] == pytest.approx(1e-5)
  np.testing.assert_allclose(rates[1:] / rates[:-1], 1e10 ** (1 / 99), rtol=1e-6)
  assert len(rates) < 100  # it stopped when the loss had diverged
  assert found["steepest"] < found["lowest"]
  assert 1e-3 < found["lowest"] < 10
  assert found["suggested"] == found["lowest"] / 10
  assert json.loads((tmp_path / "out" / "lr_range.json").read_text()) == found
  assert (tmp_path / "out" / "lr_range.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"low": 1.0, "high": 0.1}, "low, high: 1 to 0.1 is no range"),
    ({"low": 0.0}, "low, high: 0 to 10 is no range"),
    ({"steps": 3}, "steps: 3 are too few"),
  ],
)
def test_what_is_no_range_is_refused(tmp_path, arguments, message):
  with pytest.raises(UserError, match=message):
    lr_range.lr_range_test(small_runs.config(tmp_path), tmp_path, **arguments)
