"""The learning-rate range test: its curve against NumPy, and a small run."""

import json

import numpy as np
import pytest
import runs

from analysis import lr_range
from errors import UserError


def test_smoothing_is_the_weighted_mean_of_all_before():
  losses = np.random.default_rng(0).normal(size=20)
  for n, value in enumerate(lr_range.smooth(losses, 0.9), start=1):
    assert value == pytest.approx(np.average(losses[:n], weights=0.9 ** np.arange(n)[::-1]))


def test_the_steepest_descent_is_where_the_curve_is_steepest():
  rates = np.logspace(-4, 0, 401)
  # A fall in the middle of its S at 1e-2, then a rise.
  loss = 2 - np.tanh(4 * (np.log10(rates) + 2)) + np.maximum(0, np.log10(rates) + 0.5) * 9
  assert lr_range.steepest(rates, loss) == pytest.approx(1e-2, rel=0.03)
  assert lr_range.steepest(rates, np.linspace(1, 2, 401)) is None


def test_a_range_test_suggests_a_rate_that_trains(tmp_path):
  config = runs.config(tmp_path / "data", augment="")
  found = lr_range.lr_range_test(config, tmp_path / "out", low=1e-5, high=100.0, steps=100)
  rates = np.array(found["learning_rate"])
  assert rates[0] == pytest.approx(1e-5)
  np.testing.assert_allclose(rates[1:] / rates[:-1], 1e7 ** (1 / 99), rtol=1e-6)
  assert len(rates) < 100  # it stopped when the loss had diverged
  assert 1e-3 < found["suggested"] <= found["lowest"] < 10
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
    lr_range.lr_range_test(runs.config(tmp_path), tmp_path, **arguments)
