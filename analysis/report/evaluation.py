"""The part of a run's page that `--mode=evaluate` has the figures for."""

import shlex
from typing import Any

import numpy as np
from etils import epath

from analysis.report import page, records
from analysis.report.page import Cell, Html, number, percent, tag, text
from analysis.report.records import Record

_MOST_CELLS = 20  # classes up to which the confusion matrix is a table
_MOST_PAIRS = 10  # of classes taken for one another


def sections(run: Record) -> dict[str, list[Html]]:
  """What `--mode=evaluate` has measured, or how to have it measured."""
  found, folder = run.evaluation, run.path / "evaluation"
  path = shlex.quote(str(run.path))
  command = tag("code", f"python main.py --mode=evaluate --workdir={path}")
  if not found:
    missing = "Not evaluated yet. For the confusion matrix, the figures by class, the mistakes and "
    then = " and make the report again."
    return {"Evaluation": [tag("p", missing, "the calibration, run ", command, then)]}
  before = []
  if found["evaluated"] < run.results.get("finished", ""):
    which = "Evaluated before the run finished, so perhaps with other weights: run "
    before = [page.notice(which, command, " and make the report again.", bad=True)]
  return {
    "Evaluation": [*before, *_splits(run)],
    "Confusion matrix": _confusion(folder),
    "Classes": _classes(run, folder),
    "Mistakes": _mistakes(run, folder),
    "Calibration": _calibration(run),
  }


def _splits(run: Record) -> list[Html]:
  found = run.evaluation
  header = ["split", "images", "accuracy", *["top-5"] * run.has_top5, "loss"]

  def line(name: str, count: int, figures: dict[str, float]) -> list[Cell]:
    top5 = [percent(figures["top5"])] if run.has_top5 else []
    loss = number(figures["loss"], ".4f")
    return [text(name), number(count), percent(figures["accuracy"]), *top5, loss]

  rows = [line(name, split["examples"], split) for name, split in found["splits"].items()]
  seed = f" of seed {found['seed']}" if run.config["num_seeds"] > 1 else ""
  notes = [f"The weights of step {found['step']:,}{seed}, on images as they are."]
  recorded = (found["recorded"] or {}).get("test_accuracy")
  if recorded:
    off = recorded["difference"]
    notes.append(
      f"The test accuracy is {100 * off:+.2f} points from that in results.json."
      if abs(off) >= 5e-5
      else "The test accuracy is that in results.json."
    )
  if tta := found["test_time_augmentation"]:
    rows.append(line(f"test, {tta['kind']}", found["splits"]["test"]["examples"], tta))
    notes.append(
      f"Test-time augmentation, the mean over {tta['views']} views of each image, changes the test "
      f"accuracy by {100 * tta['gain']['accuracy']:+.2f} points; all else here is without it."
    )
  return [page.table(header, rows), tag("p", " ".join(notes), class_="soft")]


def _confusion(folder: epath.Path) -> list[Html]:
  found, picture = records.read_json(folder / "confusion_matrix.json"), []
  if (file := folder / "confusion_matrix.png").exists():
    picture = [page.image(file, "confusion matrix")]
  if not found:
    return picture
  names, counts = found["class_names"], np.array(found["counts"])
  wrong = counts * (1 - np.eye(len(names), dtype=int))
  places = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS]
  pairs = [(i, j) for i, j in zip(*np.unravel_index(places, wrong.shape), strict=True)]
  rows = [
    [
      text(names[i]),
      text(names[j]),
      number(int(wrong[i, j])),
      number(float(wrong[i, j] / counts[i].sum()), ".1%"),
    ]
    for i, j in pairs
    if wrong[i, j]
  ]
  often = [
    tag("h3", "Most often mistaken"),
    page.table(["true", "predicted", "images", "share"], rows),
  ]
  if len(names) > _MOST_CELLS:
    return picture + often
  told = "A row for each true class, a column for each predicted one. Colour: the share of the row."
  matrix = tag("div", tag("div", _matrix(names, counts), class_="scroll", tabindex=0))
  return [
    tag("p", told, class_="soft"),
    tag("div", matrix, tag("div", often if rows else None), class_="beside"),
  ]


def _matrix(names: list[str], counts: np.ndarray) -> Html:
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)

  def cell(i: int, j: int) -> Html:
    count, share = int(counts[i, j]), float(shares[i, j])
    # Mistakes are rarer than hits, and would hardly be seen on the same scale.
    strength = share if i == j else min(1.0, 2.5 * share)
    kinds = ["wrong"] * (i != j) + ["dense"] * (strength > 0.55) + ["none"] * (count == 0)
    return tag(
      "td",
      f"{count}",
      class_=" ".join(kinds) or None,
      style=f"--share:{strength:.3f}",
      title=f"{names[i]}, predicted {names[j]}: {count:,} ({share:.1%})",
    )

  heads = [tag("th", tag("span", name), scope="col") for name in names]
  lines = [
    tag("tr", tag("th", name, scope="row"), [cell(i, j) for j in range(len(names))])
    for i, name in enumerate(names)
  ]
  head = tag("thead", tag("tr", tag("th", "true", tag("br"), "↓  predicted →"), heads))
  return tag("table", head, tag("tbody", lines), class_="confusion")


def _classes(run: Record, folder: epath.Path) -> list[Html]:
  found = records.read_json(folder / "classification_report.json")
  if not found:
    return []

  def line(name: str, title: str) -> list[Cell]:
    figures = [percent(found[name][kind]) for kind in ("precision", "recall", "f1-score")]
    return [text(title), *figures, number(int(found[name]["support"]))]

  header = ["class", "precision", "recall", "F1", "test images"]
  rows = [line(name, name) for name in run.class_names if isinstance(found.get(name), dict)]
  foot = [line("macro avg", "mean of classes")] if "macro avg" in found else []
  return [page.table(header, rows, foot)]


def _mistakes(run: Record, folder: epath.Path) -> list[Html]:
  mistakes = run.evaluation["mistakes"]
  if not mistakes:
    return [tag("p", "None: every test image is classified correctly.")]
  picture = folder / "mistakes.png"
  told = "The test images that the network is wrong about and was surest of: what it says, how "
  rows = [
    [
      text(mistake["predicted"]),
      percent(mistake["probability"]),
      text(mistake["true"]),
      number(mistake["test_image"], "d"),
    ]
    for mistake in mistakes
  ]
  table = page.table(["predicted", "probability", "true", "test image"], rows)
  return [
    tag("p", told, "probable it holds that, and what is true.", class_="soft"),
    *([page.image(picture, "the most confident mistakes")] if picture.exists() else []),
    tag("details", tag("summary", "As a table"), table),
  ]


def _calibration(run: Record) -> list[Html]:
  found, accuracy = run.evaluation["calibration"], run.evaluation["splits"]["test"]["accuracy"]
  filled = [b for b in found["bins"] if b["count"]]
  low = [b["low"] for b in filled]
  width = 0.9 * (found["bins"][0]["high"] - found["bins"][0]["low"])
  total = sum(b["count"] for b in filled)

  def reliability(axis: Any) -> None:
    right = [b["accuracy"] for b in filled]
    axis.bar(low, right, width, align="edge", color=page.COLOURS[0])
    axis.plot([b["confidence"] for b in filled], right, "o", color=page.COLOURS[1], markersize=3.5)
    axis.plot([0, 1], [0, 1], color=page.BETWEEN, ls="--", lw=1.2)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="accuracy")

  def histogram(axis: Any) -> None:
    axis.bar(low, [b["count"] / total for b in filled], width, align="edge", color=page.COLOURS[0])
    axis.axvline(found["confidence"], color=page.COLOURS[1], lw=1.6)
    axis.set(xlim=(0, 1), xlabel="probability", ylabel="share of images")

  charts = [
    page.chart("How often it is right", "accuracy by probability", reliability),
    page.chart("How sure it is", "share of images by probability", histogram),
  ]
  notes = (
    "Of the test images, by the probability of the predicted class. A network that is as often "
    "right as it is sure has its dots, at the mean probability of each bar, on the dashed line. On "
    "the histogram the line is the mean."
  )
  return [
    page.facts(
      [
        ("Expected calibration error", f"{found['ece']:.2%} ({len(found['bins'])} bins)"),
        ("Mean probability", f"{found['confidence']:.2%}, where {accuracy:.2%} are right"),
      ]
    ),
    tag("div", charts, class_="charts"),
    tag("p", notes, class_="soft"),
  ]
