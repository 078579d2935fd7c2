"""The pictures of `--mode=evaluate`: confusion matrix, reliability and mistakes."""

import numpy as np
from etils import epath

from cifar_jax.data.cache import Images
from cifar_jax.runs import plots
from cifar_jax.types import Row

GRID = 5  # rows and columns of the grid of mistakes
MAX_CLASSES_WITH_COUNTS = 20  # with more, the numbers would be too small to read
_MAX_CLASSES_WITH_NAMES = 200


def draw_confusion_matrix(
  counts: np.ndarray, class_names: list[str], title: str, path: epath.Path
) -> None:
  """Write a PNG of the confusion matrix, coloured by the share of each true class.

  With at most 20 classes, each cell shows its count.

  Args:
    counts: [classes, classes]: a row for each true class, a column for each predicted one.
  """
  from matplotlib import colors

  num_classes = len(class_names)
  has_counts = num_classes <= MAX_CLASSES_WITH_COUNTS
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  side = max(4.0, 0.62 * num_classes) if has_counts else 13.0
  with plots.figure(path, 1, 1, figsize=(side + 1.5, side + 0.5)) as (figure, axis):
    # With many classes each confusion is rare: the square root makes small shares visible.
    norm = colors.PowerNorm(1.0 if has_counts else 0.5, 0, 1)
    heat_map = axis.imshow(shares, cmap="Blues", norm=norm)
    axis.set(xlabel="predicted", ylabel="true", title=plots.plain(title))
    axis.grid(False)
    if num_classes <= _MAX_CLASSES_WITH_NAMES:
      size = 9 if has_counts else min(9.0, 600 / num_classes)
      names = list(map(plots.plain, class_names))
      axis.set_xticks(range(num_classes), names, rotation=90, fontsize=size)
      axis.set_yticks(range(num_classes), names, fontsize=size)
    if has_counts:
      for row, column in np.ndindex(counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{counts[row, column]}"
        axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(heat_map, ax=axis, label="share of the true class", fraction=0.04, pad=0.02)


def draw_reliability(calibration: Row, title: str, path: epath.Path) -> None:
  """Write a PNG of accuracy by confidence, and of the share of images by confidence.

  Args:
    calibration: as measures.measure_calibration returns it.
  """
  bins = calibration["bins"]
  width = bins[0]["high"] - bins[0]["low"]
  filled = [b for b in bins if b["count"]]
  with plots.figure(path, 1, 2, figsize=(9, 4)) as (figure, (axis, histogram)):
    accuracies = [b["accuracy"] for b in filled]
    low_edges = [b["low"] for b in filled]
    axis.bar(low_edges, accuracies, width, align="edge", edgecolor="white", label="accuracy")
    axis.plot([0, 1], [0, 1], color="grey", ls="--", lw=1, label="perfect calibration")
    means = [b["confidence"] for b in filled]
    axis.plot(means, accuracies, "o", color="tab:orange", ms=3, label="mean of bin")
    axis.set(xlabel="probability of the predicted class", ylabel="accuracy", xlim=(0, 1))
    ece = f"expected calibration error {calibration['ece']:.2%}"
    axis.set(ylim=(0, 1), aspect="equal", title=ece)
    axis.legend(loc="upper left")
    total = sum(b["count"] for b in bins)
    shares = [b["count"] / total for b in bins]
    low_edges = [b["low"] for b in bins]
    histogram.bar(low_edges, shares, width, align="edge", edgecolor="white")
    histogram.axvline(calibration["confidence"], color="tab:orange", lw=1.5)
    histogram.set(xlabel="probability of the predicted class", ylabel="share of images")
    histogram.set(xlim=(0, 1), title=f"mean probability {calibration['confidence']:.2%} (line)")
    figure.suptitle(plots.plain(title))


def draw_mistakes(images: Images, mistakes: list[Row], title: str, path: epath.Path) -> None:
  """Write a PNG of wrongly classified images with their true and predicted classes.

  Args:
    images: the test images [n, height, width, channels] uint8, or photos in files.
    mistakes: as measures.find_mistakes returns them.
  """
  rows = max(1, -(-len(mistakes) // GRID))
  with plots.figure(path, rows, GRID, figsize=(8.5, 1.9 * rows + 0.4)) as (figure, axes):
    for axis in axes.flat:
      axis.axis("off")
    for axis, mistake in zip(axes.flat, mistakes, strict=False):
      image = images[mistake["test_image"]]
      grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.shape[-1] == 1 else {}
      axis.imshow(image.squeeze() if grey else image, **grey)
      prediction = f"predicted {mistake['predicted']}, {mistake['probability']:.1%}"
      axis.set_title(plots.plain(f"true {mistake['true']}\n{prediction}"), fontsize=7)
    which = "the most confident mistakes" if mistakes else "no mistakes"
    figure.suptitle(plots.plain(f"{title}, {which}"))
