"""The picture of a sweep: the learning curves of each configuration, with the best outlined."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from cifar_jax.runs import plots
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.types import Row
from tuning import table
from tuning.trials import Trial

if TYPE_CHECKING:
  from matplotlib.axes import Axes

MAX_PANELS = 24  # with more, each would be too small to read
_MAX_COLUMNS = 4
_CHARACTERS = 34  # per line of a panel's title
_COLOURS = {"train": "tab:blue", "val": "tab:orange"}


def draw_curves(summary: Mapping[str, Any], trials: Sequence[Trial], path: epath.Path) -> bool:
  """Write a PNG with a panel for each configuration, in the order of the ranking.

  A panel shows the training and validation curves of every trial of its configuration. All panels
  have the same axis limits.

  Args:
    summary: the contents of sweep.json.
    trials: all trials of the sweep.
    path: the PNG.

  Returns:
    Whether the PNG was written; False if no trial has an epoch to draw.
  """
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  metric = summary["rank_by"].removeprefix("val_")
  rows_by_trial = {trial.name: RunFolder(trial.path, writer=False).metrics() for trial in trials}
  entries = [e for e in summary["ranking"] if any(rows_by_trial[name] for name in e["trials"])]
  shown = entries[:MAX_PANELS]
  if not shown:
    return False
  columns = min(len(shown), _MAX_COLUMNS if len(shown) != 6 else 3)
  num_rows = -(-len(shown) // columns)
  size = (max(5.0, 2.7 * columns), 2.5 * num_rows + 0.6)
  with plots.figure(path, num_rows, columns, size) as (figure, grid):
    axes = list(grid.flat) if len(shown) > 1 else [grid]
    for axis in axes[len(shown) :]:
      axis.set_visible(False)
    for axis, entry in zip(axes, shown, strict=False):
      for name in entry["trials"]:
        _draw_trial(axis, rows_by_trial[name], metric)
      axis.set_title(_describe(entry, summary["rank_by"]), fontsize=8, parse_math=False)
      axis.xaxis.set_major_locator(MaxNLocator(integer=True))
      if metric == "accuracy":
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
      if entry["rank"] == 1:
        _outline(axis)
    _share_limits(axes[: len(shown)])
    axes[0].legend(loc="best", fontsize=8)
    left_out = f"; the first {len(shown)} of {len(entries)}" if len(shown) < len(entries) else ""
    figure.suptitle(f"{metric.capitalize()} by epoch, the best outlined in red{left_out}")
  return True


def _draw_trial(axis: "Axes", rows: list[Row], metric: str) -> None:
  """Draw the training and validation curves; only the first trial of a panel gets labels."""
  is_first = not axis.lines
  for split, colour in _COLOURS.items():
    values = [row.get(f"{split}_{metric}") for row in rows]
    numbers = [math.nan if value is None else value for value in values]
    marker = "o" if len(rows) == 1 else None
    label = {"train": "train", "val": "validation"}[split] if is_first else None
    epochs = [row["epoch"] for row in rows]
    axis.plot(epochs, numbers, color=colour, marker=marker, lw=1.2, label=label)


def _describe(entry: Mapping[str, Any], rank_by: str) -> str:
  """Return the title of a configuration: its name, and its metric or status."""
  name = textwrap.fill(entry["name"].replace("__", ", "), _CHARACTERS)
  if entry["rank"] is None:
    return f"{name}\n{entry['status']}"
  return f"{name}\n{table.named_metric(rank_by, entry)}"


def _outline(axis: "Axes") -> None:
  for spine in axis.spines.values():
    spine.set(visible=True, color="tab:red", linewidth=2.5)


def _share_limits(axes: Sequence["Axes"]) -> None:
  """Give all panels the same limits, so that their curves can be compared."""
  for get, set_ in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
    limits = [getattr(axis, get)() for axis in axes]
    common = min(low for low, _ in limits), max(high for _, high in limits)
    for axis in axes:
      getattr(axis, set_)(*common)
