"""What the run folders of a sweep say: the state of each trial, the ranking, the best config."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import ml_collections
from etils import epath

from cifar_jax.config import changed_fields, flatten
from cifar_jax.runs.run_folder import RunFolder
from configs.sweeps import RANK_BY
from tuning import table
from tuning.trials import Trial, name_of

_FIGURES = ("val_accuracy", "val_loss")


def state(trial: Trial) -> dict[str, Any]:
  """What a trial's folder says: 'status', 'epochs' run, and its 'results' or its 'error'."""
  folder, note = RunFolder(trial.path, writer=False), trial.path / "error.txt"
  epochs = len(folder.metrics())
  if (results := folder.results()) is not None:
    return {"status": "finished", "epochs": epochs, "results": results}
  if note.exists():
    return {"status": "failed", "epochs": epochs, "error": note.read_text().strip()}
  return {"status": "unfinished" if epochs else "waiting", "epochs": epochs}


def collect(
  trials: Sequence[Trial], rank_by: str, start: ModuleType
) -> tuple[dict[str, Any], str | None]:
  """What sweep.json holds, and the best configuration as a config file, if there is one.

  Args:
    start: the module that the config file starts from.
  """
  states = [state(trial) for trial in trials]
  entries = rank(trials, states, rank_by)
  found: dict[str, Any] = {
    "rank_by": rank_by,
    "trials": [_described(trial, said) for trial, said in zip(trials, states, strict=True)],
    "ranking": entries,
    "best": None,
  }
  if not (entries and entries[0]["rank"]):
    return found, None
  of_best = [
    (trial, said)
    for trial, said in zip(trials, states, strict=True)
    if trial.name in entries[0]["trials"]
  ]
  test = statistics.fmean(said["results"]["test_accuracy"] for _, said in of_best)
  found["best"] = entries[0] | {"test_accuracy": test}
  return found, _config_file(found, of_best[0][0], start)


def rank(
  trials: Sequence[Trial], states: Sequence[Mapping[str, Any]], rank_by: str
) -> list[dict[str, Any]]:
  """An entry for each configuration, the best first, those that have not finished last.

  Trials that differ in the field 'seed' alone are one configuration, and count by their mean. It is
  ranked when all of them have finished. Between equals the other validation figure decides.
  """
  by_fields: dict[str, list[int]] = {}
  for i, trial in enumerate(trials):
    by_fields.setdefault(repr(sorted(_without_seed(trial).items())), []).append(i)
  entries = [
    _entry([trials[i] for i in numbers], [states[i] for i in numbers])
    for numbers in by_fields.values()
  ]

  def order(entry: dict[str, Any]) -> tuple:
    worths = []
    for name in sorted(_FIGURES, key=lambda name: name != rank_by):
      value = entry.get(name)
      sign = -1 if RANK_BY[name] == "max" else 1
      worths.append(math.inf if value is None else sign * value)
    return entry["status"] != "finished", *worths

  entries.sort(key=order)
  for place, entry in enumerate(entries, start=1):
    entry["rank"] = place if entry["status"] == "finished" else None
  return entries


def text(found: Mapping[str, Any]) -> str:
  """The end of a sweep in lines to read."""
  lines = [table.ranking(found)]
  if best := found["best"]:
    lines.append(
      f"best: {best['name']}: {table.metric(found['rank_by'], best)}; "
      f"test accuracy {best['test_accuracy']:.2%}"
    )
  lines += [
    f"failed: {trial['name']}: {trial['error']}"
    for trial in found["trials"]
    if trial["status"] == "failed"
  ]
  finished = sum(trial["status"] == "finished" for trial in found["trials"])
  lines.append(f"{finished} of {len(found['trials'])} trials finished")
  return "\n".join(lines)


def _entry(trials: Sequence[Trial], states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  statuses = [said["status"] for said in states]
  same = statuses[0] if len(set(statuses)) == 1 else "unfinished"
  entry: dict[str, Any] = {
    "rank": None,
    "name": name_of(_without_seed(trials[0])),
    "status": "failed" if "failed" in statuses else same,
    "fields": _without_seed(trials[0]),
    "trials": [trial.name for trial in trials],
  }
  if entry["status"] != "finished":
    return entry
  results = [said["results"] for said in states]
  for name in _FIGURES:
    values = [run[name] for result in results for run in result.get("per_seed", [result])]
    entry["runs"] = len(values)
    entry[name] = None if None in values else statistics.fmean(values)
    if len(values) > 1 and None not in values:
      entry[f"{name}_standard_error"] = statistics.stdev(values) / math.sqrt(len(values))
  for name in ("epochs_run", "seconds_to_train"):
    entry[name] = statistics.fmean(result[name] for result in results)
  return entry


def _described(trial: Trial, said: Mapping[str, Any]) -> dict[str, Any]:
  """A trial as sweep.json has it: without test figures, for it is no place to choose by them."""
  described = {"name": trial.name, "fields": dict(trial.fields), "status": said["status"]}
  if "error" in said:
    described["error"] = said["error"]
  names = (*_FIGURES, "best_epoch", "epochs_run", "seconds_to_train", "trained_together")
  results = said.get("results", {})
  return described | {name: results[name] for name in names if name in results}


def _without_seed(trial: Trial) -> dict[str, Any]:
  return {name: value for name, value in trial.fields.items() if name != "seed"}


def _config_file(found: Mapping[str, Any], trial: Trial, start: ModuleType) -> str:
  """A program whose get_config() is the trial's config, with the seed that `start` has."""
  package, _, module = start.__name__.rpartition(".")
  config: ml_collections.ConfigDict = trial.config.copy_and_resolve_references()
  base = start.get_config()
  if "seed" in trial.fields:
    config.seed = base.seed
  lines = [
    f"  config.{name} = {value!r}"
    for name, value in changed_fields(flatten(config), flatten(base)).items()
  ]
  best = found["best"]
  return "\n".join(
    [
      f'"""The best configuration of a sweep: {table.metric(found["rank_by"], best)}, of '
      f"{len(found['ranking'])} configurations;",
      f'test accuracy {best["test_accuracy"]:.2%}, which had no say in it."""',
      "",
      "import ml_collections",
      "",
      f"from {package} import {module}" if package else f"import {module}",
      "",
      "",
      "def get_config() -> ml_collections.ConfigDict:",
      f"  config = {module}.get_config()",
      *lines,
      "  return config",
      "",
    ]
  )


def write(folder: epath.Path, found: Mapping[str, Any], config_file: str | None) -> list[str]:
  """Writes sweep.json and best.py; returns the names of those written."""
  files = {"sweep.json": json.dumps(found, indent=2, default=repr) + "\n"}
  if config_file:
    files["best.py"] = config_file
  for name, content in files.items():
    temporary = folder / f".{name}.tmp"
    temporary.write_text(content)
    temporary.replace(folder / name)
  return list(files)
