"""Numbers that describe predictions: loss, accuracy, calibration, confusions and mistakes."""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

from cifar_jax.data.cache import Images
from cifar_jax.training.steps import rank_of_label
from cifar_jax.types import Row

NUM_BINS = 15


class Predictions(NamedTuple):
  """The predictions for one split.

  Attributes:
    images: [n, height, width, channels] uint8, or photos in files.
    labels: [n] integers.
    logits: [n, classes] float32.
  """

  images: Images
  labels: np.ndarray
  logits: np.ndarray

  @property
  def classes(self) -> np.ndarray:
    """The predicted class of each image, [n]."""
    return self.logits.argmax(1)

  def probabilities(self) -> np.ndarray:
    """Return probabilities [n, classes] float64."""
    return softmax(self.logits)


def softmax(logits: np.ndarray) -> np.ndarray:
  """Return probabilities [n, classes] float64."""
  return scipy.special.softmax(logits.astype(np.float64), axis=1)


def measure(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Return 'loss' (mean cross-entropy, in float64), 'accuracy' and 'top5'.

  They are defined as in results.json: among equal logits the class with the lower number comes
  first, and an example with a logit that is not finite counts as wrong.

  Args:
    logits: [n, classes]; log-probabilities give the same result.
    labels: [n] integers.
  """
  ranks = np.asarray(rank_of_label(logits, labels))
  return {
    "loss": measure_loss(logits, labels),
    "accuracy": float(np.mean(ranks == 0)),
    "top5": float(np.mean(ranks < 5)),
  }


def measure_loss(logits: np.ndarray, labels: np.ndarray) -> float:
  """Return the mean cross-entropy, in float64; the arguments are those of `measure`."""
  log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
  columns = labels[:, None].astype(np.int64)
  return float(-np.take_along_axis(log_p, columns, axis=1).mean())


def measure_calibration(
  probabilities: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS
) -> Row:
  """Compare accuracy with confidence (Guo et al. 2017, arXiv:1706.04599).

  The confidence of a prediction is the probability of the predicted class. Images are sorted by
  confidence into bins of equal width, which include their upper edges. The expected calibration
  error (ECE) is the mean, over images, of the distance between their bin's accuracy and its mean
  confidence.

  Args:
    probabilities: [n, classes].
    labels: [n] integers.

  Returns:
    'ece'; 'confidence', the mean over all images; 'bins', each with its edges 'low' and 'high', its
    'count', and its 'confidence' and 'accuracy', which are None for an empty bin.
  """
  confidences = probabilities.max(1)
  correct = probabilities.argmax(1) == labels
  edges = np.linspace(0, 1, num_bins + 1)
  bin_indices = np.digitize(confidences, edges[1:-1], right=True)
  bins: list[Row] = []
  error = 0.0
  for i in range(num_bins):
    members = bin_indices == i
    count = int(members.sum())
    row: Row = {"low": float(edges[i]), "high": float(edges[i + 1]), "count": count}
    row |= {"confidence": None, "accuracy": None}
    if count:
      row |= {"confidence": float(confidences[members].mean())}
      row |= {"accuracy": float(correct[members].mean())}
      error += count / len(labels) * abs(row["accuracy"] - row["confidence"])
    bins.append(row)
  return {"ece": error, "confidence": float(confidences.mean()), "bins": bins}


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
  """Return the temperature T with which softmax(logits / T) has the lowest cross-entropy.

  Fitted on validation images, it calibrates a network without changing its predictions (Guo et al.
  2017, section 4.2). The cross-entropy is convex in 1 / T.

  Args:
    logits: [n, classes].
    labels: [n] integers.

  Returns:
    Between 0.01 and 100; None if a logit is not finite.
  """
  if not np.isfinite(logits).all():
    return None
  limits = np.log([0.01, 100])

  def loss(log_temperature: float) -> float:
    return measure_loss(logits / np.exp(log_temperature), labels)

  fit = scipy.optimize.minimize_scalar(loss, bounds=limits, method="bounded")
  return float(np.exp(fit.x))


def report_classes(labels: np.ndarray, predicted: np.ndarray, class_names: list[str]) -> Row:
  """Return scikit-learn's classification report, as 'text' and as 'numbers'.

  A precision is zero if its class was never predicted.

  Args:
    labels, predicted: [n] integers.
  """
  from sklearn import metrics

  options = {
    "labels": range(len(class_names)),
    "target_names": class_names,
    "zero_division": 0,
  }
  return {
    "text": metrics.classification_report(labels, predicted, **options),
    "numbers": metrics.classification_report(labels, predicted, output_dict=True, **options),
  }


def count_confusions(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
  """Return counts [classes, classes]: a row for each true class, a column for each predicted one.

  Args:
    labels, predicted: [n] integers.
  """
  from sklearn import metrics

  return metrics.confusion_matrix(labels, predicted, labels=range(num_classes))


def find_mistakes(
  probabilities: np.ndarray, labels: np.ndarray, class_names: list[str], max_count: int
) -> list[Row]:
  """Return the `max_count` wrong predictions with the highest confidence, the highest first.

  Args:
    probabilities: [n, classes].
    labels: [n] integers.
  """
  predicted, confidences = probabilities.argmax(1), probabilities.max(1)
  wrong = np.flatnonzero(predicted != labels)
  ranked = wrong[np.argsort(-confidences[wrong], kind="stable")]
  return [
    {
      "test_image": int(i),
      "true": class_names[labels[i]],
      "predicted": class_names[predicted[i]],
      "probability": float(confidences[i]),
    }
    for i in ranked[:max_count]
  ]
