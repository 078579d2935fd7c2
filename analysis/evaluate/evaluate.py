"""Evaluate the selected weights of a run on its dataset: `--mode=evaluate`.

The mode writes these files to `<run>/evaluation/`:

  evaluation.json             loss, top-1 and top-5 of each split, with an L2 penalty also the
                              objective (loss + penalty); calibration, mistakes, the gain of
                              test-time augmentation, the differences from results.json
  classification_report.txt   precision, recall and F1 of each class, in scikit-learn's layout
  classification_report.json  the same as numbers
  confusion_matrix.json/.png  counts: a row for each true class, a column for each predicted one
  reliability.png             accuracy by confidence
  mistakes.png                the wrong predictions with the highest confidence
  predictions.npz             'logits' [n, classes] float32 and 'labels' [n] of the test images, and
                              if the run has a validation split 'validation_logits' and
                              'validation_labels'

Except for the table of splits, all figures describe the test images without test-time augmentation.
"""

import contextlib
import datetime
import functools
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from analysis.evaluate import evaluation_plots, measures
from analysis.evaluate.evaluation_text import format_evaluation
from analysis.evaluate.measures import Predictions
from analysis.evaluate.predictions import Labelled, map_images, predict_examples
from analysis.files import explain_failure
from analysis.run import Run, load_run
from cifar_jax.augment import test_time
from cifar_jax.data import datasets
from cifar_jax.data.splits import Splits
from cifar_jax.optim import optimizers
from cifar_jax.runs import results, run_folder, test_uses
from cifar_jax.types import Row


def evaluate(workdir: str | os.PathLike, seed: int | None = None, tta: str = "") -> Row:
  """Measure the selected weights on every split, and write `<workdir>/evaluation/`.

  Args:
    workdir: the run folder; the run may be unfinished.
    seed: the seed whose weights to use, for runs with several seeds; None for the first.
    tta: test-time augmentation of the test images, one of test_time.KINDS; "" for none.

  Returns:
    'evaluation': the content of evaluation.json; 'text': what to print; 'files': the written files.

  Raises:
    UserError: the folder holds no trained run, its dataset is unavailable, or a file cannot be
      written.
  """
  test_time.check_kind(tta)
  run = load_run(workdir, seed)
  dataset, splits = run.load_data()
  folder = run.path / "evaluation"
  with _writing(folder):
    folder.mkdir(exist_ok=True)  # fails before the computation if the folder cannot be written

  weights = f"seed {run.seed}, step {run.step}"
  test_uses.record(run.path, "evaluate", f"selected weights ({weights})")
  if tta:
    test_uses.record(run.path, "evaluate", f"test-time augmentation {tta} ({weights})")
  split_measures, predictions = _measure_splits(run, dataset, splits)
  # The test split holds all of its images in their official order.
  test = Predictions(dataset.test.images, *predictions["test"])
  evaluation = _describe(run, split_measures, test, tta)
  evaluation["temperature_scaling"] = _scale(run, predictions)
  counts = measures.count_confusions(test.labels, test.classes, len(run.class_names))
  class_report = measures.report_classes(test.labels, test.classes, run.class_names)
  files = _write_files(folder, run, test, predictions, evaluation, counts, class_report)
  text = format_evaluation(evaluation, counts, run.class_names, class_report["text"])
  return {
    "evaluation": evaluation,
    "text": f"{text}\n\nwrote {folder}: {', '.join(files)}",
    "files": [str(folder / name) for name in files],
  }


def _measure_splits(
  run: Run, dataset: datasets.Dataset, splits: Splits
) -> tuple[dict[str, Row], dict[str, Labelled]]:
  """Return the measures and the predictions of each split that has examples."""
  split_measures: dict[str, Row] = {}
  predictions: dict[str, Labelled] = {}
  penalty = float(optimizers.l2_penalty(run.variables["params"], run.config.loss.l2))
  for name in ("train", "validation", "test"):
    examples = getattr(splits, name)
    if not len(examples):
      continue
    labelled = predict_examples(run, dataset, examples, f"evaluate {name}")
    measured = measures.measure(labelled.logits, labelled.labels)
    if run.config.loss.l2:
      measured["objective"] = measured["loss"] + penalty
    split_measures[name] = {"examples": len(examples)} | measured
    predictions[name] = labelled
  return split_measures, predictions


def _scale(run: Run, predictions: dict[str, Labelled]) -> Row | None:
  """Return the test figures after temperature scaling; None without held-out validation images."""
  if "validation" not in predictions or run.config.data.validation == "test":
    return None
  labels, logits = predictions["validation"]
  temperature = measures.fit_temperature(logits, labels)
  if temperature is None:
    return None
  labels, logits = predictions["test"]
  scaled = logits / temperature
  return {
    "temperature": temperature,
    "fitted_on": len(predictions["validation"].labels),
    "loss": measures.measure(scaled, labels)["loss"],
    "calibration": measures.measure_calibration(measures.softmax(scaled), labels),
  }


def _describe(run: Run, split_measures: dict[str, Row], test: Predictions, tta: str) -> Row:
  """Return the content of evaluation.json."""
  probabilities, max_mistakes = test.probabilities(), evaluation_plots.GRID**2
  augmented = _measure_augmented(run, tta, test, split_measures["test"]) if tta else None
  with run_folder.reading(run.path / "results.json"):
    recorded = _compare_with_results(run, split_measures)
  return {
    "run": run.name,
    "model": run.config.model.name,
    "data": run.description["name"],
    "seed": run.seed,
    "step": run.step,
    "selected_on": results.selected_on(run.config),
    "test_uses": test_uses.count(run.path),
    "splits": split_measures,
    "calibration": measures.measure_calibration(probabilities, test.labels),
    "test_time_augmentation": augmented,
    "recorded": recorded,
    "mistakes": measures.find_mistakes(probabilities, test.labels, run.class_names, max_mistakes),
    "device": results.device(run.config.dtype),
    "evaluated": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }


def _measure_augmented(run: Run, kind: str, test: Predictions, plain: Row) -> Row:
  """Return the test measures with test-time augmentation, and their gain over `plain`."""
  num_views = test_time.KINDS[kind].num_views
  logits = map_images(
    functools.partial(run.logits, tta=kind),
    test.images,
    np.arange(len(test.labels)),
    f"evaluate test, {num_views} views",
  )
  augmented = measures.measure(logits, test.labels)
  gain = {name: augmented[name] - plain[name] for name in augmented}
  return {"kind": kind, "views": num_views, **augmented, "gain": gain}


def _compare_with_results(run: Run, split_measures: dict[str, Row]) -> Row | None:
  """Return the figures of this seed in results.json, and the measures' differences from them.

  The result is None while the run is unfinished.
  """
  recorded = run.results
  if recorded is None:
    return None
  for seed_results in recorded.get("per_seed", ()):
    if seed_results["seed"] == run.seed:
      recorded = seed_results
  comparison = {}
  for split, prefix in (("train", "train"), ("validation", "val"), ("test", "test")):
    for name in ("loss", "objective", "accuracy", "top5"):
      value = recorded.get(f"{prefix}_{name}")
      if value is not None and name in split_measures.get(split, ()):
        difference = split_measures[split][name] - value
        comparison[f"{prefix}_{name}"] = {"value": value, "difference": difference}
  return comparison


def _write_files(
  folder: epath.Path,
  run: Run,
  test: Predictions,
  predictions: dict[str, Labelled],
  evaluation: Row,
  counts: np.ndarray,
  class_report: Row,
) -> list[str]:
  """Write all files of the evaluation, and return their names, sorted."""
  names = run.class_names
  title = f"{run.name}: {len(test.labels):,} test images"
  accuracy = evaluation["splits"]["test"]["accuracy"]
  with _staged(folder) as stage:
    arrays: dict[str, Any] = {"logits": test.logits, "labels": test.labels}
    if "validation" in predictions:
      labels, logits = predictions["validation"]
      arrays |= {"validation_logits": logits, "validation_labels": labels}
    np.savez(buffer := io.BytesIO(), **arrays)
    (stage / "predictions.npz").write_bytes(buffer.getvalue())
    (stage / "classification_report.txt").write_text(class_report["text"])
    _write_json(stage / "classification_report.json", class_report["numbers"])
    matrix = {"class_names": names, "rows": "true", "columns": "predicted"}
    _write_json(stage / "confusion_matrix.json", matrix | {"counts": counts.tolist()})
    evaluation_plots.draw_confusion_matrix(
      counts, names, f"{title}\n{accuracy:.2%} correct", stage / "confusion_matrix.png"
    )
    evaluation_plots.draw_reliability(evaluation["calibration"], title, stage / "reliability.png")
    evaluation_plots.draw_mistakes(
      test.images, evaluation["mistakes"], title, stage / "mistakes.png"
    )
    _write_json(stage / "evaluation.json", evaluation)
    return sorted(path.name for path in stage.iterdir())


def _write_json(path: epath.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n")


@contextlib.contextmanager
def _staged(folder: epath.Path) -> Iterator[epath.Path]:
  """Yield a temporary folder, then move its files into `folder`, evaluation.json last."""
  # The temporary folder is inside `folder`, because a bucket has no empty folder to move into.
  stage = folder / f".{os.getpid()}"
  try:
    with _writing(folder):
      stage.mkdir(exist_ok=True)
      yield stage
      for path in sorted(stage.iterdir(), key=lambda path: path.name == "evaluation.json"):
        path.replace(folder / path.name)
  finally:
    if stage.exists():
      stage.rmtree()


def _writing(folder: epath.Path) -> contextlib.AbstractContextManager[None]:
  return explain_failure(f"{folder}:", "fix this, then evaluate again")
