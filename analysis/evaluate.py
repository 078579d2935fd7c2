"""What the selected weights of a run do on its data, in numbers and pictures: `--mode=evaluate`.

Everything goes into `<run>/evaluation/`:

  evaluation.json             loss, top-1 and top-5 of each split, calibration, mistakes, the gain
                              of test-time augmentation, the distance from results.json
  classification_report.txt   precision, recall and F1 by class, as scikit-learn prints them
  classification_report.json  the same as numbers
  confusion_matrix.json/.png  counts: a row for each true class, a column for each predicted one
  reliability.png             how often the network is right when it is so sure
  mistakes.png                the test images that it was surest of and wrong about
  predictions.npz             'logits' [n, classes] float32 and 'labels' [n] of the test images

All but the table of splits is about the test images, and without test-time augmentation.
"""

import contextlib
import datetime
import functools
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.special
from etils import epath

from analysis import evaluation_plots
from analysis.run import Run, load_run
from cifar_jax import errors
from cifar_jax.augment.test_time import KINDS, predict_logits
from cifar_jax.data import datasets
from cifar_jax.runs import results, run_folder
from cifar_jax.runtime.console import progress

BINS = 15
_AT_ONCE = 1000  # images between two steps of the progress bar


def evaluate(workdir: str | os.PathLike, seed: int | None = None, tta: str = "") -> dict[str, Any]:
  """Measures the selected weights on every split, and writes `<workdir>/evaluation/`.

  Args:
    workdir: the run folder; the run may still be going on.
    seed: of a run with several seeds, whose weights to take; None for the first.
    tta: test-time augmentation of the test images, one of test_time.KINDS; "" for none.

  Returns:
    'evaluation': what evaluation.json holds; 'text': what to print; 'files': what was written.

  Raises:
    UserError: the folder holds no trained run, its data cannot be had, or it cannot be written.
  """
  if tta and tta not in KINDS:
    raise errors.UserError(f"tta: there is no {tta!r}; take one of: {', '.join(KINDS)}")
  run = load_run(workdir, seed)
  dataset, splits = run.load_data()
  folder = run.path / "evaluation"
  with _told(folder):
    folder.mkdir(exist_ok=True)  # what cannot be written is known before the work

  found: dict[str, dict[str, Any]] = {}
  for name in ("train", "validation", "test"):
    examples = getattr(splits, name)
    if not len(examples):
      continue
    split, rows = _rows(dataset, examples)
    logits, labels = _logits(run, f"evaluate {name}", split.images, rows), split.labels[rows]
    found[name] = {"examples": len(rows)} | measure(logits, labels)
  images = split.images  # of the test split, which came last, in its official order
  predicted = logits.argmax(1)
  probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
  names = run.class_names
  report = classification_report(labels, predicted, names)
  counts = confusion(labels, predicted, len(names))
  evaluation = {
    "run": run.name,
    "model": run.config.model.name,
    "data": run.description["name"],
    "seed": run.seed,
    "step": run.step,
    "selected_on": results.selected_on(run.config),
    "splits": found,
    "calibration": calibration(probabilities, labels),
    "test_time_augmentation": _augmented(run, tta, images, labels, found["test"]) if tta else None,
    "recorded": _recorded(run, found),
    "mistakes": _mistakes(probabilities, labels, names),
    "device": results.device(),
    "evaluated": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }
  with _staged(folder) as stage:
    np.savez(buffer := io.BytesIO(), logits=logits, labels=labels)
    (stage / "predictions.npz").write_bytes(buffer.getvalue())
    (stage / "classification_report.txt").write_text(report["text"])
    _write_json(stage / "classification_report.json", report["numbers"])
    matrix = {"class_names": names, "rows": "true", "columns": "predicted"}
    _write_json(stage / "confusion_matrix.json", matrix | {"counts": counts.tolist()})
    title = f"{run.name}: {len(labels):,} test images"
    heading = f"{title}\n{found['test']['accuracy']:.2%} right"
    evaluation_plots.confusion_matrix(counts, names, heading, stage / "confusion_matrix.png")
    evaluation_plots.reliability(evaluation["calibration"], title, stage / "reliability.png")
    evaluation_plots.mistakes(images, evaluation["mistakes"], title, stage / "mistakes.png")
    _write_json(stage / "evaluation.json", evaluation)
    files = sorted(path.name for path in stage.iterdir())
  text = _summary(evaluation, counts, names, report["text"])
  return {
    "evaluation": evaluation,
    "text": f"{text}\n\nwrote {folder}: {', '.join(files)}",
    "files": [str(folder / name) for name in files],
  }


# What is measured.


def measure(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Mean cross-entropy, and the shares of images whose class is the likeliest or among five.

  As in results.json; computed in float64.

  Args:
    logits: [n, classes]; log-probabilities will do.
    labels: [n] integers.
  """
  log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
  of_label = np.take_along_axis(log_p, labels[:, None].astype(np.int64), axis=1)
  return {
    "loss": float(-of_label.mean()),
    "accuracy": float(np.mean(logits.argmax(1) == labels)),
    "top5": float(np.mean(np.sum(log_p > of_label, axis=1) < 5)),
  }


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> dict[str, Any]:
  """Whether the network is as often right as it is sure (Guo et al. 2017, arXiv:1706.04599).

  Images are sorted into bins of equal width by the probability of the predicted class, upper edges
  included. The expected calibration error (ECE) is the mean distance, over images, of a bin's
  accuracy from its mean probability.

  Args:
    probabilities: [n, classes].
    labels: [n] integers.

  Returns:
    'ece'; 'confidence', the mean probability; 'bins', each with its edges 'low' and 'high', its
    'count', and 'confidence' and 'accuracy', which are None if it is empty.
  """
  sure = probabilities.max(1)
  right = probabilities.argmax(1) == labels
  edges = np.linspace(0, 1, bins + 1)
  of_image = np.digitize(sure, edges[1:-1], right=True)
  found, error = [], 0.0
  for i in range(bins):
    inside = of_image == i
    count = int(inside.sum())
    confidence = float(sure[inside].mean()) if count else None
    accuracy = float(right[inside].mean()) if count else None
    if count:
      error += count / len(labels) * abs(accuracy - confidence)
    edge = {"low": float(edges[i]), "high": float(edges[i + 1])}
    found.append(edge | {"count": count, "confidence": confidence, "accuracy": accuracy})
  return {"ece": error, "confidence": float(sure.mean()), "bins": found}


def classification_report(
  labels: np.ndarray, predicted: np.ndarray, names: list[str]
) -> dict[str, Any]:
  """scikit-learn's, as 'text' and as 'numbers'; zero where a class was never predicted."""
  from sklearn import metrics

  options = {"labels": range(len(names)), "target_names": names, "zero_division": 0}
  return {
    "text": metrics.classification_report(labels, predicted, **options),
    "numbers": metrics.classification_report(labels, predicted, output_dict=True, **options),
  }


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
  """Counts [classes, classes]: a row for each true class, a column for each predicted one."""
  from sklearn import metrics

  return metrics.confusion_matrix(labels, predicted, labels=range(classes))


def _augmented(
  run: Run, kind: str, images: np.ndarray, labels: np.ndarray, plain: dict[str, float]
) -> dict[str, Any]:
  """The test figures with test-time augmentation, and what is gained over `plain`."""
  count = KINDS[kind].num_views
  combined = functools.partial(predict_logits, run.logits, kind=kind)
  rows = np.arange(len(labels))
  found = measure(_over(images, rows, combined, f"evaluate test, {count} views"), labels)
  gain = {name: found[name] - plain[name] for name in found}
  return {"kind": kind, "views": count, **found, "gain": gain}


def _mistakes(
  probabilities: np.ndarray, labels: np.ndarray, names: list[str]
) -> list[dict[str, Any]]:
  """The wrong predictions with the highest probabilities, as many as mistakes.png shows."""
  predicted, sure = probabilities.argmax(1), probabilities.max(1)
  wrong = np.flatnonzero(predicted != labels)
  surest = wrong[np.argsort(-sure[wrong], kind="stable")][: evaluation_plots.GRID**2]
  return [
    {
      "test_image": int(i),
      "true": names[labels[i]],
      "predicted": names[predicted[i]],
      "probability": float(sure[i]),
    }
    for i in surest
  ]


def _recorded(run: Run, found: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
  """What results.json holds of this seed and how far `found` is from it; None while unfinished."""
  with run_folder.reading(run.path / "results.json"):
    return _differences(run, found)


def _differences(run: Run, found: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
  recorded = run.results
  if recorded is None:
    return None
  of_seed = [own for own in recorded.get("per_seed", ()) if own["seed"] == run.seed]
  recorded = of_seed[0] if of_seed else recorded
  told = {}
  for split, short in (("train", "train"), ("validation", "val"), ("test", "test")):
    for name in ("loss", "accuracy", "top5"):
      there = recorded.get(f"{short}_{name}")
      if there is not None and split in found:
        told[f"{short}_{name}"] = {"value": there, "difference": found[split][name] - there}
  return told


def _rows(dataset: datasets.Dataset, examples: np.ndarray) -> tuple[datasets.Split, np.ndarray]:
  """The official split that examples, numbered over both, belong to, and their rows in it."""
  first = len(dataset.train.labels)
  return (dataset.test, examples - first) if examples[0] >= first else (dataset.train, examples)


def _logits(run: Run, what: str, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
  return _over(images, rows, run.logits, what)


def _over(
  images: np.ndarray, rows: np.ndarray, function: Callable[[np.ndarray], np.ndarray], what: str
) -> np.ndarray:
  """`function` of the images in these rows, some at a time, with progress told."""
  found = []
  with progress(what, len(rows), "images") as advance:
    for start in range(0, len(rows), _AT_ONCE):
      found.append(function(images[rows[start : start + _AT_ONCE]]))
      advance(len(found[-1]))
  return np.concatenate(found)


# What is written.


@contextlib.contextmanager
def _staged(folder: epath.Path) -> Iterator[epath.Path]:
  """A folder to write in, whose files then take their places in `folder`, evaluation.json last."""
  stage = folder / f".{os.getpid()}"  # inside, since a bucket has no empty folder to move into
  try:
    with _told(folder):
      stage.mkdir(exist_ok=True)
      yield stage
      for path in sorted(stage.iterdir(), key=lambda path: path.name == "evaluation.json"):
        path.replace(folder / path.name)
  finally:
    if stage.exists():
      stage.rmtree()


@contextlib.contextmanager
def _told(folder: epath.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f"{folder}: cannot be written ({error.strerror or error}); mend that and evaluate again"
    ) from error


def _write_json(path: epath.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n")


# What is printed.


def _summary(evaluation: dict[str, Any], counts: np.ndarray, names: list[str], report: str) -> str:
  found = evaluation["splits"]
  lines = [
    f"{evaluation['run']}: {evaluation['model']} on {evaluation['data']}, weights of step "
    f"{evaluation['step']} (seed {evaluation['seed']}), selected on {evaluation['selected_on']}",
    "",
    f"{'split':<12}{'images':>8}{'loss':>10}{'top-1':>10}{'top-5':>10}",
  ]
  lines += [
    f"{name:<12}{f['examples']:>8,}{f['loss']:>10.4f}{f['accuracy']:>10.2%}{f['top5']:>10.2%}"
    for name, f in found.items()
  ]
  if evaluation["selected_on"] == "test":
    lines.append("NOTE: selected on the test set, so the test figures are optimistic")
  recorded = evaluation["recorded"]
  if recorded and recorded.keys() >= {"test_accuracy", "test_loss"}:
    accuracy, loss = recorded["test_accuracy"], recorded["test_loss"]
    lines.append(
      f"results.json has test accuracy {accuracy['value']:.2%} and loss {loss['value']:.4f}: here "
      f"{_points(accuracy['difference'])} and {loss['difference']:+.4f}"
    )
  if len(names) <= evaluation_plots.MOST_COUNTS:
    cells = [["", *names], *([n, *map(str, row)] for n, row in zip(names, counts, strict=True))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines += ["", "Confusion Matrix"]
    lines += [
      "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells
    ]
  lines += ["", "Classification Report", report.rstrip("\n"), ""]
  sure = evaluation["calibration"]
  lines.append(
    f"Calibration: expected calibration error {sure['ece']:.2%} ({BINS} bins); mean probability "
    f"{sure['confidence']:.2%}, accuracy {found['test']['accuracy']:.2%}"
  )
  if tta := evaluation["test_time_augmentation"]:
    gain = tta["gain"]
    lines.append(
      f"Test-time augmentation {tta['kind']} ({tta['views']} views): test accuracy "
      f"{tta['accuracy']:.2%} ({_points(gain['accuracy'])}), loss {tta['loss']:.4f} "
      f"({gain['loss']:+.4f}), top-5 {tta['top5']:.2%} ({_points(gain['top5'])}); the figures "
      "above are without"
    )
  return "\n".join(lines)


def _points(difference: float) -> str:
  return f"{100 * difference:+.2f} points"
