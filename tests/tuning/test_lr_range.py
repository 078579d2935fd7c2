"""The learning-rate range test: its curve, and softmax regression, against NumPy."""

import json

import flax.linen as nn
import numpy as np
import pytest
import small_runs

import experiment
import models
from cifar_jax.errors import UserError
from tuning import lr_range


def test_smoothing_preserves_a_parabola_and_its_slope():
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
def test_window_shrinks_to_the_number_of_steps(count):
  losses = np.arange(count, dtype=float)
  smoothed, slope = lr_range.smooth(losses, 21)
  np.testing.assert_allclose(smoothed, losses, atol=1e-9)
  np.testing.assert_allclose(slope, np.ones(count), atol=1e-9)


def test_window_is_half_a_decade_of_steps():
  assert lr_range.smoothing_window(10 ** (1 / 40)) == 21
  assert lr_range.smoothing_window(10.0) == 5


def test_fastest_fall_is_where_the_curve_is_steepest():
  rates = np.logspace(-4, 0, 401)
  # A fall whose middle is at 1e-2, then a rise.
  loss = 2 - np.tanh(4 * (np.log10(rates) + 2)) + np.maximum(0, np.log10(rates) + 0.5) * 9
  assert lr_range.fastest_fall(rates, *lr_range.smooth(loss, 21)) == pytest.approx(1e-2, rel=0.03)
  assert lr_range.fastest_fall(rates, *lr_range.smooth(np.linspace(1, 2, 401), 21)) is None


@pytest.mark.parametrize("highest", [10.0, 1e3, 1e6, 1e20])
@pytest.mark.parametrize("outlier", [False, True])
def test_an_explosion_does_not_move_the_lowest_loss(highest, outlier):
  rates, rng = np.logspace(-6, 1, 300), np.random.default_rng(0)
  distance = np.log10(rates) + 2  # from the best rate, 0.01, in decades
  losses = 1.5 + np.minimum(0.4 * distance**2, 0.8) + rng.normal(0, 0.02, 300)
  losses[rates > 0.3] = np.geomspace(3, highest, np.sum(rates > 0.3))
  if outlier:
    losses[40] = highest
  curve = lr_range._analyze(rates, losses, lr_range.smoothing_window(rates[1] / rates[0]))
  assert curve["lowest"] == pytest.approx(1e-2, rel=0.5)
  assert curve["suggested"] == pytest.approx(1e-3, rel=0.5)
  assert 1e-4 < curve["steepest"] < curve["lowest"]
  assert np.min(curve["smoothed"]) > 1.4


# --- Softmax regression, trained here and by NumPy -----------------------------------------------


class SoftmaxRegression(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, images, train):
    return nn.Dense(self.num_classes, name="head")(images.reshape(len(images), -1))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """A config whose model NumPy can train, on eight devices."""
  with pytest.MonkeyPatch.context() as patch:
    factory = lambda num_classes, **common: SoftmaxRegression(num_classes)  # noqa: E731
    patch.setitem(models._REGISTRY, "softmax_regression", (factory, {}))
    yield small_runs.config(
      tmp_path_factory.mktemp("data"),
      model__name="softmax_regression",
      model__widths=None,
      model__dense=None,
      augment="",
      lookahead__every=0,
      loss__label_smoothing=0.0,
      loss__l2=(),
      optimizer__momentum=0.5,
    )


def train_with_numpy(config, rates):
  """Return the loss of each training step at the given rates, computed in float64."""
  parts = experiment.Experiment(experiment.resolve(config))
  head = parts.init().params["head"]
  weights = [np.asarray(head[name], np.float64) for name in ("kernel", "bias")]
  velocity = [np.zeros_like(weight) for weight in weights]
  orders = [np.asarray(parts.order(epoch)) for epoch in range(config.num_epochs)]
  images, labels = parts.dataset.train.images, parts.dataset.train.labels
  losses = []
  for step, rate in enumerate(rates):
    epoch, index = divmod(step, parts.steps_per_epoch)
    order = orders[epoch % config.num_epochs]
    rows = order[index * config.batch_size : (index + 1) * config.batch_size]
    x = images[rows].reshape(len(rows), -1) / 255.0
    logits = x @ weights[0] + weights[1]
    logits -= logits.max(axis=1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    one_hot = np.eye(10)[labels[rows]]
    losses.append(-(one_hot * log_probabilities).sum(axis=1).mean())
    error = (np.exp(log_probabilities) - one_hot) / len(rows)
    for i, gradient in enumerate((x.T @ error, error.sum(axis=0))):
      velocity[i] = config.optimizer.momentum * velocity[i] - rate * gradient
      weights[i] += velocity[i]
  return np.array(losses)


def test_range_test_finds_the_rates_that_numpy_finds(config, tmp_path):
  curve = lr_range.lr_range_test(config, tmp_path / "out", low=1e-4, high=1e4, steps=100)
  rates = np.array(curve["learning_rate"])
  np.testing.assert_allclose(rates, 1e-4 * 10 ** (8 * np.arange(len(rates)) / 99), rtol=1e-6)
  assert len(rates) < 100  # the test ended when the loss had diverged

  losses = train_with_numpy(config, rates)
  np.testing.assert_allclose(curve["loss"][:40], losses[:40], rtol=1e-5)
  np.testing.assert_allclose(curve["loss"], losses, rtol=1e-3)  # diverging, float32 deviates
  end = lr_range.count_before_explosion(losses)
  assert 35 < end < 45
  # A fit has seven steps, about half a decade: 99 steps are eight decades.
  smoothed, slope = [], []
  for step in range(end):
    start = min(max(step - 3, 0), end - 7)
    fit = np.polynomial.Polynomial.fit(range(7), losses[start : start + 7], 2)
    smoothed.append(fit(step - start))
    slope.append(fit.deriv()(step - start))
  lowest = np.argmin(smoothed)
  assert curve["lowest"] == rates[lowest]
  assert curve["steepest"] == rates[np.argmin(slope[:lowest])]
  assert curve["suggested"] == curve["lowest"] / 10
  np.testing.assert_allclose(curve["smoothed"][:end], smoothed, rtol=1e-5)
  assert json.loads((tmp_path / "out" / "lr_range.json").read_text()) == curve
  assert (tmp_path / "out" / "lr_range.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"low": 1.0, "high": 0.1}, "low, high: 1 to 0.1 is not a range"),
    ({"low": 0.0}, "low, high: 0 to 10 is not a range"),
    ({"steps": 3}, "steps: 3 steps are too few"),
  ],
)
def test_invalid_ranges_are_errors(tmp_path, arguments, message):
  with pytest.raises(UserError, match=message):
    lr_range.lr_range_test(small_runs.config(tmp_path), tmp_path, **arguments)
