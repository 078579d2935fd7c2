"""Plots of a run, in one style."""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from etils import epath

from cifar_jax.types import Row

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_REDRAW_SECONDS = 15.0  # drawing takes about half a second, too long for each short epoch
_MARKED_ROWS = 15  # curves of fewer rows have markers
STYLE: Any = {  # a dict, for whose keys matplotlib's types have a literal
  "figure.dpi": 120,
  "font.size": 9,
  "axes.grid": True,
  "grid.alpha": 0.3,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "legend.frameon": False,
}


class LearningCurves:
  """Keeps a PNG of loss, accuracy and learning rate up to date during a run."""

  def __init__(self, path: epath.Path):
    self._path = path
    self._drawn_at = -_REDRAW_SECONDS

  def draw(self, rows: list[Row], title: str, at_once: bool = False) -> None:
    """Draw the rows of metrics.jsonl; without `at_once`, at most once in 15 seconds."""
    now = time.monotonic()
    if at_once or now - self._drawn_at >= _REDRAW_SECONDS:
      draw_learning_curves(rows, title, self._path)
      self._drawn_at = time.monotonic()


@contextlib.contextmanager
def figure(
  path: epath.Path, rows: int, columns: int, figsize: tuple[float, float]
) -> Iterator[tuple["Figure", Any]]:
  """Yield a matplotlib figure of `figsize` inches and its axes, then write the figure as a PNG.

  The file is complete or absent. The figure is created without pyplot, which leaves the figures and
  the backend of a notebook unchanged.

  Raises:
    OSError: the file cannot be written.
  """
  import matplotlib
  from matplotlib.figure import Figure

  with matplotlib.rc_context(STYLE):
    canvas = Figure(figsize=figsize, layout="constrained")
    yield canvas, canvas.subplots(rows, columns)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
      with temporary.open("wb") as file:
        canvas.savefig(file, format="png")
      temporary.replace(path)
    except OSError as error:  # the error of a full disk lacks the name of the file
      raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def draw_learning_curves(rows: list[Row], title: str, path: epath.Path) -> None:
  """Write loss, accuracy and learning rate by epoch as a PNG.

  Args:
    rows: the rows of metrics.jsonl; values of validation may be missing. Several seeds are thin
      lines around their mean.
    title: the title of the figure.
    path: the PNG.
  """
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  epochs = [row["epoch"] for row in rows]
  with figure(path, 1, 3, figsize=(11, 3.2)) as (canvas, axes):
    loss_axis, accuracy_axis, rate_axis = axes
    _draw_splits(loss_axis, rows, "loss")
    _draw_splits(accuracy_axis, rows, "accuracy")
    accuracy_axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    rates = [row["learning_rate"] for row in rows]
    rate_axis.plot(epochs, rates, color="tab:green", marker=_marker(rows), markersize=3)
    rate_axis.set(xlabel="epoch", title="Learning rate")
    rate_axis.set_ylim(bottom=0)
    for axis in axes:
      axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    canvas.suptitle(title)


def _draw_splits(axis: "Axes", rows: list[Row], name: str) -> None:
  """Draw a metric of training and, if the rows have it, of validation."""
  epochs = [row["epoch"] for row in rows]
  num_seeds = len(rows[0].get("seeds", ()))
  for split, label, colour in (("train", "train", "tab:blue"), ("val", "validation", "tab:orange")):
    key = f"{split}_{name}"
    if key not in rows[0]:
      continue
    for i in range(num_seeds):
      values = [row["seeds"][i][key] for row in rows]
      axis.plot(epochs, values, color=colour, alpha=0.25, lw=0.7)
    means = [row[key] for row in rows]
    axis.plot(epochs, means, color=colour, label=label, marker=_marker(rows), markersize=3)
  axis.set(xlabel="epoch", title=name.capitalize())
  axis.legend()


def _marker(rows: list[Row]) -> str | None:
  return "o" if len(rows) < _MARKED_ROWS else None
