"""Plots of a run, in one style."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

_REDRAW_SECONDS = (
  15  # drawing costs about half a second, which short epochs should not pay each time
)
STYLE = {
  "figure.dpi": 120,
  "font.size": 9,
  "axes.grid": True,
  "grid.alpha": 0.3,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "legend.frameon": False,
}


class LearningCurves:
  """Keeps a PNG of loss, accuracy and learning rate up to date while a run goes on."""

  def __init__(self, path: epath.Path):
    self._path = path
    self._drawn = -_REDRAW_SECONDS

  def draw(self, rows: list[dict[str, Any]], title: str, at_once: bool = False) -> None:
    """Draws the rows of metrics.jsonl, unless it did so moments ago and need not now."""
    now = time.monotonic()
    if at_once or now - self._drawn >= _REDRAW_SECONDS:
      learning_curves(rows, title, self._path)
      self._drawn = time.monotonic()


@contextlib.contextmanager
def figure(
  path: epath.Path, rows: int, columns: int, figsize: tuple[float, float]
) -> Iterator[tuple[Any, Any]]:
  """Yields a matplotlib figure of `figsize` inches and its axes, and then writes it as a PNG.

  The file appears whole or not at all. Made without pyplot, so that a notebook's own figures and
  backend stay as they are.
  """
  import matplotlib
  from matplotlib.figure import Figure

  with matplotlib.rc_context(STYLE):
    made = Figure(figsize=figsize, layout="constrained")
    yield made, made.subplots(rows, columns)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
      with temporary.open("wb") as file:
        made.savefig(file, format="png")
      temporary.replace(path)
    except OSError as error:  # of a full disk, which does not name the file
      raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def learning_curves(rows: list[dict[str, Any]], title: str, path: epath.Path) -> None:
  """Writes loss, accuracy and learning rate by epoch as a PNG.

  Args:
    rows: as in metrics.jsonl; 'val_' values may be missing. Several seeds are drawn as thin lines
      round their mean.
    title: what stands above.
    path: the PNG.
  """
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  epochs = [row["epoch"] for row in rows]
  with figure(path, 1, 3, figsize=(11, 3.2)) as (whole, axes):
    for axis, name in zip(axes, ("loss", "accuracy"), strict=False):
      for split, colour in (("train", "tab:blue"), ("val", "tab:orange")):
        key = f"{split}_{name}"
        if key not in rows[0]:
          continue
        for i in range(len(rows[0].get("seeds", ()))):
          axis.plot(epochs, [r["seeds"][i][key] for r in rows], color=colour, alpha=0.25, lw=0.7)
        label = "train" if split == "train" else "validation"
        marker = "o" if len(rows) < 15 else None
        axis.plot(
          epochs, [r[key] for r in rows], color=colour, label=label, marker=marker, markersize=3
        )
      axis.set(xlabel="epoch", title=name.capitalize())
      axis.legend()
    axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[2].plot(
      epochs, [row["learning_rate"] for row in rows], color="tab:green", marker=marker, markersize=3
    )
    axes[2].set(xlabel="epoch", title="Learning rate")
    axes[2].set_ylim(bottom=0)
    for axis in axes:
      axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    whole.suptitle(title)
