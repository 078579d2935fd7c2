"""Draw the learning curves of the recorded runs, for docs/reports.md.

  python -m benchmarks.curves

writes docs/gallery/curves_report000.png and so on. Each recorded run of a report has a panel of
accuracy and, below it, one of the loss, which is the objective if the run has an L2 penalty. Dashed
lines are the figures that the report prints.
"""

import hashlib
import json
import re
from typing import TYPE_CHECKING, NamedTuple

from etils import epath

from benchmarks import tables
from cifar_jax.runs import plots
from cifar_jax.types import Row

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

REPORTS = ("report000", "report001", "report002", "report004")  # those with recorded runs
_COLUMNS = 4
_COLOURS = {"training": "tab:blue", "validation": "tab:orange", "test": "tab:green"}
_PREFIXES = {"training": "train", "validation": "val"}
# Such as "98.4 % training (loss 0.049)", "76.3 and 78.75 % validation", "91.5–93 % validation".
_FIGURE = re.compile(
  r"([\d.]+)(?:(?:–| and )([\d.]+))? % (training|validation|test)(?: \(loss ([\d.]+)\))?"
)
_LOSS = re.compile(r"(training|validation) loss ([\d.]+)")


class Figures(NamedTuple):
  """What a report prints of one split: accuracies in [0, 1], and losses."""

  split: str
  accuracies: list[float]
  losses: list[float]


def parse_reported(text: str) -> list[Figures]:
  """Return the figures in a config's REPORTED."""
  figures = [
    Figures(split, [float(x) / 100 for x in (low, high) if x], [float(loss)] if loss else [])
    for low, high, split, loss in _FIGURE.findall(text)
  ]
  return figures + [Figures(split, [], [float(loss)]) for split, loss in _LOSS.findall(text)]


def path(report: str) -> epath.Path:
  """Return the PNG of a report."""
  return epath.Path(tables.ROOT) / "docs" / "gallery" / f"curves_{report}.png"


def list_runs(report: str) -> list[str]:
  """Return the names of the recorded runs of a report."""
  return [folder.name for folder in sorted(tables.RECORDS.glob(f"{report}_*"))]


def describe(report: str) -> str:
  """Return the runs of a report with a hash of what is drawn of each, which the PNG holds too."""
  return ", ".join(f"{name} {_hash(name)}" for name in list_runs(report))


def _hash(name: str) -> str:
  file = tables.RECORDS / name / "metrics.jsonl"
  return hashlib.sha256(file.read_bytes() + tables.published(name).encode()).hexdigest()[:8]


def draw(report: str) -> None:
  """Write the PNG of a report."""
  names = list_runs(report)
  columns = min(len(names), _COLUMNS)
  num_rows = 2 * -(-len(names) // columns)
  size = (max(4.0, 2.7 * columns), 1.75 * num_rows + 0.4)
  picture = plots.figure(path(report), num_rows, columns, size, description=describe(report))
  with picture as (figure, axes):
    grid = axes.reshape(num_rows, columns)
    for axis in grid.flat:
      axis.set_visible(False)
    for i, name in enumerate(names):
      row, column = divmod(i, columns)
      _draw_run(grid[2 * row, column], grid[2 * row + 1, column], name)
    _add_legend(figure, columns + 1)


def _add_legend(figure: "Figure", columns: int) -> None:
  from matplotlib.lines import Line2D

  lines = [Line2D([], [], color=_COLOURS[split], label=split) for split in _PREFIXES]
  lines += [
    Line2D([], [], color=colour, ls="--", label=f"{split}, as reported")
    for split, colour in _COLOURS.items()
  ]
  figure.legend(handles=lines, loc="outside upper left", ncols=columns, fontsize=7)


def _draw_run(accuracy: "Axes", loss: "Axes", name: str) -> None:
  """Draw one run into its two panels."""
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  file = tables.RECORDS / name / "metrics.jsonl"
  rows = [json.loads(line) for line in file.read_text().splitlines()]
  is_penalised = "train_objective" in rows[0]
  for axis, metric in ((accuracy, "accuracy"), (loss, "objective" if is_penalised else "loss")):
    axis.set_visible(True)
    for split in _PREFIXES:
      _draw_metric(axis, rows, split, metric)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
  for figures in parse_reported(tables.published(name)):
    for axis, values in ((accuracy, figures.accuracies), (loss, figures.losses)):
      for value in values:
        axis.axhline(value, color=_COLOURS[figures.split], ls="--", lw=1)
  accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  accuracy.set_title(name.split("_", 1)[1], fontsize=8)
  accuracy.tick_params(labelbottom=False)
  loss.set_ylabel("loss + penalty" if is_penalised else "loss", fontsize=7)


def _draw_metric(axis: "Axes", rows: list[Row], split: str, metric: str) -> None:
  """Draw a metric of every seed, with a break between files."""
  key = f"{_PREFIXES[split]}_{metric}"
  for seed_rows in zip(*(row.get("seeds", [row]) for row in rows), strict=True):
    values = [row[key] for row in seed_rows]
    plots.plot_by_file(axis, rows, values, color=_COLOURS[split], lw=1.0)


if __name__ == "__main__":
  for report in REPORTS:
    draw(report)
    print(f"wrote {path(report).relative_to(tables.ROOT)}")
