"""The text that `--mode=evaluate` prints."""

import numpy as np

from analysis.evaluate import evaluation_plots
from cifar_jax.runs import test_uses
from cifar_jax.runtime.text_table import format_table
from cifar_jax.types import Row


def format_evaluation(
  evaluation: Row, counts: np.ndarray, class_names: list[str], class_report: str
) -> str:
  """Return the figures of an evaluation as lines.

  Args:
    evaluation: the content of evaluation.json.
    counts: the confusion matrix [classes, classes].
    class_report: scikit-learn's classification report.
  """
  lines = [
    f"{evaluation['run']}: {evaluation['model']} on {evaluation['data']}, weights of step "
    f"{evaluation['step']} (seed {evaluation['seed']}), selected on {evaluation['selected_on']}",
    "",
    _format_splits(evaluation["splits"]),
    f"{test_uses.describe(evaluation['test_uses'])}, this evaluation included",
  ]
  if evaluation["selected_on"] == "test":
    lines.append("NOTE: selected on the test set, so the test figures are optimistic")
  recorded = evaluation["recorded"]
  if recorded and recorded.keys() >= {"test_accuracy", "test_loss"}:
    accuracy, loss = recorded["test_accuracy"], recorded["test_loss"]
    lines.append(
      f"results.json has test accuracy {accuracy['value']:.2%} and loss {loss['value']:.4f}: here "
      f"{_format_points(accuracy['difference'])} and {loss['difference']:+.4f}"
    )
  if len(class_names) <= evaluation_plots.MAX_CLASSES_WITH_COUNTS:
    rows = [[name, *map(str, row)] for name, row in zip(class_names, counts, strict=True)]
    table = format_table(["", *class_names], rows, right=range(len(class_names) + 1))
    lines += ["", "Confusion Matrix", table]
  lines += ["", "Classification Report", class_report.rstrip("\n"), ""]
  lines.append(_format_calibration(evaluation))
  if evaluation["test_time_augmentation"]:
    lines.append(_format_augmented(evaluation["test_time_augmentation"]))
  return "\n".join(lines)


def _format_splits(splits: dict[str, Row]) -> str:
  has_penalty = any("objective" in split for split in splits.values())
  rows = [
    [
      name,
      f"{split['examples']:,}",
      f"{split['loss']:.4f}",
      *([f"{split['objective']:.4f}"] if has_penalty else []),
      f"{split['accuracy']:.2%}",
      f"{split['top5']:.2%}",
    ]
    for name, split in splits.items()
  ]
  header = ["split", "images", "loss", *["loss + penalty"] * has_penalty, "top-1", "top-5"]
  return format_table(header, rows, right=range(1, len(header)))


def _format_calibration(evaluation: Row) -> str:
  calibration, test = evaluation["calibration"], evaluation["splits"]["test"]
  text = (
    f"Calibration: expected calibration error {calibration['ece']:.2%} "
    f"({len(calibration['bins'])} bins); mean probability {calibration['confidence']:.2%}, "
    f"accuracy {test['accuracy']:.2%}"
  )
  if scaling := evaluation["temperature_scaling"]:
    text += (
      f"\nWith the temperature {scaling['temperature']:.3f}, fitted on {scaling['fitted_on']:,} "
      f"validation images: expected calibration error {calibration['ece']:.2%} → "
      f"{scaling['calibration']['ece']:.2%}, test loss {test['loss']:.4f} → {scaling['loss']:.4f}"
    )
  return text


def _format_augmented(augmented: Row) -> str:
  gain = augmented["gain"]
  return (
    f"Test-time augmentation {augmented['kind']} ({augmented['views']} views): test accuracy "
    f"{augmented['accuracy']:.2%} ({_format_points(gain['accuracy'])}), loss "
    f"{augmented['loss']:.4f} ({gain['loss']:+.4f}), top-5 {augmented['top5']:.2%} "
    f"({_format_points(gain['top5'])}); the figures above are without it"
  )


def _format_points(difference: float) -> str:
  return f"{100 * difference:+.2f} points"
