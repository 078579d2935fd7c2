"""Runs to compare, and groups of them that differ only in the seed."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from analysis.run_record import RunRecord, distinct_names
from cifar_jax.config import Fields
from cifar_jax.types import Row

SEED_FIELDS = ("seed", "num_seeds")
# Where the data comes from; the fingerprint says whether it is the same.
SOURCE_FIELDS = ("data.dir", "data.source")
_MAX_NAMES = 4


class Entry(NamedTuple):
  """A run, and a name that no other run of the comparison has."""

  name: str
  run: RunRecord


class Group(NamedTuple):
  """Runs with the same config and data, except for their seeds.

  Attributes:
    entries: the runs.
    seed_results: the results of each seed, once.
    repeated_seeds: the seeds that occur in several runs.
  """

  entries: list[Entry]
  seed_results: list[Row]
  repeated_seeds: list[int]

  @property
  def title(self) -> str:
    return list_names(self.entries)

  @property
  def fields(self) -> Fields:
    """The config's fields; the fields of the seed are those of the first run."""
    return self.entries[0].run.fields


def name_runs(runs: Sequence[RunRecord]) -> list[Entry]:
  """Return the runs with distinct names, each folder once."""
  distinct = list({str(run.path.resolve()): run for run in runs}.values())
  names = distinct_names([run.path for run in distinct])
  return [Entry(name, run) for name, run in zip(names, distinct, strict=True)]


def group_entries(entries: Sequence[Entry]) -> list[Group]:
  """Return the groups in the order of their first runs."""
  groups: dict[str, Group] = {}
  for entry in entries:
    fields = entry.run.fields
    kept = {name: fields[name] for name in fields if name not in SEED_FIELDS + SOURCE_FIELDS}
    key = json.dumps([kept, entry.run.dataset.get("fingerprint")], sort_keys=True)
    group = groups.setdefault(key, Group([], [], []))
    group.entries.append(entry)
    seeds = {results["seed"] for results in group.seed_results}
    for results in entry.run.seed_results:
      if results["seed"] in seeds:
        group.repeated_seeds.append(results["seed"])
      else:
        group.seed_results.append(results)
  return list(groups.values())


def find_differing(configs: Sequence[Fields]) -> list[str]:
  """Return the fields whose values differ between configs, or that some configs lack."""
  names = dict.fromkeys(name for fields in configs for name in fields)
  return [
    name
    for name in names
    if any(name not in fields or fields[name] != configs[0].get(name) for fields in configs)
  ]


def list_names(entries: Sequence[Entry]) -> str:
  """Return the names of the runs, at most four of them, as text."""
  names = [entry.name for entry in entries]
  if len(names) <= _MAX_NAMES:
    return ", ".join(names)
  return f"{', '.join(names[: _MAX_NAMES - 1])} and {len(names) - _MAX_NAMES + 1} more"
