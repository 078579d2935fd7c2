"""Judge from recorded runs whether configs really differ: `--mode=compare A B …`.

A side is the runs of one config, each seed once. Runs whose configs differ only in the seed form a
side, as in `--mode=report`. To compare runs of one config (before and after a change of the code),
name the folders of a side with commas: `a0,a1 b0,b1`.

The figures are accuracies of the selected weights on the validation images, or with split='test' on
the test images, which counts as a use of them in every run folder. Sides with several seeds are
compared by their figures, in pairs of the seeds that both have: a seed decides the order, the
augmentation and the initial weights of layers that both networks have, so much of its luck cancels.
A side with one seed is compared by its predictions, image by image. trust/statistics.py has the
tests.
"""

import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from analysis.report.figures import average
from analysis.run_record import RunRecord
from cifar_jax import errors
from cifar_jax.runs import run_folder
from cifar_jax.runtime.text_table import format_table
from cifar_jax.types import Row
from trust import sentences, statistics
from trust.sides import (
  SPLITS,
  Side,
  count_test_uses,
  differing_fields,
  make_sides,
  record_test_uses,
  uses_test_images,
)
from trust.statistics import Difference, ImageDifference, Verdict

_MAX_FIELD_COLUMNS = 4


class Comparison(NamedTuple):
  """Two sides and the verdict on them; the difference is b − a."""

  a: Side
  b: Side
  verdict: Verdict

  @property
  def sentence(self) -> str:
    return sentences.describe(self.verdict, self.a.name, self.b.name)


def compare(
  arguments: Sequence[str], split: str = "validation", output: str | os.PathLike = "compare.html"
) -> Row:
  """Compare the runs in the folders that `arguments` name, and write a page.

  Args:
    arguments: run folders; one with commas names all folders of a side.
    split: the images to compare on, a key of SPLITS.
    output: the page.

  Returns:
    'sides', 'comparisons', 'notes' and 'text', what to print.

  Raises:
    UserError: a folder holds no finished run, there are fewer than two sides, or runs that must be
      compared image by image have different images.
  """
  from trust import compare_page

  if split not in SPLITS:
    raise errors.UserError(f"--split: {split!r} is not one of {', '.join(SPLITS)}")
  with run_folder.reading(", ".join(arguments)):
    sides = make_sides(arguments, split)
    record_test_uses(sides, split)
    pairs = list(itertools.combinations(sides, 2))
    verdicts = statistics.judge([_measure(a, b, split) for a, b in pairs])
    comparisons = [
      Comparison(a, b, verdict) for (a, b), verdict in zip(pairs, verdicts, strict=True)
    ]
    notes = _list_notes(sides, comparisons, split)
    path = epath.Path(output).expanduser()
    compare_page.write(path, sides, comparisons, notes, split)
  lines = [_format_sides(sides, split), "", *(f"{c.sentence}." for c in comparisons)]
  lines += [f"NOTE: {note}" for note in notes]
  text = "\n".join([*lines, f"wrote {path}"])
  return {"sides": sides, "comparisons": comparisons, "notes": notes, "text": text}


# --- Differences ---------------------------------------------------------------------------------


def _measure(a: Side, b: Side, split: str) -> Difference:
  """Compare two sides: by their seeds, or, if there are too few, image by image."""
  difference = statistics.compare_seeds(a.accuracies, b.accuracies)
  if difference is not None:
    return difference
  shared = sorted(a.accuracies.keys() & b.accuracies.keys())
  runs = [side.group.entries[0].run for side in (a, b)]
  if len({(run.dataset.get("fingerprint"), _images(run, split)) for run in runs}) > 1:
    raise errors.UserError(
      f"compare: {a.group.title} and {b.group.title} have one seed and different {split} images, "
      "so they cannot be compared image by image; train them with the same dataset, "
      "data.validation and data.split_seed"
    )
  seeds = [shared[0] if shared else min(side.accuracies) for side in (a, b)]
  correct = [_classify(side, seed, split) for side, seed in zip((a, b), seeds, strict=True)]
  return statistics.compare_images(*correct)


def _classify(side: Side, seed: int, split: str) -> np.ndarray:
  """Return whether a side's network classifies each image of a split correctly, [n] bool."""
  from analysis.evaluate import predictions

  path = next(
    entry.run.path
    for entry in side.group.entries
    if seed in (results["seed"] for results in entry.run.seed_results)
  )
  return predictions.find_correct(path, seed, split, f"{side.name}: {split}")


# --- Text ----------------------------------------------------------------------------------------


def _format_sides(sides: Sequence[Side], split: str) -> str:
  """Return a table with a line for each side."""
  fields = differing_fields([side.group for side in sides])
  columns = fields if len(fields) <= _MAX_FIELD_COLUMNS else []
  has_uses = any(uses_test_images(side, split) for side in sides)
  rows = [
    [
      side.name,
      errors.printable(side.group.title),
      str(len(side.accuracies)),
      *(repr(side.group.fields.get(name)) for name in columns),
      _show_accuracy(side, split),
      *[str(count_test_uses(side))] * has_uses,
    ]
    for side in sides
  ]
  header = ["", "runs", "seeds", *columns, f"{split} accuracy", *["uses of test images"] * has_uses]
  table = format_table(header, rows)
  if fields and not columns:
    table += f"\nfields that differ: {', '.join(fields)}"
  return table


def _show_accuracy(side: Side, split: str) -> str:
  """Return the mean accuracy of a side as text, with its standard error."""
  mean, error = average(side.group.seed_results, SPLITS[split])
  return f"{mean:.2%}" + (f" ± {error:.2%}" if error is not None else "")


def _list_notes(sides: Sequence[Side], comparisons: Sequence[Comparison], split: str) -> list[str]:
  """Return what a reader must know about these comparisons."""
  notes = []
  if len(comparisons) > 1:
    notes.append(
      f"the p values and intervals are corrected for {len(comparisons)} comparisons (Holm)"
    )
  by_images, by_means = [], []
  for a, b, verdict in comparisons:
    if isinstance(verdict.difference, ImageDifference):
      by_images.append(f"{a.name} and {b.name}")
    elif not verdict.difference.num_pairs:
      by_means.append(f"{a.name} and {b.name}")
  if by_images:
    notes.append(
      f"{', '.join(by_images)}: a side has one seed, so this compares two trained networks image "
      "by image; other seeds may differ. Train several seeds to compare the configs"
    )
  if by_means:
    notes.append(
      f"{', '.join(by_means)}: no two seeds in common, so means are compared; pairs of seeds would "
      "show more"
    )
  runs = [entry.run for side in sides for entry in side.group.entries]
  return notes + _list_cautions(runs, sides, split)


def _list_cautions(runs: Sequence[RunRecord], sides: Sequence[Side], split: str) -> list[str]:
  """Return reasons to doubt the comparisons."""
  cautions = []
  diverged = [run.name for run in runs if run.results.get("diverged_seeds")]
  if diverged:
    cautions.append(f"{', '.join(diverged)}: seeds that diverged are left out, which flatters them")
  repeated = [side.name for side in sides if side.group.repeated_seeds]
  if repeated:
    cautions.append(f"{', '.join(repeated)}: of runs with the same seed only the first counts")
  relatives = [side.name for side in sides if _have_one_parent(side)]
  if relatives:
    cautions.append(
      f"{', '.join(relatives)}: runs that began with the same run are not independent, so their "
      "spread is smaller than that of seeds"
    )
  if any(uses_test_images(side, split) for side in sides):
    cautions.append(
      "this used the test images, which test_uses.jsonl of every run records; choosing by test "
      "figures makes them optimistic"
    )
  if len({run.dataset.get("fingerprint") for run in runs}) > 1:
    cautions.append("the sides use different datasets, so their figures are not comparable")
  elif len({_images(run, split) for run in runs}) > 1:
    cautions.append("the sides validate on different images, which blurs the comparison")
  commits = [{entry.run.results.get("git_commit") for entry in s.group.entries} for s in sides]
  if any(commit != commits[0] for commit in commits):
    cautions.append("the sides were trained by different commits of the code")
  return cautions


def _have_one_parent(side: Side) -> bool:
  """Return whether two runs of a side are forks of the same run."""
  lineages = [entry.run.results.get("lineage") for entry in side.group.entries]
  parents = [lineage[-1]["run"] for lineage in lineages if lineage]
  return len(set(parents)) < len(parents)


def _images(run: RunRecord, split: str) -> tuple[str, int] | None:
  """Return the fields that decide which images of the dataset are in a split; None for 'test'."""
  if split == "test":
    return None
  return str(run.fields["data.validation"]), run.fields["data.split_seed"]
