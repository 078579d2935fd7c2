"""The picture of `--mode=predict --picture=FILE`: photos with every network's prediction."""

import os
import warnings
from collections.abc import Sequence

import numpy as np
from etils import epath

from analysis.files import explain_failure
from cifar_jax.runs import plots
from cifar_jax.types import Row

MAX_PHOTOS = 48
MAX_PIXELS = 320  # of a photo's longer side
_PHOTO_INCHES, _LINE_INCHES = 1.7, 0.27
_CHARACTER_INCHES = 0.08
_MAX_NAME = 40  # characters of a file's or network's name


def draw_predictions(
  rows: Sequence[Row], photos: Sequence[np.ndarray], flag: str, path: str | os.PathLike
) -> None:
  """Write a PNG of photos with their files' names and the networks' classes and probabilities.

  Args:
    rows: for each photo its 'file' and 'predictions', as in the JSON of --mode=predict.
    photos: [height, width, 3] uint8 each.
    flag: what to write next to a prediction that is probably none of the classes.
    path: the PNG.

  Raises:
    UserError: the file cannot be written.
  """
  texts = [[_shorten(row["file"]), *_describe(row["predictions"], flag)] for row in rows]
  longest = max(len(line) for text in texts for line in text)
  num_lines = max(map(len, texts))
  photos_per_row = 1 if len(rows) < 4 else 2
  num_rows = -(-len(rows) // photos_per_row)
  widths = [_PHOTO_INCHES, _CHARACTER_INCHES * longest + 0.2] * photos_per_row
  height = max(_PHOTO_INCHES, _LINE_INCHES * num_lines)
  size = (sum(widths), num_rows * (height + 0.1))
  target = epath.Path(path).expanduser()
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"Glyph .* missing")  # in the name of a file
    with (
      explain_failure(f"--picture: {target}", "name another file"),
      plots.figure(target, num_rows, len(widths), size, width_ratios=widths) as (_, axes),
    ):
      for axis in axes.flat:
        axis.axis("off")
      pairs = axes.reshape(-1, 2)
      for (left, right), photo, (name, *lines) in zip(pairs, photos, texts, strict=False):
        left.imshow(photo)
        top = 0.5 + 0.5 * _LINE_INCHES * len(lines) / height
        style = {"va": "center", "parse_math": False, "transform": right.transAxes}
        right.text(0, top, name, weight="bold", **style)
        for i, line in enumerate(lines, start=1):
          right.text(0, top - i * _LINE_INCHES / height, line, **style)


def _describe(predictions: Sequence[Row], flag: str) -> list[str]:
  """Return a line for each network, such as 'resnet18 → cat (99.12%)'."""
  return [
    f"{_shorten(prediction['run'])} → {prediction['class']} ({prediction['probability']:.2%})"
    + (f", {flag}" if prediction["probably_none_of_the_classes"] else "")
    for prediction in predictions
  ]


def _shorten(name: str) -> str:
  """Return the end of a name, which distinguishes files and folders better than its start."""
  return name if len(name) <= _MAX_NAME else f"…{name[1 - _MAX_NAME :]}"
