"""The recipe that turns files into examples: which photos to draw, and which split each joins."""

import dataclasses
import hashlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from cifar_jax import errors
from cifar_jax.data import image_files
from cifar_jax.runtime.console import progress

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")
CROPS = ("none", "center")
T = TypeVar("T")
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
  crop: str = "none"
  decode_once: bool = True

  def __post_init__(self) -> None:
    known = "one of " + ", ".join(INTERPOLATIONS)
    self._check("size", "a whole number >= 1", int, lambda x: x >= 1)
    self._check("interpolation", known, str, lambda x: x in INTERPOLATIONS)
    self._check("per_class", "a whole number, or 0 for all", int, lambda x: x >= 0)
    self._check("test_fraction", "between 0 and 1", float, lambda x: 0 < x < 1)
    self._check("seed", "a whole number in [0, 2 ** 32)", int, lambda x: 0 <= x < 2**32)
    self._check("crop", "one of " + ", ".join(CROPS), str, lambda x: x in CROPS)
    if type(self.decode_once) is not bool:
      raise errors.UserError(
        f"data.options.decode_once: must be True or False, got {self.decode_once!r}"
      )

  def _check(
    self, option: str, requirement: str, kind: type, is_valid: Callable[[Any], bool]
  ) -> None:
    value = getattr(self, option)
    if not isinstance(value, kind) or isinstance(value, bool) or not is_valid(value):
      raise errors.UserError(f"data.options.{option}: must be {requirement}, got {value!r}")

  @property
  def max_per_class(self) -> int:
    return self.per_class or sys.maxsize


@dataclasses.dataclass(frozen=True)
class Notes:
  """Notes on files that are left out and on classes with too few photos.

  Attributes:
    left_out: by file name, the reason why the file is left out.
    short: by folder, the number of photos, if this is less than `Recipe.per_class`.
  """

  left_out: dict[str, str] = dataclasses.field(default_factory=dict)
  short: dict[str, int] = dataclasses.field(default_factory=dict)


class Photo(NamedTuple):
  """A decoded photo.

  Attributes:
    file: the file it was decoded from.
    split: 'train' or 'test'.
    label: the number of its class.
    image: [size, size, 3] uint8.
    sha256: SHA-256 of the file, 32 bytes.
  """

  file: image_files.File
  split: str
  label: int
  image: np.ndarray
  sha256: bytes


def decode(
  title: str, root: pathlib.Path, listing: Listing, recipe: Recipe, notes: Notes
) -> Iterator[Photo]:
  """Yield the photos of every part and class in the order drawn; show the progress under `title`.

  Threads decode a few photos ahead; only those are in memory.

  Args:
    notes: filled in while the photos are yielded.

  Raises:
    errors.UserError: a class has no usable photo, or the disk failed.
  """
  max_per_class = recipe.max_per_class
  total = sum(
    min(max_per_class, len(files)) for part in listing.values() for files in part.values()
  )

  def read(files: Sequence[image_files.File]) -> Iterator[tuple[np.ndarray, bytes] | Exception]:
    return _read_ahead(_Decoder(files, recipe))

  with progress(title, total, "images") as advance:
    for part, classes in listing.items():
      for label, (name, files) in enumerate(classes.items()):
        reasons: dict[str, str] = {}
        num_photos = 0
        for file, (image, sha256) in draw(files, max_per_class, recipe.seed, read, reasons):
          advance(1)
          split = part or assign_split(num_photos, recipe.test_fraction)
          num_photos += 1
          yield Photo(file, split, label, image, sha256)
        notes.left_out.update(reasons)
        if not num_photos:
          first = "".join(f" ({file}: {why})" for file, why in list(reasons.items())[:1])
          raise errors.UserError(
            f"data.source: {root / part / name}: holds {len(files)} files and no image that can "
            f"be opened{first}; add images, or remove the folder"
          )
        if num_photos < recipe.per_class:
          notes.short[f"{part}/{name}".lstrip("/")] = num_photos


class _Decoder:
  """Random access to decoded files with their SHA-256, or to the errors that reading raised."""

  def __init__(self, files: Sequence[image_files.File], recipe: Recipe):
    self._files, self._recipe = files, recipe

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, i: int) -> tuple[np.ndarray, bytes] | Exception:
    recipe = self._recipe
    try:
      content = self._files[i].read()
      image = image_files.decode(content, recipe.size, recipe.interpolation, recipe.crop)
      return image, hashlib.sha256(content).digest()
    except Exception as error:  # Pillow may raise almost anything for damaged content
      return error


def _read_ahead(decoder: _Decoder) -> Iterator[tuple[np.ndarray, bytes] | Exception]:
  """Yield the elements in order; Grain's threads, one per core, read a few elements ahead."""
  import grain  # takes a second to import, and only preparing needs it

  if not len(decoder):
    return
  num_threads = os.cpu_count() or 1
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4 * num_threads)
  elements = iter(grain.MapDataset.source(decoder).to_iter_dataset(options))
  try:
    yield from elements
  finally:
    elements.close()


def draw(
  files: Sequence[image_files.File],
  max_photos: int,
  seed: int,
  read: Callable[[Sequence[image_files.File]], Iterator[T | Exception]],
  left_out: dict[str, str],
) -> Iterator[tuple[image_files.File, T]]:
  """Yield files in a random order, each with the result of `read`, until there are `max_photos`.

  Args:
    read: yields a result, or the error, for each of the files in turn.
    left_out: receives, by file name, the reason why a file is left out.
  """
  left_out.update(
    (file.name, "not named as an image") for file in files if not file.is_named_as_image
  )
  candidates = [file for file in files if file.is_named_as_image]
  drawn = [candidates[i] for i in np.random.RandomState(seed).permutation(len(candidates))]
  count = 0
  for file, result in zip(drawn, read(drawn), strict=True):
    if isinstance(result, errors.UserError):  # the disk failed: another run might read the photo
      raise result
    if isinstance(result, Exception):
      left_out[file.name] = f"{type(result).__name__}: {' '.join(str(result).split())}"
      continue
    yield file, result
    count += 1
    if count == max_photos:
      return


def assign_split(number: int, test_fraction: float) -> str:
  """Return the split of a class's image number `number`, counted from 0 in the order drawn.

  Test images are spread evenly, so that an image's split does not depend on the images that follow.
  """
  # The number of test images among the first n.
  before, after = (np.floor(n * test_fraction + 0.5) for n in (number, number + 1))
  return "test" if after > before else "train"
