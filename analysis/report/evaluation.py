"""The sections of a run's page whose figures come from `--mode=evaluate`."""

import shlex
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from analysis.report import page
from analysis.report.page import Cell, Html, number_cell, percent_cell, tag, text_cell
from analysis.run_record import RunRecord, read_json_if_present
from cifar_jax.types import Row

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_MAX_CLASSES = 20  # with more, the confusion matrix is a picture instead of a table
_MAX_CONFUSIONS = 10  # pairs of classes in the list of confusions


def make_sections(run: RunRecord) -> dict[str, list[Html]]:
  """Return the sections by heading; without an evaluation, the command that makes one."""
  evaluation, folder = run.evaluation, run.path / "evaluation"
  path = shlex.quote(str(run.path))
  command = tag("code", f"python main.py --mode=evaluate --workdir={path}")
  other_test_sets = {"Other test sets": _make_test_sets(run, folder)}
  if not evaluation:
    missing = "Not evaluated yet. For the confusion matrix, the figures by class, the mistakes and "
    then = " and make the report again."
    hint = tag("p", missing, "the calibration, run ", command, then)
    return {"Evaluation": [hint], **other_test_sets}
  notices = []
  if evaluation["evaluated"] < run.results.get("finished", ""):
    reason = "Evaluated before the run finished, so perhaps with other weights: run "
    notices = [page.notice(reason, command, " and make the report again.", bad=True)]
  return {
    "Evaluation": [*notices, *_make_splits(run)],
    "Confusion matrix": _make_confusions(folder),
    "Classes": _make_classes(run, folder),
    "Mistakes": _make_mistakes(run, folder),
    "Calibration": _make_calibration(run),
    **other_test_sets,
  }


def _make_splits(run: RunRecord) -> list[Html]:
  evaluation = run.evaluation
  splits = evaluation["splits"]
  has_penalty = any("objective" in split for split in splits.values())
  header = ["split", "images", "accuracy", *["top-5"] * run.has_top5, "loss"]
  header += ["objective (loss + penalty)"] * has_penalty

  def make_row(name: str, count: int, measures: Row) -> list[Cell]:
    top5 = [percent_cell(measures["top5"])] if run.has_top5 else []
    loss = number_cell(measures["loss"], ".4f")
    accuracy = percent_cell(measures["accuracy"])
    objective = [number_cell(measures.get("objective"), ".4f")] * has_penalty
    return [text_cell(name), number_cell(count), accuracy, *top5, loss, *objective]

  rows = [make_row(name, split["examples"], split) for name, split in splits.items()]
  seed = f" of seed {evaluation['seed']}" if run.config["num_seeds"] > 1 else ""
  notes = [f"The weights of step {evaluation['step']:,}{seed}, on images without augmentation."]
  recorded = (evaluation["recorded"] or {}).get("test_accuracy")
  if recorded:
    difference = recorded["difference"]
    notes.append(
      f"The test accuracy differs by {100 * difference:+.2f} points from that in results.json."
      if abs(difference) >= 5e-5
      else "The test accuracy equals that in results.json."
    )
  if tta := evaluation["test_time_augmentation"]:
    rows.append(make_row(f"test, {tta['kind']}", splits["test"]["examples"], tta))
    notes.append(
      f"Test-time augmentation, the mean over {tta['views']} views of each image, changes the test "
      f"accuracy by {100 * tta['gain']['accuracy']:+.2f} points; all other figures are without it."
    )
  return [page.table(header, rows), tag("p", " ".join(notes), class_="soft")]


def _make_confusions(folder: epath.Path) -> list[Html]:
  picture = []
  if (file := folder / "confusion_matrix.png").exists():
    picture = [page.image(file, "confusion matrix")]
  confusions = read_json_if_present(folder / "confusion_matrix.json")
  if not confusions:
    return picture
  names, counts = confusions["class_names"], np.array(confusions["counts"])
  wrong = counts * (1 - np.eye(len(names), dtype=int))
  largest = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSIONS]
  rows = [
    [
      text_cell(names[i]),
      text_cell(names[j]),
      number_cell(int(wrong[i, j])),
      number_cell(float(wrong[i, j] / counts[i].sum()), ".1%"),
    ]
    for i, j in zip(*np.unravel_index(largest, wrong.shape), strict=True)
    if wrong[i, j]
  ]
  most_frequent = [
    tag("h3", "Most frequent confusions"),
    page.table(["true", "predicted", "images", "share"], rows),
  ]
  if len(names) > _MAX_CLASSES:
    return picture + most_frequent
  note = "A row for each true class, a column for each predicted one. Colour: the share of the row."
  matrix = tag("div", tag("div", _make_matrix(names, counts), class_="scroll", tabindex=0))
  return [
    tag("p", note, class_="soft"),
    tag("div", matrix, tag("div", most_frequent if rows else None), class_="columns"),
  ]


def _make_matrix(names: list[str], counts: np.ndarray) -> Html:
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)

  def make_cell(i: int, j: int) -> Html:
    count, share = int(counts[i, j]), float(shares[i, j])
    # Wrong predictions are rare: on the same scale as correct ones they would be invisible.
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
    tag("tr", tag("th", name, scope="row"), [make_cell(i, j) for j in range(len(names))])
    for i, name in enumerate(names)
  ]
  head = tag("thead", tag("tr", tag("th", "true", tag("br"), "↓  predicted →"), heads))
  return tag("table", head, tag("tbody", lines), class_="confusion")


def _make_classes(run: RunRecord, folder: epath.Path) -> list[Html]:
  classes = read_json_if_present(folder / "classification_report.json")
  if not classes:
    return []

  def make_row(name: str, title: str) -> list[Cell]:
    measures = [percent_cell(classes[name][kind]) for kind in ("precision", "recall", "f1-score")]
    return [text_cell(title), *measures, number_cell(int(classes[name]["support"]))]

  header = ["class", "precision", "recall", "F1", "test images"]
  rows = [make_row(name, name) for name in run.class_names if isinstance(classes.get(name), dict)]
  foot = [make_row("macro avg", "mean of classes")] if "macro avg" in classes else []
  return [page.table(header, rows, foot)]


def _make_mistakes(run: RunRecord, folder: epath.Path) -> list[Html]:
  mistakes = run.evaluation["mistakes"]
  if not mistakes:
    return [tag("p", "None: every test image is classified correctly.")]
  picture = folder / "mistakes.png"
  note = "The wrong predictions on test images with the highest probabilities."
  rows = [
    [
      text_cell(mistake["predicted"]),
      percent_cell(mistake["probability"]),
      text_cell(mistake["true"]),
      number_cell(mistake["test_image"], "d"),
    ]
    for mistake in mistakes
  ]
  table = page.table(["predicted", "probability", "true", "test image"], rows)
  return [
    tag("p", note, class_="soft"),
    *([page.image(picture, "the most confident mistakes")] if picture.exists() else []),
    tag("details", tag("summary", "As a table"), table),
  ]


def _make_calibration(run: RunRecord) -> list[Html]:
  calibration = run.evaluation["calibration"]
  accuracy = run.evaluation["splits"]["test"]["accuracy"]
  bins, confidence = calibration["bins"], calibration["confidence"]
  filled = [b for b in bins if b["count"]]
  low_edges = [b["low"] for b in filled]
  width = 0.9 * (bins[0]["high"] - bins[0]["low"])
  total = sum(b["count"] for b in filled)

  def draw_reliability(axis: "Axes") -> None:
    heights = [b["accuracy"] for b in filled]
    means = [b["confidence"] for b in filled]
    axis.bar(low_edges, heights, width, align="edge", color=page.COLOURS[0])
    axis.plot(means, heights, "o", color=page.COLOURS[1], markersize=3.5)
    axis.plot([0, 1], [0, 1], color=page.GREY, ls="--", lw=1.2)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="accuracy")

  def draw_histogram(axis: "Axes") -> None:
    shares = [b["count"] / total for b in filled]
    axis.bar(low_edges, shares, width, align="edge", color=page.COLOURS[0])
    axis.axvline(confidence, color=page.COLOURS[1], lw=1.6)
    axis.set(xlim=(0, 1), xlabel="probability", ylabel="share of images")

  charts = [
    page.chart("Accuracy by probability", "accuracy by probability", draw_reliability),
    page.chart("Images by probability", "share of images by probability", draw_histogram),
  ]
  notes = (
    "Test images, by the probability of the predicted class. Each dot is at the mean probability "
    "of its bar; the dots of a calibrated network lie on the dashed line. The line of the "
    "histogram is the mean probability."
  )
  scaled = None
  if scaling := run.evaluation.get("temperature_scaling"):
    scaled = (
      f"T = {scaling['temperature']:.3f}, fitted on {scaling['fitted_on']:,} validation images: "
      f"expected calibration error {scaling['calibration']['ece']:.2%}, test loss "
      f"{scaling['loss']:.4f} instead of {run.evaluation['splits']['test']['loss']:.4f}"
    )
  return [
    page.facts(
      [
        ("Expected calibration error", f"{calibration['ece']:.2%} ({len(bins)} bins)"),
        ("Mean probability", f"{confidence:.2%}; the accuracy is {accuracy:.2%}"),
        ("Temperature scaling", scaled),
      ]
    ),
    tag("div", charts, class_="charts"),
    tag("p", notes, class_="soft"),
  ]


def _make_test_sets(run: RunRecord, folder: epath.Path) -> list[Html]:
  """Return the figures of each evaluation on another test set; [] if there is none.

  A corruption has several parts, one for each severity. Its accuracy is that over all their images;
  its calibration error is the mean of those of the parts, weighted by their numbers of images.
  """
  content: list[Html] = []
  for file in sorted(folder.glob("test_set_*.json")):
    record = read_json_if_present(file)
    by_name: dict[str, list[Row]] = {}
    for part in record["parts"]:
      by_name.setdefault(part["corruption"], []).append(part)
    # A test set without corruptions is a single part, whose name is ''.
    heading = "corruption" if any(by_name) else "test set"
    header = [heading, "images", "accuracy", "expected calibration error"]
    rows = [
      _make_test_set_row(name or record["test_set"], parts) for name, parts in by_name.items()
    ]
    content += [tag("h3", record["test_set"]), page.table(header, rows)]
    if (error := record.get("mean_corruption_error")) is not None:
      count = len(record["counted_corruptions"])
      note = f"Mean corruption error {error:.2%}, over {count} corruptions and 5 severities."
      content.append(tag("p", note, class_="soft"))
  return content


def _make_test_set_row(name: str, parts: list[Row]) -> list[Cell]:
  """Return the number of images of some parts, and their means weighted by that number."""
  counts = [part["examples"] for part in parts]
  accuracy, ece = (
    float(np.average([part[key] for part in parts], weights=counts)) for key in ("accuracy", "ece")
  )
  return [text_cell(name), number_cell(sum(counts)), percent_cell(accuracy), percent_cell(ece)]
