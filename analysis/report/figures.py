"""The figures of results.json that tables and tiles show."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.run_record import RunRecord
from cifar_jax.types import Row


class Figure(NamedTuple):
  """How to show a number: its title, and its format() style."""

  title: str
  style: str


# Also shown for unfinished runs, as a dash.
_TEST = ("test_accuracy", "test_top5", "test_loss")
_FIGURES = {
  "test_accuracy": Figure("test accuracy", ".2%"),
  "test_top5": Figure("test top-5", ".2%"),
  "test_loss": Figure("test loss", ".4f"),
  "test_objective": Figure("test objective (loss + penalty)", ".4f"),
  "val_accuracy": Figure("validation accuracy", ".2%"),
}


def select_figures(runs: Sequence[RunRecord]) -> dict[str, Figure]:
  """Return by name the figures that any run has or will have, if they are informative."""
  known = {name for run in runs for name in run.results}
  if not all(run.results for run in runs):
    known.update(_TEST)
  has_top5 = any(run.has_top5 for run in runs)
  return {
    name: figure
    for name, figure in _FIGURES.items()
    if name in known and (has_top5 or name != "test_top5")
  }


def average(seed_results: Sequence[Row], metric: str) -> tuple[float | None, float | None]:
  """Return a metric's mean over seeds and its standard error, each None if unknown."""
  values = [results.get(metric) for results in seed_results]
  numbers = [value for value in values if value is not None]
  if not numbers or len(numbers) < len(values):
    return None, None
  mean = float(np.mean(numbers))
  if len(numbers) == 1:
    return mean, None
  return mean, float(np.std(numbers, ddof=1) / np.sqrt(len(numbers)))
