"""What results.json says of a run."""

import numpy as np
import pytest

from cifar_jax import errors
from cifar_jax.runs import results
from configs import default


@pytest.mark.parametrize(
  ("monitor", "validation", "expected"),
  [
    ("val_loss", 0.1, "validation"),
    ("val_accuracy", "test", "test"),
    ("train_loss", 0.1, "training"),
    ("", 0.1, "nothing"),
  ],
)
def test_the_examples_that_selected_the_weights(monitor, validation, expected):
  config = default.get_config()
  config.select.monitor, config.data.validation = monitor, validation
  config.early_stopping.monitor = config.plateau.monitor = ""
  assert results.selected_on(config) == expected


def collect(train_losses, best_epochs, epochs_run, is_tested=True):
  """Return the results of seeds 5, 6, … whose test loss is 1, 2, …"""
  config, seeds = default.get_config(), list(range(5, 5 + len(best_epochs)))
  config.dtype = "float32"
  data = {"name": "fake", "requested": "fake", "test_examples": 10, "validation_examples": 20}
  summary = results.RunSummary(config, seeds, (1, 2), data)
  metrics = {f"val_{name}": np.full(len(seeds), 0.5) for name in ("loss", "accuracy", "top5")}
  rows = [
    results.epoch_row(16 * epoch, epoch, metrics | {"train_loss": np.array(losses, float)}, seeds)
    for epoch, losses in enumerate(train_losses, start=1)
  ]
  test = {name: np.arange(1.0, 1 + len(seeds)) for name in ("loss", "accuracy", "top5")}
  metrics = {"test": test} if is_tested else {}
  content = results.collect(summary, rows, best_epochs, epochs_run, metrics)
  return content | {"seconds_to_train": 1.0, "compile_seconds": 1.0}


NAN = np.nan


def test_a_seed_that_diverged_is_left_out_and_named():
  # Seed 6 has no best epoch, seed 7 diverged later, seed 8 only after it had stopped early.
  content = collect([[1, NAN, 1, 1], [1, NAN, NAN, NAN]], [1, 0, 1, 1], [2, 2, 2, 1])
  assert content["diverged_seeds"] == [6, 7]
  assert content["test_loss"] == 2.5  # of 1 and 4
  assert content["test_loss_std"] == pytest.approx(np.std([1, 4], ddof=1))
  assert content["test_loss_standard_error"] == pytest.approx(1.5)
  assert [np.isnan(row["test_loss"]) for row in content["per_seed"]] == [False, True, True, False]
  text = results.summarize(content)
  assert "NOTE: diverged, and left out of the figures: seed 6, 7" in text and "over 2 seeds" in text


def test_one_seed_that_is_left_has_no_spread():
  content = collect([[1, NAN]], [1, 0], [1, 1])
  assert content["test_loss"] == 1.0 and "test_loss_std" not in content
  assert "(of 1 seed)" in results.summarize(content)


def test_a_run_that_was_not_tested_shows_its_validation_figures():
  content = collect([[1.0, 2.0]], [1, 1], [1, 1], is_tested=False)
  assert not [name for name in content if name.startswith("test")]
  assert results.summarize(content).startswith(
    "resnet18 on fake: not tested; validation accuracy 50.00% ± 0.00% (standard error over 2 "
    "seeds), loss 0.5000, top-5 50.00% (20 images)\n"
  )


def test_without_any_selected_weights_there_are_no_results():
  with pytest.raises(errors.UserError, match="no epoch's val_accuracy was a number"):
    collect([[1.0]], [0], [1])


def test_validation_figures_are_those_of_the_selected_rows():
  def row(epoch, **figures):
    return results.epoch_row(epoch, epoch, {k: np.array(v) for k, v in figures.items()}, [0, 1])

  rows = [row(1, val_loss=[1, 2]), row(2, val_loss=[3, NAN], val_objective=[5, 6])]
  figures = results._validation_figures(rows, [2, 1])
  np.testing.assert_array_equal(figures["val_loss"], [3, 2])
  np.testing.assert_array_equal(figures["val_objective"], [5, NAN])
  assert results._validation_figures(rows, [1, 0]).keys() == {"val_loss"}


def test_weights_whose_loss_is_not_a_number_have_diverged(monkeypatch):
  content = collect([[1, 1, 1]], [1, 1, 1], [1, 1, 1])
  assert content["diverged_seeds"] == []
  monkeypatch.setattr(
    results, "_validation_figures", lambda *_: {"val_loss": np.array([1, NAN, 2])}
  )
  content = collect([[1, 1, 1]], [1, 1, 1], [1, 1, 1])
  assert content["diverged_seeds"] == [6] and content["test_loss"] == 2.0
