"""The recipe that turns files into examples: which photos are drawn, and into which split."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from cifar_jax import errors
from cifar_jax.data import cache, image_files
from cifar_jax.runtime.console import progress

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")
# Files by part ('train' and 'test', or '' if they are still to be split) and class.
Listing: TypeAlias = Mapping[str, Mapping[str, list[image_files.File]]]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The options of `image_folder.Photos.decode`, which documents them.

  Raises:
    errors.UserError: a value is invalid.
  """

  size: int
  interpolation: str
  per_class: int
  test_fraction: float
  seed: int

  def __post_init__(self) -> None:
    known = "one of " + ", ".join(INTERPOLATIONS)
    self._check("size", "a whole number >= 1", int, lambda x: x >= 1)
    self._check("interpolation", known, str, lambda x: x in INTERPOLATIONS)
    self._check("per_class", "a whole number, or 0 for all", int, lambda x: x >= 0)
    self._check("test_fraction", "between 0 and 1", float, lambda x: 0 < x < 1)
    self._check("seed", "a whole number in [0, 2 ** 32)", int, lambda x: 0 <= x < 2**32)

  def _check(
    self, option: str, requirement: str, kind: type, is_valid: Callable[[Any], bool]
  ) -> None:
    value = getattr(self, option)
    if not isinstance(value, kind) or isinstance(value, bool) or not is_valid(value):
      raise errors.UserError(f"data.options.{option}: must be {requirement}, got {value!r}")

  @property
  def most_per_class(self) -> int:
    return self.per_class or sys.maxsize


class Examples(NamedTuple):
  """Decoded photos.

  Attributes:
    images: by split, each [size, size, 3] uint8.
    labels: by split.
    left_out: by file name, the reason why the file is left out.
    short: by folder, the number of photos where this is less than `Recipe.per_class`.
  """

  images: dict[str, list[np.ndarray]]
  labels: dict[str, list[int]]
  left_out: dict[str, str]
  short: dict[str, int]


def decode(title: str, root: pathlib.Path, listing: Listing, recipe: Recipe) -> Examples:
  """Decode the photos of every part and class, with `title` over the progress.

  Raises:
    errors.UserError: a class has no usable photo.
  """
  most = recipe.most_per_class
  examples = Examples({s: [] for s in cache.SPLITS}, {s: [] for s in cache.SPLITS}, {}, {})
  total = sum(min(most, len(files)) for part in listing.values() for files in part.values())
  with progress(title, total, "images") as advance:

    def read(file: image_files.File) -> np.ndarray:
      image = image_files.decode(file.read(), recipe.size, recipe.interpolation)
      advance(1)
      return image

    for part, classes in listing.items():
      for label, (name, files) in enumerate(classes.items()):
        images, reasons = draw(files, most, recipe.seed, read)
        examples.left_out.update(reasons)
        if not images:
          first = "".join(f" ({file}: {why})" for file, why in list(reasons.items())[:1])
          raise errors.UserError(
            f"data.source: {root / part / name}: holds {len(files)} files and no image that can "
            f"be opened{first}; add images, or remove the folder"
          )
        if len(images) < recipe.per_class:
          examples.short[f"{part}/{name}".lstrip("/")] = len(images)
        splits = assign_splits(part, len(images), recipe.test_fraction)
        for image, split in zip(images, splits, strict=True):
          examples.images[split].append(image)
          examples.labels[split].append(label)
  return examples


def draw(
  files: list[image_files.File],
  most: int,
  seed: int,
  read: Callable[[image_files.File], np.ndarray],
) -> tuple[list[np.ndarray], dict[str, str]]:
  """Read files in a random order until there are `most` images.

  Returns:
    The images, and by file name the reasons why other files are left out.
  """
  left_out = {file.name: "not named as an image" for file in files if not file.is_named_as_image}
  candidates = [file for file in files if file.is_named_as_image]
  images: list[np.ndarray] = []
  for i in np.random.RandomState(seed).permutation(len(candidates)):
    if len(images) == most:
      break
    try:
      images.append(read(candidates[i]))
    except errors.UserError:
      raise
    except Exception as error:  # Pillow may raise almost anything for damaged content
      left_out[candidates[i].name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
  return images, left_out


def assign_splits(part: str, num_images: int, test_fraction: float) -> list[str]:
  """Return the split of each image of a class, in the order drawn.

  The split is `part` if that is not empty. Otherwise test images are spread evenly, so that an
  image's split does not depend on the images that follow.
  """
  if part:
    return [part] * num_images
  # Entry i is the number of test images among the first i.
  num_tests = np.floor(np.arange(num_images + 1) * test_fraction + 0.5)
  return ["test" if step else "train" for step in np.diff(num_tests)]
