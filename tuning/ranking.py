"""The results of a sweep, read from its run folders: trial states, ranking, best config."""

import json
import math
import statistics
from collections.abc import Container, Mapping, Sequence
from types import ModuleType
from typing import Any

import ml_collections
from etils import epath

from cifar_jax.config import changed_fields, flatten
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.types import Row
from configs.sweeps import RANK_BY
from trust import sentences
from tuning import table
from tuning.trials import Trial, name_trial

_METRICS = ("val_accuracy", "val_loss")


def read_state(trial: Trial, pruned: Container[str] = ()) -> Row:
  """Return the state of a trial from its run folder.

  Args:
    pruned: the names of the trials that ended at a rung, according to the study.

  Returns:
    'status': 'finished', 'pruned', 'failed', 'unfinished' or 'waiting'; 'epochs': the number run;
    'results' of a finished trial, or of a pruned one at its rung; 'error' of a failed one.
  """
  folder, error_file = RunFolder(trial.path, writer=False), trial.path / "error.txt"
  rows = folder.metrics()
  epochs = len(rows)
  if (results := folder.results()) is not None:
    return {"status": "finished", "epochs": epochs, "results": results}
  if trial.name in pruned and rows:
    seconds = sum(row["seconds"] for row in rows)
    at_rung = rows[-1] | {"epochs_run": epochs, "seconds_to_train": seconds}
    return {"status": "pruned", "epochs": epochs, "results": at_rung}
  if error_file.exists():
    return {"status": "failed", "epochs": epochs, "error": error_file.read_text().strip()}
  return {"status": "unfinished" if epochs else "waiting", "epochs": epochs}


def summarize(
  trials: Sequence[Trial], pruned: Container[str], rank_by: str, base: ModuleType
) -> tuple[Row, str | None]:
  """Return the contents of sweep.json, and of best.py if a configuration has a rank.

  Args:
    pruned: the names of the trials that ended at a rung.
    rank_by: the metric that decides, one of RANK_BY.
    base: the module whose get_config() best.py starts from.
  """
  states = [read_state(trial, pruned) for trial in trials]
  entries = rank(trials, states, rank_by)
  summary: Row = {
    "rank_by": rank_by,
    "trials": [_describe_trial(trial, state) for trial, state in zip(trials, states, strict=True)],
    "ranking": entries,
    "best": None,
    "lead": None,
  }
  if not (entries and entries[0]["rank"]):
    return summary, None
  best = [i for i, trial in enumerate(trials) if trial.name in entries[0]["trials"]]
  summary["best"] = entries[0]
  summary["lead"] = _describe_lead(entries, trials, states, rank_by)
  return summary, _config_file(summary, trials[best[0]], base)


def rank(trials: Sequence[Trial], states: Sequence[Mapping[str, Any]], rank_by: str) -> list[Row]:
  """Return an entry for each configuration: the best first, then pruned and unfinished ones.

  Trials that differ only in the field 'seed' belong to one configuration, which is ranked by their
  mean, in which each seed counts once. A configuration has a rank once all of its trials have
  finished. Ties are broken by the other validation metric. Of two pruned configurations, the one
  that trained longer comes first.
  """
  by_fields: dict[str, list[int]] = {}
  for i, trial in enumerate(trials):
    by_fields.setdefault(repr(sorted(_without_seed(trial).items())), []).append(i)
  entries = [
    _entry([trials[i] for i in indices], [states[i] for i in indices])
    for indices in by_fields.values()
  ]

  def sort_key(entry: Row) -> tuple[bool | float, ...]:
    costs = []
    for name in sorted(_METRICS, key=lambda name: name != rank_by):
      value = entry.get(name)
      sign = -1 if RANK_BY[name] == "max" else 1
      costs.append(math.inf if value is None else sign * value)
    epochs = entry["epochs_run"] if entry["status"] == "pruned" else 0
    return entry["status"] != "finished", -epochs, *costs

  entries.sort(key=sort_key)
  for place, entry in enumerate(entries, start=1):
    entry["rank"] = place if entry["status"] == "finished" else None
  return entries


def describe(summary: Mapping[str, Any]) -> str:
  """Return a sweep's ranking, its best configuration and its failed trials as lines of text."""
  lines = [table.ranking_table(summary)]
  if best := summary["best"]:
    lines.append(f"best: {best['name']}: {table.named_metric(summary['rank_by'], best)}")
    lines += [summary["lead"]] if summary["lead"] else []
  lines += [
    f"failed: {trial['name']}: {trial['error']}"
    for trial in summary["trials"]
    if trial["status"] == "failed"
  ]
  num_finished = sum(trial["status"] == "finished" for trial in summary["trials"])
  lines.append(f"{num_finished} of {len(summary['trials'])} trials finished")
  return "\n".join(lines)


def write(folder: epath.Path, summary: Mapping[str, Any], config_file: str | None) -> list[str]:
  """Write sweep.json, and best.py if there is one; return the names of the files written."""
  files = {"sweep.json": json.dumps(summary, indent=2, default=repr) + "\n"}
  if config_file:
    files["best.py"] = config_file
  for name, content in files.items():
    temporary = folder / f".{name}.tmp"
    temporary.write_text(content)
    temporary.replace(folder / name)
  return list(files)


def _entry(trials: Sequence[Trial], states: Sequence[Mapping[str, Any]]) -> Row:
  """Return the entry of the configuration that `trials` belong to, without its rank."""
  statuses = [state["status"] for state in states]
  common_status = statuses[0] if len(set(statuses)) == 1 else "unfinished"
  entry: Row = {
    "rank": None,
    "name": name_trial(_without_seed(trials[0])),
    "status": "failed" if "failed" in statuses else common_status,
    "fields": _without_seed(trials[0]),
    "trials": [trial.name for trial in trials],
  }
  if entry["status"] not in ("finished", "pruned"):
    return entry
  runs = _seed_results(trials, states)
  entry["runs"] = len(runs)
  for name in _METRICS:
    values = [run[name] for run in runs]
    entry[name] = None if None in values else statistics.fmean(values)
    if len(values) > 1 and None not in values:
      entry[f"{name}_standard_error"] = statistics.stdev(values) / math.sqrt(len(values))
  for name in ("epochs_run", "seconds_to_train"):
    entry[name] = statistics.fmean(state["results"][name] for state in states)
  return entry


def _seed_results(trials: Sequence[Trial], states: Sequence[Mapping[str, Any]]) -> list[Row]:
  """Return the results of each seed of a configuration once, because trials may share seeds."""
  by_seed: dict[int, Row] = {}
  for trial, state in zip(trials, states, strict=True):
    results = state["results"]
    for run in results.get("per_seed", [results | {"seed": trial.config.seed}]):
      by_seed.setdefault(run["seed"], run)
  return list(by_seed.values())


def _describe_lead(
  entries: Sequence[Row],
  trials: Sequence[Trial],
  states: Sequence[Mapping[str, Any]],
  rank_by: str,
) -> str | None:
  """Describe whether the best configuration is distinguishable from the second, if there is one."""
  if len(entries) < 2 or entries[1]["rank"] is None:
    return None
  figures: list[dict[int, float]] = []
  for entry in entries[:2]:
    members = [i for i, trial in enumerate(trials) if trial.name in entry["trials"]]
    runs = _seed_results([trials[i] for i in members], [states[i] for i in members])
    if any(run[rank_by] is None for run in runs):  # a metric that became NaN
      return None
    figures.append({run["seed"]: run[rank_by] for run in runs})
  measure = sentences.ACCURACY if rank_by == "val_accuracy" else sentences.LOSS
  first, second = figures
  return sentences.describe_lead(first, second, measure)


def _describe_trial(trial: Trial, state: Mapping[str, Any]) -> Row:
  """Return a trial's entry in sweep.json."""
  entry = {"name": trial.name, "fields": dict(trial.fields), "status": state["status"]}
  if "error" in state:
    entry["error"] = state["error"]
  names = (*_METRICS, "best_epoch", "epochs_run", "seconds_to_train", "trained_together")
  results = state.get("results", {})
  return entry | {name: results[name] for name in names if name in results}


def _without_seed(trial: Trial) -> Row:
  return {name: value for name, value in trial.fields.items() if name != "seed"}


def _config_file(summary: Mapping[str, Any], trial: Trial, base: ModuleType) -> str:
  """Return a config file with the trial's config, but with the seed of `base`."""
  package, _, module = base.__name__.rpartition(".")
  config: ml_collections.ConfigDict = trial.config.copy_and_resolve_references()
  base_config = base.get_config()
  if "seed" in trial.fields:
    config.seed = base_config.seed
  lines = [
    f"  config.{name} = {value!r}"
    for name, value in changed_fields(flatten(config), flatten(base_config)).items()
  ]
  best = summary["best"]
  return "\n".join(
    [
      '"""The best configuration of a sweep: '
      f"{table.named_metric(summary['rank_by'], best)}, of "
      f'{len(summary["ranking"])} configurations."""',
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
