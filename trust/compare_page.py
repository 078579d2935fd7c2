"""The page of `--mode=compare`: the verdicts, the sides, and the intervals as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from analysis.report import page
from analysis.report.figures import average
from analysis.report.page import Cell, Html, number_cell, tag, text_cell
from trust import compare, sentences, statistics
from trust.sides import SPLITS, Side, count_test_uses, differing_fields, uses_test_images
from trust.statistics import ImageDifference

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_MAX_INTERVALS = 20  # in the picture; the table has all
_COLOURS = {True: page.COLOURS[0], False: page.GREY}  # by whether a difference counts


def write(
  path: epath.Path,
  sides: Sequence[Side],
  comparisons: Sequence[compare.Comparison],
  notes: Sequence[str],
  split: str,
) -> None:
  """Write the page.

  Raises:
    OSError: the file cannot be written.
  """
  sections = {
    "Verdicts": _make_verdicts(comparisons, notes),
    "Sides": _make_sides(sides, split),
    "Differences": _make_differences(comparisons),
  }
  names = ", ".join(f"{side.name} = {side.group.title}" for side in sides)
  body = [
    tag("header", tag("h1", "Do these configs differ?"), tag("p", names, class_="soft")),
    *(page.section(heading, *content) for heading, content in sections.items()),
    page.footer(
      *(entry.run.path.resolve() for side in sides for entry in side.group.entries), mode="compare"
    ),
  ]
  path.parent.mkdir(parents=True, exist_ok=True)
  page.write_page(path, f"Compare: {names}", body)


def _make_verdicts(comparisons: Sequence[compare.Comparison], notes: Sequence[str]) -> list[Html]:
  sentences = [tag("li", f"{comparison.sentence}.") for comparison in comparisons]
  return [tag("ul", sentences), *(page.notice(f"{note}.") for note in notes)]


def _make_sides(sides: Sequence[Side], split: str) -> list[Html]:
  fields = differing_fields([side.group for side in sides])
  has_uses = any(uses_test_images(side, split) for side in sides)
  rows = []
  for side in sides:
    mean, error = average(side.group.seed_results, SPLITS[split])
    seeds = ", ".join(map(str, side.accuracies))
    values = [side.group.fields.get(name) for name in fields]
    rows.append(
      [
        text_cell(side.name),
        text_cell(side.group.title),
        Cell([f"{len(side.accuracies)} ", tag("small", f"({seeds})")], len(side.accuracies)),
        number_cell(mean, ".2%", error),
        *[number_cell(count_test_uses(side), "d")] * has_uses,
        *map(page.value_cell, values),
      ]
    )
  uses = ["uses of test images"] * has_uses
  header = ["side", "runs", "seeds", f"{split} accuracy", *uses, *fields]
  note = "Accuracy: of the selected weights, mean over seeds ± its standard error."
  content = [page.table(header, rows), tag("p", note, class_="soft")]
  if any(len(side.accuracies) > 1 for side in sides):
    title = f"{split.capitalize()} accuracy by seed"
    chart = page.chart(title, title, lambda axis: _draw_seeds(axis, sides), (4.1, 3.0))
    content.append(tag("div", chart, class_="charts"))
  return content


def _draw_seeds(axis: "Axes", sides: Sequence[Side]) -> None:
  """Draw each seed of each side, and connect the seeds that all sides have."""
  shared = set.intersection(*(set(side.accuracies) for side in sides))
  for seed in shared:
    values = [100 * side.accuracies[seed] for side in sides]
    axis.plot(range(len(sides)), values, color=page.GREY, lw=0.8, alpha=0.6)
  for x, side in enumerate(sides):
    values = [100 * value for value in side.accuracies.values()]
    axis.plot([x] * len(values), values, "o", ms=4, color=page.COLOURS[x % len(page.COLOURS)])
    axis.plot([x - 0.2, x + 0.2], [np.mean(values)] * 2, color=page.GREY, lw=2)
  axis.set_xticks(range(len(sides)), [side.name for side in sides])
  axis.set(ylabel="accuracy, %", xlim=(-0.5, len(sides) - 0.5))
  axis.grid(alpha=0.3)


def _make_differences(comparisons: Sequence[compare.Comparison]) -> list[Html]:
  rows = []
  for a, b, verdict in comparisons:
    difference = verdict.difference
    test = "McNemar, exact"
    if not isinstance(difference, ImageDifference):
      test = "paired t" if difference.num_pairs else "Welch's t"
    answer = "yes" if verdict.is_distinguishable else "no"
    rows.append(
      [
        text_cell(f"{b.name} − {a.name}"),
        number_cell(100 * difference.mean, "+.2f"),
        Cell(f"{100 * verdict.low:+.2f} to {100 * verdict.high:+.2f}", 100 * difference.mean),
        number_cell(difference.p, ".2g"),
        number_cell(verdict.p, ".2g"),
        Cell(tag("span", answer, class_="chip" if verdict.is_distinguishable else None), answer),
        text_cell(test),
        text_cell(sentences.describe_basis(difference)),
      ]
    )
  header = ["sides", "points", "interval", "p", "p, corrected", "differs", "test", "of"]
  level = f"{statistics.SIGNIFICANCE:.0%}"
  note = (
    f"A difference counts if its corrected p value is at most {level}; its interval, at the level "
    "at which it was judged, then excludes 0. For seeds, the interval covers what other seeds "
    "would show on these images; for images, what other images would show of these two networks."
  )
  shown = comparisons[:_MAX_INTERVALS]
  chart = page.chart(
    "Differences of accuracy, with their intervals",
    "intervals of the differences",
    lambda axis: _draw_intervals(axis, shown),
    (4.1, 1.2 + 0.35 * len(shown)),
  )
  return [
    tag("div", chart, class_="charts"),
    page.table(header, rows),
    tag("p", note, class_="soft"),
  ]


def _draw_intervals(axis: "Axes", comparisons: Sequence[compare.Comparison]) -> None:
  names = [f"{b.name} − {a.name}" for a, b, _ in comparisons]
  for y, (_, _, verdict) in enumerate(comparisons):
    colour, mean = _COLOURS[verdict.is_distinguishable], 100 * verdict.difference.mean
    axis.plot([100 * verdict.low, 100 * verdict.high], [y, y], color=colour, lw=2)
    axis.plot([mean], [y], "o", ms=5, color=colour)
  axis.axvline(0, color=page.GREY, lw=1, ls="--")
  axis.set_yticks(range(len(names)), names)
  axis.set(xlabel="points", ylim=(len(names) - 0.5, -0.5))
  axis.grid(alpha=0.3, axis="x")
