"""Plots of a run, in one style."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from cifar_jax import errors
from cifar_jax.types import Row

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_REDRAW_SECONDS = 15.0  # drawing takes about half a second, too long for each short epoch
_SHARES = ("accuracy", "top5")  # shown in percent
_MARKED_ROWS = 15  # curves with fewer rows have markers
STYLE: Any = {  # Any, because matplotlib types the keys as literals
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
    self._drawn_at = time.monotonic()

  def draw(self, rows: list[Row], title: str, at_once: bool = False) -> None:
    """Draw the rows of metrics.jsonl; without `at_once`, at most every 15 seconds."""
    now = time.monotonic()
    if at_once or now - self._drawn_at >= _REDRAW_SECONDS:
      draw_learning_curves(rows, title, self._path)
      self._drawn_at = time.monotonic()


def plain(text: str) -> str:
  """Escape a text so that matplotlib draws it literally; a bare $ would start mathematics."""
  return errors.printable(text, keep="\n").replace("$", r"\$")


@contextlib.contextmanager
def figure(
  path: epath.Path,
  rows: int,
  columns: int,
  figsize: tuple[float, float],
  width_ratios: Sequence[float] | None = None,
  description: str = "",
) -> Iterator[tuple["Figure", Any]]:
  """Yield a matplotlib figure of `figsize` inches and its axes, then write the figure as a PNG.

  width_ratios: the relative widths of the columns; equal by default.
  description: a text that the PNG holds, invisibly.

  The file is complete or absent. The figure is created without pyplot, which leaves the figures and
  the backend of a notebook unchanged.

  Raises:
    OSError: the file cannot be written.
  """
  import matplotlib
  from matplotlib.figure import Figure

  with matplotlib.rc_context(STYLE):
    canvas = Figure(figsize=figsize, layout="constrained")
    yield canvas, canvas.subplots(rows, columns, width_ratios=width_ratios)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
      with temporary.open("wb") as file:
        canvas.savefig(file, format="png", metadata={"Description": description})
      temporary.replace(path)
    except OSError as error:  # the error of a full disk lacks the name of the file
      raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def draw_learning_curves(rows: list[Row], title: str, path: epath.Path) -> None:
  """Write loss, accuracy and learning rate by epoch as a PNG, with ranges and current values.

  There are panels of top-5 accuracy and of the objective (loss + L2 penalty) if the rows have them.
  A run that trains on one file after another has a curve for each file.

  Args:
    rows: the rows of metrics.jsonl; validation values may be missing. Several seeds become
      thin lines around their mean.
    title: the title of the figure.
    path: the PNG.
  """
  from matplotlib.ticker import MaxNLocator

  panels = _select_panels(rows)
  columns = len(panels) if len(panels) < 4 else -(-len(panels) // 2)
  num_rows = -(-len(panels) // columns)
  with figure(path, num_rows, columns, figsize=(3.7 * columns, 3.7 * num_rows)) as (canvas, axes):
    for axis in axes.flat[len(panels) :]:
      axis.set_visible(False)
    for axis, (name, panel_title) in zip(axes.flat, panels.items(), strict=False):
      values = _draw_panel(axis, rows, name)
      axis.set(xlabel="epoch", title=panel_title)
      axis.xaxis.set_major_locator(MaxNLocator(integer=True))
      _mark_files(axis, rows)
      form = "{:.4g}" if name == "learning_rate" else "{:.2%}" if name in _SHARES else "{:.4f}"
      _write_ranges(axis, rows, values, form)
    canvas.suptitle(title)


def _select_panels(rows: list[Row]) -> dict[str, str]:
  """Return the titles of the metrics to draw, by name."""

  def has(name: str) -> bool:
    return f"train_{name}" in rows[0] or f"val_{name}" in rows[0]

  top5 = [row.get(f"{split}_top5") for row in rows for split in ("train", "val")]
  panels = {"loss": "Loss", "accuracy": "Accuracy", "top5": "Top-5 accuracy"}
  if all(value in (None, 1.0) for value in top5):  # as with two classes
    del panels["top5"]
  if has("objective"):
    panels["objective"] = "Objective (loss + L2 penalty)"
  return panels | {"learning_rate": "Learning rate"}


def _draw_panel(axis: "Axes", rows: list[Row], name: str) -> dict[str, list[float | None]]:
  """Draw a metric; return its values by label."""
  from matplotlib.ticker import PercentFormatter

  if name in _SHARES:
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
  if name == "learning_rate":
    rates = [row["learning_rate"] for row in rows]
    plot_by_file(axis, rows, rates, color="tab:green", marker=_marker(rows), markersize=3)
    axis.set_ylim(bottom=0)
    return {"rate": rates}
  return _draw_splits(axis, rows, name)


def _draw_splits(axis: "Axes", rows: list[Row], name: str) -> dict[str, list[float | None]]:
  """Draw a metric of training and validation, if the rows have it; return the means by label."""
  num_seeds = len(rows[0].get("seeds", ()))
  drawn = {}
  for split, label, colour in (("train", "train", "tab:blue"), ("val", "validation", "tab:orange")):
    key = f"{split}_{name}"
    if key not in rows[0]:
      continue
    for i in range(num_seeds):
      values = [row["seeds"][i].get(key) for row in rows]
      plot_by_file(axis, rows, values, color=colour, alpha=0.25, lw=0.7)
    drawn[label] = [row.get(key) for row in rows]
    style = {"color": colour, "marker": _marker(rows), "markersize": 3}
    plot_by_file(axis, rows, drawn[label], label=label, **style)
  axis.legend()
  return drawn


def plot_by_file(
  axis: "Axes", rows: list[Row], values: list[float | None], label: str | None = None, **style: Any
) -> None:
  """Plot values by epoch, with a separate line for each file that was trained on."""
  numbers = [float("nan") if value is None else value for value in values]
  for start, end in _files(rows):
    epochs = [row["epoch"] for row in rows[start:end]]
    axis.plot(epochs, numbers[start:end], label=None if start else label, **style)


def _files(rows: list[Row]) -> list[tuple[int, int]]:
  """Return the first row of each file that was trained on, and the row after its last."""
  starts = [i for i, row in enumerate(rows) if not i or row.get("file") != rows[i - 1].get("file")]
  return list(zip(starts, [*starts[1:], len(rows)], strict=True))


def _mark_files(axis: "Axes", rows: list[Row]) -> None:
  """Mark where the run moves on to the next file, and name the files."""
  files = _files(rows)
  if len(files) == 1:
    return
  for start, end in files:
    if start:
      axis.axvline(rows[start]["epoch"] - 0.5, color="grey", ls=":", lw=1)
    middle = (rows[start]["epoch"] + rows[end - 1]["epoch"]) / 2
    text = f"file {rows[start].get('file', '?')}"
    axis.annotate(
      text, (middle, 1), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=7
    )


def _write_ranges(
  axis: "Axes", rows: list[Row], values: dict[str, list[float | None]], form: str
) -> None:
  """Write the minimum, maximum and current value of each curve under a panel.

  For a run that trains on one file after another, the values are those of the current file.
  """
  start, _ = _files(rows)[-1]
  lines = []
  for label, numbers in values.items():
    finite = [x for x in numbers[start:] if x is not None and math.isfinite(x)]
    if finite:
      low, high, current = (form.format(x) for x in (min(finite), max(finite), finite[-1]))
      lines.append(f"{label:<10}  min {low:<8} max {high:<8} current {current}")
  if lines and start:
    lines.insert(0, f"file {rows[-1].get('file', '?')}:")
  axis.annotate(
    "\n".join(lines),
    (0, 0),
    (-24, -32),
    xycoords="axes fraction",
    textcoords="offset points",
    va="top",
    family="monospace",
    fontsize=6.5,
  )


def _marker(rows: list[Row]) -> str | None:
  return "o" if len(rows) < _MARKED_ROWS else None
