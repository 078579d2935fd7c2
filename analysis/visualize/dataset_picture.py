"""Images of a dataset with their labels, before any training: `--mode=dataset`."""

import os

import ml_collections
import numpy as np
from etils import epath

import input_pipeline
from analysis.files import explain_failure
from analysis.visualize import pictures
from analysis.visualize.examples import first_of_each_class
from cifar_jax.runs import plots

_COLUMNS = 10
_MAX_IMAGES = 100


def draw_dataset(config: ml_collections.ConfigDict, path: str | os.PathLike) -> epath.Path:
  """Write a PNG of the first training images of each class, with their labels; return its path.

  A dataset of up to ten classes has a row for each class.

  Raises:
    UserError: the dataset is unavailable, or the file cannot be written.
  """
  dataset = input_pipeline.load(config)
  names, labels = dataset.class_names, np.asarray(dataset.train.labels)
  num_images = min(_MAX_IMAGES, _COLUMNS * max(len(names), 2), len(labels))
  selected = first_of_each_class(labels, num_images)
  if len(names) <= _COLUMNS:
    selected = selected[np.argsort(labels[selected], kind="stable")]
  num_rows = -(-len(selected) // _COLUMNS)
  target = epath.Path(path).expanduser()
  with (
    explain_failure(f"--picture: {target}", "name another file"),
    plots.figure(target, num_rows, _COLUMNS, (11, 1.25 * num_rows + 0.5)) as (figure, axes),
  ):
    grid = pictures.clear_axes(axes, num_rows, _COLUMNS).ravel()
    for axis, number in zip(grid, selected, strict=False):
      pictures.show_image(axis, np.asarray(dataset.train.images[number]))
      pictures.set_title(axis, pictures.shorten(names[labels[number]], 16))
    height, width, _ = dataset.train.images.shape[1:]
    pictures.set_figure_title(
      figure,
      f"{dataset.name}: {len(labels):,} training and {len(dataset.test.labels):,} test images of "
      f"{len(names)} classes, {height}×{width} pixels",
    )
  return target
