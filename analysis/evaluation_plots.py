"""The pictures of `--mode=evaluate`: confusion matrix, reliability, mistakes."""

from typing import Any

import numpy as np
from etils import epath

from cifar_jax.runs import plots

GRID = 5  # rows and columns of the grid of mistakes
MOST_COUNTS = 20  # classes up to which a confusion matrix is readable as numbers
_MOST_NAMES = 200  # and classes up to which the names beside it are


def confusion_matrix(counts: np.ndarray, names: list[str], title: str, path: epath.Path) -> None:
  """A PNG of the confusion matrix, coloured by the share of each true class.

  Up to 20 classes every field has its count; of more it is a heat map.
  """
  from matplotlib import colors

  classes = len(names)
  share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  side = max(4.0, 0.62 * classes) if classes <= MOST_COUNTS else 13.0
  with plots.figure(path, 1, 1, figsize=(side + 1.5, side + 0.5)) as (whole, axis):
    # Among many classes each confusion is rare: the root of the share makes them seen.
    norm = colors.PowerNorm(1.0 if classes <= MOST_COUNTS else 0.5, 0, 1)
    shown = axis.imshow(share, cmap="Blues", norm=norm)
    axis.set(xlabel="predicted", ylabel="true", title=title)
    axis.grid(False)
    if classes <= _MOST_NAMES:
      size = 9 if classes <= MOST_COUNTS else min(9.0, 600 / classes)
      axis.set_xticks(range(classes), names, rotation=90, fontsize=size)
      axis.set_yticks(range(classes), names, fontsize=size)
    if classes <= MOST_COUNTS:
      for row, column in np.ndindex(counts.shape):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{counts[row, column]}"
        axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    whole.colorbar(shown, ax=axis, label="share of the true class", fraction=0.04, pad=0.02)


def reliability(found: dict[str, Any], title: str, path: epath.Path) -> None:
  """A PNG of accuracy by probability, beside how many images there are of each probability."""
  bins = found["bins"]
  width = bins[0]["high"] - bins[0]["low"]
  left = [b["low"] for b in bins]
  filled = [b for b in bins if b["count"]]
  with plots.figure(path, 1, 2, figsize=(9, 4)) as (whole, (axis, histogram)):
    accuracy = [b["accuracy"] for b in filled]
    low = [b["low"] for b in filled]
    axis.bar(low, accuracy, width, align="edge", edgecolor="white", label="accuracy")
    axis.plot([0, 1], [0, 1], color="grey", ls="--", lw=1, label="as sure as right")
    mean = [b["confidence"] for b in filled]
    axis.plot(mean, accuracy, "o", color="tab:orange", ms=3, label="mean of bin")
    axis.set(xlabel="probability of the predicted class", ylabel="accuracy", xlim=(0, 1))
    axis.set(ylim=(0, 1), aspect="equal", title=f"expected calibration error {found['ece']:.2%}")
    axis.legend(loc="upper left")
    total = sum(b["count"] for b in bins)
    shares = [b["count"] / total for b in bins]
    histogram.bar(left, shares, width, align="edge", edgecolor="white")
    histogram.axvline(found["confidence"], color="tab:orange", lw=1.5)
    histogram.set(xlabel="probability of the predicted class", ylabel="share of images")
    histogram.set(xlim=(0, 1), title=f"mean probability {found['confidence']:.2%} (line)")
    whole.suptitle(title)


def mistakes(images: np.ndarray, wrong: list[dict[str, Any]], title: str, path: epath.Path) -> None:
  """A PNG of the images [n, h, w, c] uint8 that `wrong` name, with both classes."""
  rows = max(1, -(-len(wrong) // GRID))
  with plots.figure(path, rows, GRID, figsize=(8.5, 1.9 * rows + 0.4)) as (whole, axes):
    for axis in axes.flat:
      axis.axis("off")
    for axis, mistake in zip(axes.flat, wrong, strict=False):
      image = images[mistake["test_image"]]
      grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.shape[-1] == 1 else {}
      axis.imshow(image.squeeze() if grey else image, **grey)
      said = f"predicted {mistake['predicted']}, {mistake['probability']:.1%}"
      axis.set_title(f"true {mistake['true']}\n{said}", fontsize=7)
    whole.suptitle(f"{title}, the surest mistakes" if wrong else f"{title}, no mistakes")
