"""The images that pictures show: image files, or images of the test split."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis import images
from analysis.run import Run
from analysis.visualize import pictures
from cifar_jax import errors

MAX_IMAGES = 16  # with more, each image would be too small to see
_NUM_TEST_IMAGES = 8


class Example(NamedTuple):
  """An image to show: uint8 [height, width, channels], and its class if known."""

  name: str
  pixels: np.ndarray
  label: int | None = None


def read_examples(run: Run, paths: Sequence[str | os.PathLike]) -> list[Example]:
  """Read and decode image files as the network takes them.

  Args:
    paths: image files, and folders to search for image files.

  Raises:
    UserError: there are more than MAX_IMAGES files, or a file is not an image.
  """
  files = images.find_files(paths)
  if len(files) > MAX_IMAGES:
    raise errors.UserError(
      f"images: {len(files)} are too many for one picture; name at most {MAX_IMAGES}"
    )
  decoding = images.choose_decoding(run)
  examples = []
  for file in files:
    try:
      pixels = images.decode(images.read_file(file), *decoding)
    except Exception as error:  # depending on the bytes, Pillow raises almost anything
      raise errors.UserError(
        f"{images.printable(file)}: cannot be read as an image ({images.describe_error(error)}); "
        "name another"
      ) from error
    examples.append(Example(images.printable(file.name), pixels))
  return examples


def select_test_examples(run: Run) -> list[Example]:
  """Return the first test images of the first classes, the same number of each class.

  Raises:
    UserError: the dataset is unavailable or has changed.
  """
  try:
    test = run.load_data()[0].test
  except errors.UserError as error:
    raise errors.UserError(f"{error}; or name image files to show") from error
  labels = np.asarray(test.labels)
  selected = first_of_each_class(labels, _NUM_TEST_IMAGES)
  return [Example(f"test_{i}", np.asarray(test.images[i]), int(labels[i])) for i in selected]


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
  """Return the numbers of `count` images: the first of each class, then the second, and so on.

  labels: the classes of all images, [n] integers.
  """
  ranks = np.zeros(len(labels), int)  # how many images of the same class come before
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    ranks[members] = np.arange(len(members))
  return np.lexsort((labels, ranks))[:count]


def name_files(examples: Sequence[Example]) -> list[str]:
  """Return for each example a distinct name that any file system accepts."""
  names: list[str] = []
  for example in examples:
    name = base = re.sub(r"[^\w.-]+", "_", os.path.splitext(example.name)[0])[:60] or "image"
    number = 1
    while name in names:
      number += 1
      name = f"{base}_{number}"
    names.append(name)
  return names


def label_example(run: Run, example: Example) -> str:
  """Return the class of an example, or its name if the class is unknown, shortened for a title."""
  name = example.name if example.label is None else run.class_names[example.label]
  return pictures.shorten(name, 16)
