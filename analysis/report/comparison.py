"""A page that compares runs: figures, means over seeds, shared charts, and differing fields."""

import os
import statistics
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from analysis.report import page
from analysis.report.curves import Dash, draw_traces, style_axis
from analysis.report.figures import average, select_figures
from analysis.report.groups import (
  SEED_FIELDS,
  SOURCE_FIELDS,
  Entry,
  Group,
  find_differing,
  group_entries,
  list_names,
  name_runs,
)
from analysis.report.page import Cell, Content, Html, duration_cell, number_cell, tag, text_cell
from analysis.run_record import RunRecord, read_record
from cifar_jax.config import Fields
from cifar_jax.runs import run_folder

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_CHARTS = {
  "val_accuracy": "Validation accuracy",
  "train_accuracy": "Training accuracy",
  "val_top5": "Validation top-5 accuracy",
  "train_top5": "Training top-5 accuracy",
  "val_loss": "Validation loss",
  "train_loss": "Training loss",
  "val_objective": "Validation objective (loss + L2 penalty)",
  "train_objective": "Training objective (loss + L2 penalty)",
  "learning_rate": "Learning rate",
}
_DASHES: dict[str, Dash] = {  # by name in CSS
  "solid": "-",
  "dashed": (0, (4, 2)),
  "dotted": (0, (1, 1.5)),
}
_MAX_FIELD_COLUMNS = 4  # in the table of means


def write_comparison(
  workdirs: Sequence[str | os.PathLike], output: str | os.PathLike
) -> epath.Path:
  """Write a page about several runs to `output` and return its path.

  Runs whose configs differ only in the seed form a group, with means and standard errors over all
  seeds of its runs.

  Raises:
    UserError: a folder holds no run, or a file in it is not valid.
  """
  path = epath.Path(output).expanduser()
  with run_folder.reading(", ".join(map(str, workdirs))):
    entries = name_runs([read_record(workdir) for workdir in workdirs])
    body = _make_body(entries, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.write_page(path, f"Comparison: {list_names(entries)}", body)
  return path


def _make_body(entries: list[Entry], path: epath.Path) -> list[Html]:
  groups = group_entries(entries)
  sections = {
    "Runs": _make_runs(entries, path),
    "Means over seeds": _make_means(groups),
    "Curves": _make_curves(entries, groups),
    "Configs": _make_configs(entries),
    "Timings and environment": _make_timings(entries),
  }
  count = f"{len(entries)} runs" if len(entries) > 1 else "1 run"
  titles = ", ".join(dict.fromkeys(entry.run.title for entry in entries))
  return [
    tag(
      "header",
      tag("h1", f"Comparison of {count}"),
      tag("p", titles, class_="soft"),
      page.contents(list(sections)),
    ),
    *_make_notices(entries),
    *(page.section(heading, *content) for heading, content in sections.items()),
    page.footer(*(entry.run.path.resolve() for entry in entries)),
  ]


def _make_notices(entries: list[Entry]) -> list[Html]:
  notices = []
  on_test = [entry.name for entry in entries if entry.run.selected_on == "test"]
  if on_test:
    limit = " and not comparable with those of the others" if len(on_test) < len(entries) else ""
    note = f"{', '.join(on_test)}. Their test figures are optimistic{limit}."
    notices.append(page.notice(tag("strong", "Selected on the test set: "), note, bad=True))
  fallen_back = [entry.name for entry in entries if entry.run.fell_back]
  if fallen_back:
    heading = tag("strong", "Trained on another dataset than the config names: ")
    notices.append(page.notice(heading, f"{', '.join(fallen_back)}.", bad=True))
  datasets = {
    (entry.run.dataset_name, entry.run.dataset.get("fingerprint"))
    for entry in entries
    if entry.run.dataset
  }
  fields = [entry.run.fields for entry in entries]
  if len(datasets) > 1:
    note = "The runs use different datasets, so their figures are not comparable."
    notices.append(page.notice(note))
  elif len({(str(f["data.validation"]), f["data.split_seed"]) for f in fields}) > 1:
    note = "The runs hold out different images: compare validation figures with care."
    notices.append(page.notice(note))
  return notices


def _make_runs(entries: list[Entry], output: epath.Path) -> list[Html]:
  runs = [entry.run for entry in entries]
  columns = {"run": [_name_cell(entry, output) for entry in entries]}
  columns["selected on"] = [_selected_on_cell(run) for run in runs]
  for title, values in {
    "model": [run.config["model"]["name"] for run in runs],
    "data": [run.dataset_name for run in runs],
  }.items():
    if len(set(values)) > 1:  # the page's header names a value that all share
      columns[title] = list(map(text_cell, values))
  for metric, figure in select_figures(runs).items():
    columns[figure.title] = [
      number_cell(
        run.results.get(metric), figure.style, run.results.get(f"{metric}_standard_error")
      )
      for run in runs
    ]
  columns["uses of test images"] = [number_cell(run.num_test_uses, "d") for run in runs]
  columns["seeds"] = [number_cell(run.config["num_seeds"], "d") for run in runs]
  columns["epochs"] = [number_cell(len(run.rows), "d") for run in runs]
  parameters = [run.results.get("parameters", {}).get("total") for run in runs]
  if len(set(parameters)) > 1:
    columns["parameters"] = list(map(number_cell, parameters))
  columns["training"] = [duration_cell(run.seconds) for run in runs]
  note = "Click a heading to sort. ±: standard error over the seeds of the run."
  rows = list(zip(*columns.values(), strict=True))
  return [page.table(list(columns), rows), tag("p", note, class_="soft")]


def _name_cell(entry: Entry, output: epath.Path) -> Cell:
  """Return the name of a run, with a link to its report if the report exists."""
  run = entry.run
  shown: Content = page.breakable(entry.name)
  report = run.path / "report.html"
  if report.exists() and "://" not in str(run.path):
    relative = os.path.relpath(report.resolve(), output.resolve().parent)
    shown = tag("a", shown, href=urllib.parse.quote(os.fsencode(relative)))
  chip = None if run.results else tag("span", f"unfinished, {run.progress}", class_="chip warn")
  return Cell([shown, " ", chip], entry.name)


def _selected_on_cell(run: RunRecord) -> Cell:
  if run.selected_on != "test":
    return text_cell(run.selected_on)
  return Cell(tag("span", "test", class_="chip bad"), "test")


def _make_means(groups: list[Group]) -> list[Html]:
  figures = select_figures([entry.run for group in groups for entry in group.entries])
  differing = find_differing([group.fields for group in groups])
  columns = [name for name in differing if name not in SEED_FIELDS + SOURCE_FIELDS]
  columns = columns if len(columns) <= _MAX_FIELD_COLUMNS else []
  rows = []
  for group in groups:
    seeds = ", ".join(str(results["seed"]) for results in group.seed_results)
    count = len(group.seed_results)
    means = {metric: average(group.seed_results, metric) for metric in figures}
    rows.append(
      [
        text_cell(group.title),
        *(_field_cell(group.fields, name) for name in columns),
        Cell([f"{count} ", tag("small", f"({seeds})") if seeds else None], count),
        *(number_cell(mean, figures[metric].style, e) for metric, (mean, e) in means.items()),
      ]
    )
  header = ["runs", *columns, "seeds", *(figure.title for figure in figures.values())]
  return [page.table(header, rows), tag("p", " ".join(_list_mean_notes(groups)), class_="soft")]


def _list_mean_notes(groups: list[Group]) -> list[str]:
  notes = [
    "Runs whose configs differ only in the seed share a row: the mean over their seeds ± its "
    "standard error (sample standard deviation / √seeds). Unfinished runs are excluded."
  ]
  if all(len(group.seed_results) < 2 for group in groups):
    notes.append("No config has more than one seed, so there are no standard errors.")
  repeated = sorted({seed for group in groups for seed in group.repeated_seeds})
  if repeated:
    seeds = ", ".join(map(str, repeated))
    notes.append(f"Runs of one config have seed {seeds} more than once; only the first counts.")
  return notes


def _field_cell(fields: Fields, name: str) -> Cell:
  return page.value_cell(fields[name]) if name in fields else text_cell(None)


def _make_curves(entries: list[Entry], groups: list[Group]) -> list[Html]:
  if len(groups) > 1:
    lines = [(group.title, [entry.run for entry in group.entries]) for group in groups]
  else:  # the runs of a single group are drawn separately
    lines = [(entry.name, [entry.run]) for entry in entries]
  styles = [(colour, dash) for dash in _DASHES for colour in page.COLOURS]
  styles = [styles[i % len(styles)] for i in range(len(lines))]

  def make_chart(metric: str, title: str) -> Html:
    def draw(axis: "Axes") -> None:
      for (_, runs), (colour, dash) in zip(lines, styles, strict=True):
        draw_traces(axis, _stack_traces(runs, metric), colour, dash=_DASHES[dash])
      style_axis(axis, metric)

    return page.chart(title, f"{title} by epoch", draw)

  has_top5 = any(entry.run.has_top5 for entry in entries)
  charts = [
    make_chart(metric, title)
    for metric, title in _CHARTS.items()
    if any(entry.run.traces(metric).size for entry in entries)
    and (has_top5 or not metric.endswith("top5"))
  ]
  if not charts:
    return [tag("p", "No epoch has finished yet.")]
  legend = [
    tag("li", tag("i", style=f"border-top: 3px {dash} {colour}"), tag("span", name))
    for (name, _), (colour, dash) in zip(lines, styles, strict=True)
  ]
  has_seeds = any(len(_stack_traces(runs, "train_loss")) > 1 for _, runs in lines)
  note = "Thin: each seed; thick: their mean, up to the last epoch that all of them have."
  return [
    tag("ul", legend, class_="legend"),
    tag("div", charts, class_="charts"),
    tag("p", note, class_="soft") if has_seeds else Html(""),
  ]


def _stack_traces(runs: list[RunRecord], metric: str) -> np.ndarray:
  """Return a metric of all seeds of all runs as [seeds, epochs], NaN after a run's last epoch."""
  traces = [run.traces(metric) for run in runs]
  traces = [trace for trace in traces if trace.size]
  longest = max((trace.shape[1] for trace in traces), default=0)
  padded = [
    np.pad(trace, [(0, 0), (0, longest - trace.shape[1])], constant_values=np.nan)
    for trace in traces
  ]
  return np.concatenate(padded) if padded else np.zeros((0, 0))


def _make_configs(entries: list[Entry]) -> list[Html]:
  configs = {entry.name: entry.run.fields for entry in entries}
  differing = find_differing(list(configs.values()))
  if not differing:
    return [tag("p", "All configs are the same.")]
  count = "One field differs" if len(differing) == 1 else f"{len(differing)} fields differ"
  note = tag("p", f"{count}; all others are the same.", class_="soft")
  if len(differing) > len(configs):  # the longer axis of the table runs down the page
    rows = [
      [page.code_cell(field), *(_field_cell(fields, field) for fields in configs.values())]
      for field in differing
    ]
    return [note, page.table(["field", *configs], rows)]
  rows = [
    [text_cell(name), *(_field_cell(fields, field) for field in differing)]
    for name, fields in configs.items()
  ]
  return [note, page.table(["run", *differing], rows)]


def _make_timings(entries: list[Entry]) -> list[Html]:
  header = ["run", "device", "training", "per epoch", "images/s", "compiling", "jax", "code"]
  rows = []
  for name, run in entries:
    seconds, speeds = run.finite_values("seconds"), run.finite_values("images_per_second")
    commit = run.results.get("git_commit")
    rows.append(
      [
        text_cell(name),
        text_cell(run.device),
        duration_cell(run.seconds),
        duration_cell(statistics.median(seconds) if seconds else None),
        number_cell(statistics.median(speeds) if speeds else None, ",.0f"),
        duration_cell(run.results.get("compile_seconds")),
        text_cell(run.results.get("versions", {}).get("jax")),
        page.code_cell(_shorten_commit(commit)) if commit else text_cell(None),
        text_cell(page.format_time(run.results.get("finished"))),
      ]
    )
  note = (
    "Per epoch and images/s are medians. The training time includes validation, but not compiling."
  )
  return [page.table([*header, "finished"], rows), tag("p", note, class_="soft")]


def _shorten_commit(commit: str) -> str:
  digits, dash, suffix = commit.partition("-")
  return f"{digits[:10]}{dash}{suffix}"
