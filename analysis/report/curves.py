"""Charts of metrics by epoch."""

from typing import TYPE_CHECKING

import numpy as np

from analysis.report import page
from analysis.report.figures import Figure
from analysis.report.page import Html, number_cell, tag
from analysis.run_record import RunRecord

if TYPE_CHECKING:
  from matplotlib.axes import Axes

Dash = str | tuple[float, tuple[float, ...]]  # a line style, as matplotlib takes it

_CHARTS = {
  "loss": "Loss",
  "objective": "Objective (loss + L2 penalty)",
  "accuracy": "Accuracy",
  "top5": "Top-5 accuracy",
  "learning_rate": "Learning rate",
}
EPOCH_FIGURES = {  # of the rows of metrics.jsonl
  "epoch": Figure("epoch", "d"),
  "file": Figure("file", "d"),
  "train_loss": Figure("training loss", ".4f"),
  "val_loss": Figure("validation loss", ".4f"),
  "train_accuracy": Figure("training accuracy", ".2%"),
  "val_accuracy": Figure("validation accuracy", ".2%"),
  "train_top5": Figure("training top-5", ".2%"),
  "val_top5": Figure("validation top-5", ".2%"),
  "train_objective": Figure("training objective", ".4f"),
  "val_objective": Figure("validation objective", ".4f"),
  "learning_rate": Figure("learning rate", ".3g"),
  "images_per_second": Figure("images/s", ",.0f"),
  "seconds": Figure("seconds", ".1f"),
}


def make_section(run: RunRecord) -> list[Html]:
  """Return the charts of one run, and a table of its epochs."""
  if not run.rows:
    return [tag("p", "No epoch has finished yet.")]
  best_epoch = run.results.get("best_epoch")
  charts = [
    _chart(run, metric, title, best_epoch)
    for metric, title in _CHARTS.items()
    if _is_informative(run, metric)
  ]
  notes = ["Dotted: the epoch of the selected weights."] if best_epoch else []
  if len(run.traces("train_loss")) > 1:
    notes.append("Thin: each seed; thick: the mean.")
  notes.append(
    "Training figures are averages during an epoch, with any augmentation, dropout and label "
    "smoothing; validation figures are measured after the epoch without them."
  )
  known = {
    name: figure
    for name, figure in EPOCH_FIGURES.items()
    if name in run.rows[0] and (run.has_top5 or not name.endswith("top5"))
  }
  rows = [
    [number_cell(row.get(name), figure.style) for name, figure in known.items()] for row in run.rows
  ]
  epochs = page.table([figure.title for figure in known.values()], rows)
  return [
    tag("div", charts, class_="charts"),
    tag("p", " ".join(notes), class_="soft"),
    tag("details", tag("summary", "All epochs as a table"), epochs),
  ]


def _is_informative(run: RunRecord, metric: str) -> bool:
  if metric == "top5" and not run.has_top5:
    return False
  return any(run.traces(name).size for name in (metric, f"train_{metric}", f"val_{metric}"))


def _chart(run: RunRecord, metric: str, title: str, best_epoch: int | None) -> Html:
  def draw(axis: "Axes") -> None:
    if metric == "learning_rate":
      draw_traces(axis, run.traces(metric), page.COLOURS[2])
    else:
      draw_traces(axis, run.traces(f"train_{metric}"), page.COLOURS[0], "training")
      draw_traces(axis, run.traces(f"val_{metric}"), page.COLOURS[1], "validation")
      axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    style_axis(axis, metric)
    if best_epoch:
      axis.axvline(best_epoch, color=page.GREY, ls=":", lw=1.2)

  return page.chart(title, f"{title} by epoch", draw)


def draw_traces(
  axis: "Axes", traces: np.ndarray, colour: str, label: str = "", dash: Dash = "-"
) -> None:
  """Draw [seeds, epochs] by epoch: one seed as a line, several as thin lines with their mean."""
  if not len(traces):
    return
  num_epochs = traces.shape[1]
  epochs = np.arange(1, num_epochs + 1)
  marker = "o" if num_epochs < 15 else None
  if len(traces) > 1:
    for trace in traces:
      axis.plot(
        epochs, trace, color=colour, ls=dash, marker=marker, markersize=2.5, lw=0.7, alpha=0.4
      )
  # The mean is NaN, and so not drawn, after the last epoch of any seed.
  axis.plot(
    epochs,
    traces.mean(0),
    color=colour,
    ls=dash,
    marker=marker,
    markersize=2.5,
    lw=1.6,
    label=label,
  )


def style_axis(axis: "Axes", metric: str) -> None:
  """Set the scale and ticks that suit the drawn lines of a metric."""
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  lines = [np.asarray(line.get_ydata(), float) for line in axis.lines]
  lines = [line[np.isfinite(line)] for line in lines]
  lines = [line for line in lines if len(line)] or [np.ones(1)]
  lowest = min(line.min() for line in lines)
  peaks = [line.max() for line in lines]
  if metric.endswith(("accuracy", "top5")):
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
  elif metric == "learning_rate":
    axis.set_ylim(bottom=0)
    if max(peaks) > 10 * min(peaks) > 0:  # on a linear scale the lower lines would hug the axis
      axis.set_yscale("log", nonpositive="mask")
      axis.set_ylim(bottom=max(lowest, min(peaks) / 100) / 1.5)
  elif max(peaks) > 30 * lowest > 0:
    axis.set_yscale("log", nonpositive="mask")
  axis.xaxis.set_major_locator(MaxNLocator(integer=True))
  axis.set_xlabel("epoch")
