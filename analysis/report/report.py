"""Runs as pages to look at, from their folders alone: `--mode=report`.

`report` writes `<run>/report.html`, `compare` one page about several runs. Each is one file that
opens from disk, with no network. What a run folder does not hold yet is left out: a run may still
be going on, and much is there only once `--mode=evaluate` has measured it.
"""

import os
import statistics
from typing import Any

from etils import epath

from analysis.report import evaluation, page, records
from analysis.report.comparison import compare
from analysis.report.page import Cell, Html, duration, number, tag, text
from analysis.report.records import Record
from cifar_jax.config import as_json, changed_fields, flatten
from cifar_jax.runs import run_folder

__all__ = ["compare", "report"]

_CURVES = {"loss": "Loss", "accuracy": "Accuracy", "learning_rate": "Learning rate"}
_EPOCHS = {  # of metrics.jsonl: what the table calls them, and how they are written
  "epoch": ("epoch", "d"),
  "train_loss": ("training loss", ".4f"),
  "val_loss": ("validation loss", ".4f"),
  "train_accuracy": ("training accuracy", ".2%"),
  "val_accuracy": ("validation accuracy", ".2%"),
  "train_objective": ("training objective", ".4f"),
  "val_objective": ("validation objective", ".4f"),
  "learning_rate": ("learning rate", ".3g"),
  "images_per_second": ("images/s", ",.0f"),
  "seconds": ("seconds", ".1f"),
}


def report(workdir: str | os.PathLike) -> epath.Path:
  """Writes `<workdir>/report.html` and returns its path.

  Raises:
    UserError: the folder holds no run, or a file in it is not what a run writes.
  """
  with run_folder.reading(workdir):
    return _report(records.read(workdir))


def _report(run: Record) -> epath.Path:
  sections = {
    "Selection": _selection(run),
    "Curves": _curves(run),
    "Seeds": _seeds(run),
    **evaluation.sections(run),
    "Timings": _timings(run),
    "Environment": _environment(run),
    "Config": _config(run),
  }
  sections = {heading: inside for heading, inside in sections.items() if inside}
  body = [
    tag(
      "header",
      tag("h1", run.name),
      tag("p", run.title, class_="soft"),
      page.contents(list(sections)),
    ),
    *_notices(run),
    page.tiles(_headline(run)),
    *(page.section(heading, *inside) for heading, inside in sections.items()),
    page.made_from(run.path.resolve()),
  ]
  path = run.path / "report.html"
  page.write(path, f"{run.name}: {run.title}", body)
  return path


def _notices(run: Record) -> list[Html]:
  notices = []
  if run.selected_on == "test":
    notices.append(
      page.notice(
        tag("strong", "Selected on the test set. "),
        "What the weights are was decided by how well they do on the very images that they are "
        "tested on, so the test figures are optimistic. Do not compare them with those of runs "
        "that selected on validation images.",
        bad=True,
      )
    )
  if run.fell_back:
    notices.append(
      page.notice(
        tag("strong", f"Trained on {run.data_name}, "),
        f"since {run.data['requested']} could not be had.",
        bad=True,
      )
    )
  if not run.results:
    notices.append(
      page.notice(
        tag("strong", f"Unfinished: {run.epochs}. "),
        "There are no test figures yet; the command that started the run resumes it.",
      )
    )
  return notices


def _headline(run: Record) -> list[tuple[str, str, str | None]]:
  found = run.results
  if not found:
    shown = [("Epochs", f"{len(run.rows)} of {run.config['num_epochs']}", None)]
    last = run.rows[-1] if run.rows else {}
    for metric in ("val_accuracy", "val_loss", "train_accuracy", "train_loss"):
      if metric in last:
        title, style = _EPOCHS[metric]
        value = number(last[metric], style).content
        shown.append((title.capitalize(), value, f"after epoch {last['epoch']}"))
    return shown
  several = len(found["seeds"]) > 1
  images = {"test": run.data.get("test_examples"), "val": run.data.get("validation_examples")}
  shown = []
  for metric, (title, style) in records.figures([run]).items():
    value = number(found[metric], style, found.get(f"{metric}_standard_error")).content
    count = images[metric.split("_")[0]]
    note = f"{count:,} images" if count else None
    if several:
      note = f"mean ± standard error of {len(found['seeds'])} seeds"
    shown.append((title.capitalize(), value, note))
  parameters = found["parameters"]
  fixed = f"{parameters['non_trainable']:,} of them not trained"
  total = f"{parameters['total']:,}"
  return [
    *shown,
    ("Parameters", total, fixed if parameters["non_trainable"] else None),
    ("Training time", duration(run.seconds).content, run.device),
  ]


def _selection(run: Record) -> list[Html]:
  select, found = run.config["select"], run.results
  which = "the last epoch"
  if select["monitor"]:
    best = "highest" if select["mode"] == "max" else "lowest"
    which = f"the epoch in which {select['monitor']} was {best}"
  if found and len(found["seeds"]) > 1:
    which += ", for each seed its own"
  elif found and found["best_epoch"]:
    which += f": epoch {found['best_epoch']} of {found['epochs_run']}"
  elif found:
    which = "the start, since in no epoch it was a number"
  decided = {
    "validation": "These are held out of the training images. The test images were used once, "
    "when the weights had been selected.",
    "test": "These are the very images that the test figures are about, which are optimistic.",
    "nothing": "Neither validation images nor test images decided anything.",
  }[run.selected_on]
  examples = [
    f"{run.data[f'{split}_examples']:,} {split}"
    for split in ("train", "validation", "test")
    if run.data.get(f"{split}_examples")
  ]
  monitors = []
  for name, title in (("early_stopping", "Early stopping"), ("plateau", "Plateau")):
    settings = run.config[name]
    if settings["monitor"]:
      monitors.append((title, f"by {settings['monitor']}, patience {settings['patience']} epochs"))
  on = {"validation": "validation images", "test": "the test set", "nothing": "nothing"}
  chip = "chip bad" if run.selected_on == "test" else "chip"
  return [
    page.facts(
      [
        ("Weights", f"of {which}"),
        ("Selected on", [tag("span", on[run.selected_on], class_=chip), " ", decided]),
        *monitors,
        ("Images", ", ".join(examples) or None),
      ]
    )
  ]


def _curves(run: Record) -> list[Html]:
  if not run.rows:
    return [tag("p", "No epoch has finished yet.")]
  best = run.results.get("best_epoch")

  def draw(axis: Any, metric: str) -> None:
    if metric == "learning_rate":
      records.plot(axis, run.traces(metric), page.COLOURS[2])
    else:
      records.plot(axis, run.traces(f"train_{metric}"), page.COLOURS[0], "training")
      records.plot(axis, run.traces(f"val_{metric}"), page.COLOURS[1], "validation")
      axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    records.dress(axis, metric)
    if best:
      axis.axvline(best, color=page.BETWEEN, ls=":", lw=1.2)

  charts = [
    page.chart(title, f"{title} by epoch", lambda axis, metric=metric: draw(axis, metric))
    for metric, title in _CURVES.items()
  ]
  notes = ["Dotted: the epoch whose weights were selected."] if best else []
  if len(run.traces("train_loss")) > 1:
    notes.append("Thin: each seed; thick: their mean.")
  notes.append(
    "Training figures are taken during an epoch, with whatever augmentation, dropout and label "
    "smoothing there is; validation figures after it and without them."
  )
  known = {n: how for n, how in _EPOCHS.items() if n in run.rows[0]}
  rows = [[number(row.get(n), style) for n, (_, style) in known.items()] for row in run.rows]
  epochs = page.table([title for title, _ in known.values()], rows)
  return [
    tag("div", charts, class_="charts"),
    tag("p", " ".join(notes), class_="soft"),
    tag("details", tag("summary", "All epochs as a table"), epochs),
  ]


def _seeds(run: Record) -> list[Html]:
  if len(run.samples) < 2:
    return []
  shown = records.figures([run])
  rows = [
    [
      number(sample["seed"], "d"),
      number(sample["best_epoch"], "d"),
      *(number(sample[metric], style) for metric, (_, style) in shown.items()),
    ]
    for sample in run.samples
  ]
  means = [
    number(run.results[metric], style, run.results.get(f"{metric}_standard_error"))
    for metric, (_, style) in shown.items()
  ]
  header = ["seed", "epoch selected", *(title for title, _ in shown.values())]
  foot = [Cell("mean ± standard error", None), Cell("", None), *means]
  return [page.table(header, rows, [foot])]


def _timings(run: Record) -> list[Html]:
  seconds, speed = run.known("seconds"), run.known("images_per_second")
  epochs, an_epoch = run.epochs, None
  if run.results and len(run.rows) < run.config["num_epochs"]:
    epochs += ", stopped early"
  if seconds:
    middle, least, most = (duration(f(seconds)).content for f in (statistics.median, min, max))
    an_epoch = f"{middle} (median; from {least} to {most})"
  compiling = run.results.get("compile_seconds")
  return [
    page.facts(
      [
        ("Training", f"{duration(run.seconds).content}, with validation and without compiling"),
        ("Compiling", None if compiling is None else duration(compiling).content),
        ("Epochs", epochs),
        ("An epoch", an_epoch),
        ("Images a second", f"{statistics.median(speed):,.0f} (median)" if speed else None),
        ("Finished", page.moment(run.results.get("finished")) or "not yet"),
      ]
    )
  ]


def _environment(run: Record) -> list[Html]:
  found, data = run.results, run.data
  device, commit = found.get("device", {}), found.get("git_commit")
  about = None
  if device:
    processes = f"{device['processes']} process{'es' if device['processes'] > 1 else ''}"
    about = f"{run.device}, {processes}, {device['cpu_cores']} CPU cores"
  versions = [f"{name} {version}" for name, version in found.get("versions", {}).items()]
  what = run.data_name
  if "image_shape" in data:
    shape = " × ".join(map(str, data["image_shape"]))
    what += f", {len(run.class_names)} classes, images of {shape}"
  return [
    page.facts(
      [
        ("Device", about),
        ("Versions", ", ".join(versions) or None),
        ("Code", tag("code", commit) if commit else None),
        ("Data", what),
        ("Fingerprint", tag("code", data["fingerprint"]) if data else None),
        ("All else", None if found else "is recorded when the run finishes"),
      ]
    )
  ]


def _config(run: Record) -> list[Html]:
  from configs import default

  defaults = flatten(as_json(default.get_config()))
  values = flatten(run.config)
  changed = changed_fields(values, defaults)
  own = [
    [page.code(n), page.value(values[n]), page.value(defaults[n]) if n in defaults else text(None)]
    for n in changed
  ]
  every = [[page.code(n), page.value(value)] for n, value in values.items()]
  told = ["What differs from ", tag("code", "configs/default.py"), " as it is now."]
  return [
    tag("p", told, class_="soft"),
    page.table(["field", "value", "default"], own),
    tag("details", tag("summary", "All fields"), page.table(["field", "value"], every)),
  ]
