"""The sides of a comparison: the runs of one config each, and their accuracies by seed."""

import string
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from analysis.report.groups import (
  SEED_FIELDS,
  SOURCE_FIELDS,
  Entry,
  Group,
  find_differing,
  group_entries,
  name_runs,
)
from analysis.run_record import read_record
from cifar_jax import errors
from cifar_jax.runs import test_uses

SPLITS = {"validation": "val_accuracy", "test": "test_accuracy"}


class Side(NamedTuple):
  """One of the configs that are compared.

  Attributes:
    name: a letter.
    group: its runs.
    accuracies: by seed.
  """

  name: str
  group: Group
  accuracies: dict[int, float]


def make_sides(arguments: Sequence[str], split: str) -> list[Side]:
  """Return the sides that arguments name.

  Args:
    arguments: run folders; one with commas names all folders of a side.
    split: a key of SPLITS.

  Raises:
    UserError: a folder holds no finished run that recorded the split, or there are too few sides.
  """
  lists = [_split_folders(argument) for argument in arguments]
  entries = name_runs([read_record(folder) for folders in lists for folder in folders])
  by_path = {str(entry.run.path.resolve()): entry for entry in entries}
  for entry in entries:
    if not entry.run.results:
      raise errors.UserError(
        f"{entry.run.path}: unfinished, {entry.run.progress}; finish the run, or leave it out"
      )
  groups = group_entries(entries)
  if any(len(folders) > 1 for folders in lists) or len(groups) == 1:
    keys = [[str(epath.Path(f).expanduser().resolve()) for f in folders] for folders in lists]
    named = [[by_path[key] for key in dict.fromkeys(side)] for side in keys]
    groups = [_join(side) for side in named]
  if len(groups) < 2:
    raise errors.UserError("compare: only one side; name the run folders of at least two configs")
  if len(groups) > len(string.ascii_uppercase):
    raise errors.UserError(f"compare: {len(groups)} sides are too many; name at most 26")
  return [
    Side(name, group, _accuracies(group, split))
    for name, group in zip(string.ascii_uppercase, groups, strict=False)
  ]


def _split_folders(argument: str) -> list[str]:
  if epath.Path(argument).expanduser().exists():
    return [argument]
  return [folder for folder in argument.split(",") if folder] or [argument]


def _join(entries: list[Entry]) -> Group:
  """Return the runs of a side that was named with commas; raise unless they have one config."""
  groups = group_entries(entries)
  if len(groups) > 1:
    fields = ", ".join(differing_fields(groups)) or "the dataset"
    raise errors.UserError(
      f"compare: {', '.join(entry.name for entry in entries)} are not runs of one config, because "
      f"they differ in {fields}; name the runs of one config, or each folder separately"
    )
  return groups[0]


def _accuracies(group: Group, split: str) -> dict[int, float]:
  """Return the accuracy of each seed; raise UserError if the runs did not record it."""
  metric = SPLITS[split]
  accuracies = {
    results["seed"]: float(results[metric])
    for results in group.seed_results
    if results.get(metric) is not None
  }
  if not accuracies or len(accuracies) < len(group.seed_results):
    other = next(name for name in SPLITS if name != split)
    raise errors.UserError(
      f"--split: {group.title} recorded no {split} accuracy; use --split={other}"
    )
  return accuracies


def differing_fields(groups: Sequence[Group]) -> list[str]:
  """Return the fields of the config in which sides differ."""
  names = find_differing([group.fields for group in groups])
  return [name for name in names if name not in SEED_FIELDS + SOURCE_FIELDS]


def uses_test_images(side: Side, split: str) -> bool:
  """Return whether the figures of a side are those of test images."""
  return split == "test" or side.group.fields["data.validation"] == "test"


def record_test_uses(sides: Sequence[Side], split: str) -> None:
  """Record a use of test images in every run whose figures are those of test images."""
  for side in sides:
    if uses_test_images(side, split):
      others = ", ".join(other.group.title for other in sides if other is not side)
      for entry in side.group.entries:
        test_uses.record(entry.run.path, "compare", f"compared with {others}")


def count_test_uses(side: Side) -> int:
  """Return the greatest count of uses of the test images, over the runs of a side."""
  return max(entry.run.num_test_uses for entry in side.group.entries)
