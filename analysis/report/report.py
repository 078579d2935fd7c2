"""HTML pages about runs, made from their folders alone: `--mode=report`.

`write_report` writes `<run>/report.html`, and `write_comparison` one page about several runs. Each
page is one file that opens from disk without network. A page leaves out what the run folder lacks:
a run may be unfinished, and many figures appear only after `--mode=evaluate`.
"""

import os

from etils import epath

from analysis.report import curves, details, evaluation, page
from analysis.report.comparison import write_comparison
from analysis.report.figures import select_figures
from analysis.report.page import Cell, Content, Html, duration_cell, number_cell, tag
from analysis.run_record import RunRecord, read_record
from cifar_jax.runs import run_folder, test_uses

__all__ = ["write_comparison", "write_report"]

_MAX_USES = 5  # latest uses of the test images to list


def write_report(workdir: str | os.PathLike, output: str | os.PathLike = "") -> epath.Path:
  """Write the page of a run and return its path.

  output: the page; '' for `<workdir>/report.html`.

  Raises:
    UserError: the folder holds no run, or a file in it is not valid.
  """
  with run_folder.reading(workdir):
    run = read_record(workdir)
    path = epath.Path(output).expanduser() if output else run.path / "report.html"
    page.write_page(path, f"{run.name}: {run.title}", _make_body(run))
  return path


def _make_body(run: RunRecord) -> list[Html]:
  sections = {
    "Selection": _make_selection(run),
    "Curves": curves.make_section(run),
    "Seeds": _make_seeds(run),
    **evaluation.make_sections(run),
    "Timings": details.make_timings(run),
    "Environment": details.make_environment(run),
    "Config": details.make_config(run),
  }
  sections = {heading: content for heading, content in sections.items() if content}
  return [
    tag(
      "header",
      tag("h1", run.name),
      tag("p", run.title, class_="soft"),
      page.contents(list(sections)),
    ),
    *_make_notices(run),
    page.tiles(_list_headline(run)),
    *(page.section(heading, *content) for heading, content in sections.items()),
    page.footer(run.path.resolve()),
  ]


def _make_notices(run: RunRecord) -> list[Html]:
  notices = []
  if run.selected_on == "test":
    notices.append(
      page.notice(
        tag("strong", "Selected on the test set. "),
        "The weights were selected by how well they do on the test images, so the test figures are "
        "optimistic. Do not compare them with those of runs that were selected on validation "
        "images.",
        bad=True,
      )
    )
  if run.fell_back:
    notices.append(
      page.notice(
        tag("strong", f"Trained on {run.dataset_name}, "),
        f"because {run.dataset['requested']} was unavailable.",
        bad=True,
      )
    )
  if not run.results:
    notices.append(
      page.notice(
        tag("strong", f"Unfinished: {run.progress}. "),
        "There are no test figures yet; the command that started the run resumes it.",
      )
    )
  elif not run.is_tested:
    notices.append(
      page.notice(
        tag("strong", "Not tested. "),
        "The run is a trial of a sweep, ranked by validation. --mode=evaluate tests it.",
      )
    )
  return notices


def _list_headline(run: RunRecord) -> list[page.Tile]:
  """Return the most important figures."""
  results = run.results
  if not results:
    return _list_unfinished_headline(run)
  num_images = {
    "test": run.dataset.get("test_examples"),
    "val": run.dataset.get("validation_examples"),
  }
  tiles = []
  for metric, figure in select_figures([run]).items():
    cell = number_cell(results[metric], figure.style, results.get(f"{metric}_standard_error"))
    count = num_images[metric.split("_")[0]]
    note = f"{count:,} images" if count else None
    if len(results["seeds"]) > 1:
      note = f"mean ± standard error of {len(run.seed_results)} seeds"
    if metric == "test_accuracy":
      used = test_uses.describe(run.num_test_uses)
      note = f"{note}; {used}" if note else used
    tiles.append(page.Tile(figure.title.capitalize(), cell.content, note))
  parameters = results["parameters"]
  untrained = parameters["non_trainable"]
  note = f"{untrained:,} of them not trained" if untrained else None
  tiles.append(page.Tile("Parameters", f"{parameters['total']:,}", note))
  tiles.append(page.Tile("Training time", duration_cell(run.seconds).content, run.device))
  return tiles


def _list_unfinished_headline(run: RunRecord) -> list[page.Tile]:
  tiles = [page.Tile("Epochs", f"{len(run.rows)} of {run.config['num_epochs']}", None)]
  last = run.rows[-1] if run.rows else {}
  for metric in (
    *("val_accuracy", "val_loss", "val_objective"),
    *("train_accuracy", "train_loss", "train_objective"),
  ):
    if metric in last:
      figure = curves.EPOCH_FIGURES[metric]
      value = number_cell(last[metric], figure.style).content
      tiles.append(page.Tile(figure.title.capitalize(), value, f"after epoch {last['epoch']}"))
  return tiles


def _make_selection(run: RunRecord) -> list[Html]:
  explanation = {
    "validation": "Validation images are held out of the training images.",
    "test": "The test figures describe these same images, so they are optimistic.",
    "training": "Training metrics decided; neither validation nor test images did.",
    "nothing": "Neither validation nor test images decided anything.",
  }[run.selected_on]
  names = {"validation": "validation images", "test": "the test set"}
  selected_on = names.get(run.selected_on, run.selected_on)
  chip = "chip bad" if run.selected_on == "test" else "chip"
  num_images = [
    f"{run.dataset[f'{split}_examples']:,} {split}"
    for split in ("train", "validation", "test")
    if run.dataset.get(f"{split}_examples")
  ]
  monitors: list[tuple[str, Content]] = []
  for name, title in (("early_stopping", "Early stopping"), ("plateau", "Plateau")):
    settings = run.config[name]
    if settings["monitor"]:
      monitors.append((title, f"by {settings['monitor']}, patience {settings['patience']} epochs"))
  return [
    page.facts(
      [
        ("Weights", f"of {_describe_epoch(run)}"),
        (
          "Selected on",
          [
            tag("span", selected_on, class_=chip),
            " ",
            explanation,
          ],
        ),
        *monitors,
        ("Images", ", ".join(num_images) or None),
        ("Test images", _describe_test_uses(run)),
      ]
    )
  ]


def _describe_test_uses(run: RunRecord) -> str:
  """Return how often the test images were used, and the latest uses."""
  official = test_uses.OFFICIAL
  uses = [use for use in test_uses.uses(run.path) if use.get("test_set", official) == official]
  latest = [f"{use.get('mode', '?')}: {use.get('purpose', '?')}" for use in uses[-_MAX_USES:]]
  if len(uses) > _MAX_USES:
    latest.insert(0, "…")
  summary = test_uses.describe(run.num_test_uses, "").strip()
  return f"{summary} ({'; '.join(latest)})" if latest else summary


def _describe_epoch(run: RunRecord) -> str:
  """Return in words which epoch's weights were, or will be, selected."""
  select, results = run.config["select"], run.results
  epoch = "the last epoch"
  if select["monitor"]:
    best = "highest" if select["mode"] == "max" else "lowest"
    epoch = f"the epoch in which {select['monitor']} was {best}"
  if not results:
    return epoch
  if len(results["seeds"]) > 1:
    return f"{epoch}, separately for each seed"
  if results["best_epoch"]:
    return f"{epoch}: epoch {results['best_epoch']} of {results['epochs_run']}"
  return "the start, because the metric was not finite in any epoch"


def _make_seeds(run: RunRecord) -> list[Html]:
  if len(run.seed_results) < 2:
    return []
  figures = select_figures([run])
  rows = [
    [
      number_cell(results["seed"], "d"),
      number_cell(results["best_epoch"], "d"),
      *(number_cell(results[metric], figure.style) for metric, figure in figures.items()),
    ]
    for results in run.seed_results
  ]
  means = [
    number_cell(run.results[metric], figure.style, run.results.get(f"{metric}_standard_error"))
    for metric, figure in figures.items()
  ]
  header = ["seed", "epoch selected", *(figure.title for figure in figures.values())]
  foot = [Cell("mean ± standard error", None), Cell("", None), *means]
  return [page.table(header, rows, [foot])]
