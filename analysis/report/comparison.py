"""A page that compares runs: figures, means over seeds, curves in one chart, what differs."""

import json
import os
import statistics
import urllib.parse
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from analysis.report import page, records
from analysis.report.page import Cell, Html, duration, number, tag, text
from analysis.report.records import Record
from cifar_jax.config import flatten
from cifar_jax.runs import run_folder

_CURVES = {
  "val_accuracy": "Validation accuracy",
  "train_accuracy": "Training accuracy",
  "val_loss": "Validation loss",
  "train_loss": "Training loss",
  "learning_rate": "Learning rate",
}
_DASHES = {"solid": "-", "dashed": (0, (4, 2)), "dotted": (0, (1, 1.5))}  # by their names in CSS
_SEEDS = ("seed", "num_seeds")
_PLACES = ("data.dir", "data.source")  # where data come from; what they are the fingerprint tells
_FEW = 4


class _Group(NamedTuple):
  """Runs of one config and the same data, but for their seeds.

  Attributes:
    names: of the runs.
    runs: them.
    samples: the results of each seed, once.
    repeated: the seeds that more than one run has.
  """

  names: list[str]
  runs: list[Record]
  samples: list[dict[str, Any]]
  repeated: list[int]


def compare(workdirs: Sequence[str | os.PathLike], output: str | os.PathLike) -> epath.Path:
  """Writes a page about several runs to `output` and returns its path.

  Runs whose configs differ only in the seed are taken together for means and standard errors, each
  seed of a run with several being one of them.

  Raises:
    UserError: a folder holds no run, or a file in it is not what a run writes.
  """
  path = epath.Path(output).expanduser()
  with run_folder.reading(", ".join(map(str, workdirs))):
    return _compare([records.read(workdir) for workdir in workdirs], path)


def _compare(found: list[Record], path: epath.Path) -> epath.Path:
  runs = list({str(run.path.resolve()): run for run in found}.values())  # each once
  short = [run.name for run in runs]
  names = [n if short.count(n) == 1 else str(r.path) for n, r in zip(short, runs, strict=True)]
  groups = _groups(runs, names)
  sections = {
    "Runs": _table(runs, names, path),
    "Means over seeds": _means(groups),
    "Curves": _curves(runs, names, groups),
    "Configs": _configs(names, [flatten(run.config) for run in runs]),
    "Timings and environment": _timings(runs, names),
  }
  count = f"{len(runs)} runs" if len(runs) > 1 else "1 run"
  body = [
    tag(
      "header",
      tag("h1", f"Comparison of {count}"),
      tag("p", ", ".join(dict.fromkeys(run.title for run in runs)), class_="soft"),
      page.contents(list(sections)),
    ),
    *_notices(runs, names),
    *(page.section(heading, *inside) for heading, inside in sections.items()),
    page.made_from(*(run.path.resolve() for run in runs)),
  ]
  path.parent.mkdir(parents=True, exist_ok=True)
  page.write(path, f"Comparison: {_listed(names)}", body)
  return path


def _groups(runs: list[Record], names: list[str]) -> list[_Group]:
  groups: dict[str, _Group] = {}
  for run, name in zip(runs, names, strict=True):
    fields = flatten(run.config)
    kept = {field: fields[field] for field in fields if field not in _SEEDS + _PLACES}
    key = json.dumps([kept, run.data.get("fingerprint")], sort_keys=True)
    group = groups.setdefault(key, _Group([], [], [], []))
    group.names.append(name)
    group.runs.append(run)
    seeds = {sample["seed"] for sample in group.samples}
    for sample in run.samples:
      if sample["seed"] in seeds:
        group.repeated.append(sample["seed"])
      else:
        group.samples.append(sample)
  return list(groups.values())


def _differing(values: list[dict[str, Any]]) -> list[str]:
  """The fields that not all configs have the same value of."""
  fields = dict.fromkeys(field for own in values for field in own)
  return [
    field
    for field in fields
    if any(field not in own or own[field] != values[0].get(field) for own in values)
  ]


def _listed(names: list[str]) -> str:
  if len(names) <= _FEW:
    return ", ".join(names)
  return f"{', '.join(names[: _FEW - 1])} and {len(names) - _FEW + 1} more"


def _notices(runs: list[Record], names: list[str]) -> list[Html]:
  notices = []
  on_test = [name for run, name in zip(runs, names, strict=True) if run.selected_on == "test"]
  if on_test:
    others = ", and not comparable with those of the others" if len(on_test) < len(runs) else ""
    told = f"{', '.join(on_test)}. Their test figures are optimistic{others}."
    notices.append(page.notice(tag("strong", "Selected on the test set: "), told, bad=True))
  fallen = [name for run, name in zip(runs, names, strict=True) if run.fell_back]
  if fallen:
    told = tag("strong", "Trained on other data than the config names: ")
    notices.append(page.notice(told, f"{', '.join(fallen)}.", bad=True))
  data = {(run.data_name, run.data.get("fingerprint")) for run in runs if run.data}
  chosen = [run.config["data"] for run in runs]
  if len(data) > 1:
    told = "These runs are not all of the same data, so their figures are not comparable."
    notices.append(page.notice(told))
  elif len({(str(own["validation"]), own["split_seed"]) for own in chosen}) > 1:
    told = "These runs do not all hold out the same images: compare validation figures with care."
    notices.append(page.notice(told))
  return notices


def _table(runs: list[Record], names: list[str], output: epath.Path) -> list[Html]:
  shown = records.figures(runs)
  columns = {"run": [_name(r, name, output) for r, name in zip(runs, names, strict=True)]}
  columns["selected on"] = [_selected_on(run) for run in runs]
  for title, of_runs in {
    "model": [run.config["model"]["name"] for run in runs],
    "data": [run.data_name for run in runs],
  }.items():
    if len(set(of_runs)) > 1:  # else the head of the page says it
      columns[title] = list(map(text, of_runs))
  for metric, (title, style) in shown.items():
    spread = f"{metric}_standard_error"
    columns[title] = [number(r.results.get(metric), style, r.results.get(spread)) for r in runs]
  columns["seeds"] = [number(run.config["num_seeds"], "d") for run in runs]
  columns["epochs"] = [number(len(run.rows), "d") for run in runs]
  parameters = [run.results.get("parameters", {}).get("total") for run in runs]
  if len(set(parameters)) > 1:
    columns["parameters"] = list(map(number, parameters))
  columns["training"] = [duration(run.seconds) for run in runs]
  told = "A click on a heading sorts. ±: standard error over the seeds of the run."
  rows = list(zip(*columns.values(), strict=True))
  return [page.table(list(columns), rows), tag("p", told, class_="soft")]


def _name(run: Record, name: str, output: epath.Path) -> Cell:
  """The name, leading to the run's own report where there is one."""
  shown, report = page.breakable(name), run.path / "report.html"
  if report.exists() and "://" not in str(run.path):
    relative = os.path.relpath(report.resolve(), output.resolve().parent)
    shown = tag("a", shown, href=urllib.parse.quote(os.fsencode(relative)))
  chip = None if run.results else tag("span", f"unfinished, {run.epochs}", class_="chip warn")
  return Cell([shown, " ", chip], name)


def _selected_on(run: Record) -> Cell:
  if run.selected_on != "test":
    return text(run.selected_on)
  return Cell(tag("span", "test", class_="chip bad"), "test")


def _means(groups: list[_Group]) -> list[Html]:
  shown = records.figures([run for group in groups for run in group.runs])
  values = [flatten(group.runs[0].config) for group in groups]
  apart = [field for field in _differing(values) if field not in _SEEDS + _PLACES]
  apart = apart if len(apart) <= _FEW else []
  rows = []
  for group, own in zip(groups, values, strict=True):
    seeds = ", ".join(str(sample["seed"]) for sample in group.samples)
    count = [f"{len(group.samples)} ", tag("small", f"({seeds})") if seeds else None]
    rows.append(
      [
        text(_listed(group.names)),
        *(_field(own, field) for field in apart),
        Cell(count, len(group.samples)),
        *(_mean(group, metric, style) for metric, (_, style) in shown.items()),
      ]
    )
  notes = [
    "Runs whose configs differ only in the seed are one row: the mean over their seeds ± its "
    "standard error (standard deviation of the sample / √seeds). Unfinished runs are not counted."
  ]
  if all(len(group.samples) < 2 for group in groups):
    notes.append("No config here has more than one seed, so there are no standard errors.")
  repeated = sorted({seed for group in groups for seed in group.repeated})
  if repeated:
    which = ", ".join(map(str, repeated))
    notes.append(f"Runs of one config have seed {which} more than once; the first of them counts.")
  header = ["runs", *apart, "seeds", *(title for title, _ in shown.values())]
  return [page.table(header, rows), tag("p", " ".join(notes), class_="soft")]


def _mean(group: _Group, metric: str, style: str) -> Cell:
  value, spread = records.mean(group.samples, metric)
  return number(value, style, spread)


def _field(values: dict[str, Any], field: str) -> Cell:
  return page.value(values[field]) if field in values else text(None)


def _curves(runs: list[Record], names: list[str], groups: list[_Group]) -> list[Html]:
  if len(groups) > 1:
    lines = [(_listed(group.names), group.runs) for group in groups]
  else:  # of one config each run is told from the others
    lines = [(name, [run]) for name, run in zip(names, runs, strict=True)]
  looks = [(c, dash) for dash in _DASHES for c in page.COLOURS]
  looks = [looks[i % len(looks)] for i in range(len(lines))]

  def draw(axis: Any, metric: str) -> None:
    for (_, members), (colour, dash) in zip(lines, looks, strict=True):
      records.plot(axis, _together(members, metric), colour, dash=_DASHES[dash])
    records.dress(axis, metric)

  charts = [
    page.chart(title, f"{title} by epoch", lambda axis, metric=metric: draw(axis, metric))
    for metric, title in _CURVES.items()
    if any(run.traces(metric).size for run in runs)
  ]
  if not charts:
    return [tag("p", "No epoch has finished yet.")]
  legend = [
    tag("li", tag("i", style=f"border-top: 3px {dash} {colour}"), tag("span", name))
    for (name, _), (colour, dash) in zip(lines, looks, strict=True)
  ]
  several = any(len(_together(members, "train_loss")) > 1 for _, members in lines)
  note = "Thin: each seed; thick: their mean, as long as all of them have values."
  return [
    tag("ul", legend, class_="legend"),
    tag("div", charts, class_="charts"),
    tag("p", note, class_="soft") if several else Html(""),
  ]


def _together(runs: list[Record], metric: str) -> np.ndarray:
  """[seeds, epochs] of all the runs' seeds, NaN after the last epoch of a shorter one."""
  traces = [run.traces(metric) for run in runs]
  traces = [own for own in traces if own.size]
  longest = max((own.shape[1] for own in traces), default=0)
  padded = [
    np.pad(own, [(0, 0), (0, longest - own.shape[1])], constant_values=np.nan) for own in traces
  ]
  return np.concatenate(padded) if padded else np.zeros((0, 0))


def _configs(names: list[str], values: list[dict[str, Any]]) -> list[Html]:
  fields = _differing(values)
  if not fields:
    return [tag("p", "All configs are the same.")]
  told = tag("p", f"{len(fields)} fields differ; all others are the same.", class_="soft")
  if len(fields) == 1:
    told = tag("p", "One field differs; all others are the same.", class_="soft")
  if len(fields) > len(names):  # the longer way down the page
    rows = [[page.code(field), *(_field(own, field) for own in values)] for field in fields]
    return [told, page.table(["field", *names], rows)]
  rows = [
    [text(name), *(_field(own, field) for field in fields)]
    for name, own in zip(names, values, strict=True)
  ]
  return [told, page.table(["run", *fields], rows)]


def _timings(runs: list[Record], names: list[str]) -> list[Html]:
  header = ["run", "device", "training", "an epoch", "images/s", "compiling", "jax", "code"]
  rows = []
  for run, name in zip(runs, names, strict=True):
    found = run.results
    seconds, speed = run.known("seconds"), run.known("images_per_second")
    commit = found.get("git_commit")
    rows.append(
      [
        text(name),
        text(run.device),
        duration(run.seconds),
        duration(statistics.median(seconds) if seconds else None),
        number(statistics.median(speed) if speed else None, ",.0f"),
        duration(found.get("compile_seconds")),
        text(found.get("versions", {}).get("jax")),
        page.code(_short(commit)) if commit else text(None),
        text(page.moment(found.get("finished"))),
      ]
    )
  told = "An epoch and images a second: medians. Training: with validation, without compiling."
  return [page.table([*header, "finished"], rows), tag("p", told, class_="soft")]


def _short(commit: str) -> str:
  number, dash, dirty = commit.partition("-")
  return f"{number[:10]}{dash}{dirty}"
