"""Folders of photos, one folder a class, decoded to squares of one size.

Photos are read as Keras' `flow_from_directory(target_size=(size, size))` reads them: classes in the
order of their folders' names, files at any depth below, converted to RGB by Pillow, and resized to
the square whatever their proportions. The interpolation is part of the recipe: `nearest`, Keras'
default for ImageDataGenerator, is the default here too; the others, which are Pillow's, smooth when
they shrink. Unlike Keras, photos are turned upright as their EXIF orientation says, and of 16-bit
grey the high byte is taken, where Pillow's own conversion makes nearly all of it white.

What is no image or cannot be opened is left out, and left_out.json beside the decoded arrays lists
it with the reason. Files and folders whose names begin with a dot are passed over.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.data import array_record, cache, image_files
from cifar_jax.data.fetch import Unavailable
from cifar_jax.runtime.console import log, progress

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")


@dataclasses.dataclass(frozen=True)
class Photos:
  """A name in the registry that stands for a folder of photos.

  Attributes:
    name: as in the registry.
    remedy: how to get the photos.
    classes: what the class folders must be called, in upper or lower case; empty for any names.
    tfds_version: of the TFDS data set of that name, read where no folder is given; "" if none.
  """

  name: str
  remedy: str
  classes: tuple[str, ...] = ()
  tfds_version: str = ""

  def fingerprint(self, home: epath.Path, source: epath.PathLike | None) -> str:
    """Tells the files by name, size and time of change, without reading them.

    Args:
      home: `<data_dir>/<name>`, where TFDS's data set would be.
      source: a folder `<class>/…` or `{train,test}/<class>/…`; None for TFDS's data set.

    Raises:
      errors.UserError: the source is no such folder.
      Unavailable: no source was given, and there is no TFDS data set.
    """
    if source is None:
      root = self._tfds_folder(home)
      names = sorted(os.listdir(root))
    else:
      root = _root(source)
      parts = self._list_folder(root).values()
      names = [file.name for part in parts for files in part.values() for file in files]
    digest = hashlib.sha256()
    for name in names:
      try:
        status = os.stat(root / name)
        told = (name, status.st_size, status.st_mtime_ns)
      except OSError:  # a link to nowhere
        told = (name,)
      digest.update(json.dumps(told).encode())
    return digest.hexdigest()

  def decode(
    self,
    home: epath.Path,
    work: epath.Path,
    source: epath.PathLike | None,
    *,
    size: int = 150,
    interpolation: str = "nearest",
    per_class: int = 0,
    test_fraction: float = 0.1,
    seed: int = 0,
  ) -> cache.Decoded:
    """Decodes the photos: [n, size, size, 3] uint8, with the number of the class as label.

    A class's files, sorted by name, are drawn in the order of `RandomState(seed).permutation`; so
    the same files give the same arrays on every machine. The arrays hold one class after the other,
    each in the order drawn.

    Args:
      home: `<data_dir>/<name>`, where TFDS's data set would be.
      work: an empty folder, in which left_out.json is left: the files that were drawn in vain, and
        all that are not named as images.
      source: a folder `<class>/…` or `{train,test}/<class>/…`; None for TFDS's data set.
      size: height and width in pixels.
      interpolation: one of INTERPOLATIONS.
      per_class: at most so many photos of a class (in train/ and in test/ each, if these are
        given); 0 means all. A larger number keeps what a smaller one took, in the same split.
      test_fraction: of each class's photos, unless train/ and test/ are given.
      seed: of the drawing, and so of the split.

    Raises:
      errors.UserError: an option or the source is bad, or a class or split would have no photo.
      Unavailable: no source was given, and there is no TFDS data set.
    """
    _check("size", size, "a whole number >= 1", int, lambda x: x >= 1)
    known = "one of " + ", ".join(INTERPOLATIONS)
    _check("interpolation", interpolation, known, str, lambda x: x in INTERPOLATIONS)
    _check("per_class", per_class, "a whole number, or 0 for all", int, lambda x: x >= 0)
    _check("test_fraction", test_fraction, "between 0 and 1", float, lambda x: 0 < x < 1)
    _check("seed", seed, "a whole number in [0, 2 ** 32)", int, lambda x: 0 <= x < 2**32)
    if source is None:
      root = self._tfds_folder(home)
      listing = {"": image_files.tfds_files(root)}
    else:
      root = _root(source)
      listing = self._list_folder(root)
    most = per_class or math.inf
    total = sum(min(most, len(files)) for part in listing.values() for files in part.values())

    images: dict[str, list[np.ndarray]] = {split: [] for split in cache.SPLITS}
    labels: dict[str, list[int]] = {split: [] for split in cache.SPLITS}
    left_out: dict[str, str] = {}
    log.info("%s: decoding the photos in %s", self.name, root)
    with progress(f"{self.name}: decoding", total, "images") as advance:

      def read(file: image_files.File) -> np.ndarray:
        image = image_files.decode(file.read(), size, interpolation)
        advance(1)
        return image

      for part, classes in listing.items():
        for label, (name, files) in enumerate(classes.items()):
          drawn, reasons = _draw(files, most, seed, read)
          left_out |= reasons
          if not drawn:
            first = "".join(f" ({file}: {why})" for file, why in list(reasons.items())[:1])
            raise errors.UserError(
              f"data.source: {root / part / name}: holds {len(files)} files and no image that can "
              f"be opened{first}; add images, or take the folder away"
            )
          for image, split in zip(drawn, _splits(part, len(drawn), test_fraction), strict=True):
            images[split].append(image)
            labels[split].append(label)

    names = self.classes or tuple(next(iter(listing.values())))
    if not labels["test"] or len(set(labels["train"])) < len(names):
      raise errors.UserError(
        f"data.options.test_fraction: {test_fraction} of each class leaves the test set empty or a "
        f"class without training images ({root}); take another fraction, or add images"
      )
    if left_out:
      log.info(
        "%s: left out %d files that are not images or cannot be opened; left_out.json beside the "
        "decoded images lists them, the first is %s (%s)",
        *(self.name, len(left_out), *next(iter(left_out.items()))),
      )
    notes = [{"file": file, "reason": reason} for file, reason in left_out.items()]
    (work / "left_out.json").write_text(json.dumps(notes, indent=1))
    return cache.Decoded(
      images={split: np.stack(images.pop(split)) for split in cache.SPLITS},
      labels={split: {"label": np.array(labels[split])} for split in cache.SPLITS},
      class_names={"label": names},
    )

  def _tfds_folder(self, home: epath.Path) -> pathlib.Path:
    folder = pathlib.Path(home, self.tfds_version)
    if self.tfds_version and array_record.exists(epath.Path(folder)):
      return folder
    tried = f", and there is none prepared in {folder}" if self.tfds_version else ""
    raise Unavailable(f"data.source: no folder is given for {self.name}{tried}; {self.remedy}")

  def _list_folder(self, root: pathlib.Path) -> dict[str, dict[str, list[image_files.File]]]:
    """The files by part ('train' and 'test', or '' if they are still to be split) and class."""
    try:
      top = image_files.folders(root)
      parts = cache.SPLITS if set(top) & set(cache.SPLITS) else ("",)
      if parts == cache.SPLITS and set(top) != set(parts):
        raise errors.UserError(
          f"data.source: {root}: its folders are {', '.join(top)}; there must be train and test "
          "and nothing else, since data.validation is taken out of training; move the rest there, "
          "or take it away"
        )
      listing = {
        part: {
          name: image_files.files(root, root / part / name)
          for name in image_files.folders(root / part)
        }
        for part in parts
      }
    except OSError as error:
      raise errors.UserError(
        f"data.source: {error.filename}: cannot be read as a folder ({error.strerror}); "
        f"{self.remedy}"
      ) from error
    for part, classes in listing.items():
      found = f"data.source: {root / part}: its folders are {', '.join(classes) or 'none'}"
      if self.classes and tuple(name.lower() for name in classes) != self.classes:
        raise errors.UserError(f"{found} instead of {', '.join(self.classes)}; {self.remedy}")
      if len(classes) < 2:
        raise errors.UserError(f"{found}, of at least two classes; {self.remedy}")
      if list(classes) != list(listing[parts[0]]):
        raise errors.UserError(
          f"{found}, but those of train are {', '.join(listing[parts[0]])}; make them the same"
        )
    return listing


IMAGE_FOLDER = Photos(
  name="image_folder",
  remedy="give --config.data.source a folder with a sub-folder of images for each class",
)
CATS_VS_DOGS = Photos(
  name="cats_vs_dogs",
  remedy=(
    "give --config.data.source a folder with the sub-folders cat and dog, such as PetImages of "
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    "kagglecatsanddogs_5340.zip unpacked; or where TensorFlow is installed, have TFDS prepare it: "
    "tfds build cats_vs_dogs --file_format=array_record"
  ),
  classes=("cat", "dog"),
  tfds_version="4.0.1",
)


def _check(
  option: str, value: Any, requirement: str, kind: type, holds: Callable[[Any], bool]
) -> None:
  if not isinstance(value, kind) or isinstance(value, bool) or not holds(value):
    raise errors.UserError(f"data.options.{option}: must be {requirement}, got {value!r}")


def _root(source: epath.PathLike) -> pathlib.Path:
  return pathlib.Path(source).expanduser()


def _draw(
  files: list[image_files.File],
  most: float,
  seed: int,
  read: Callable[[image_files.File], np.ndarray],
) -> tuple[list[np.ndarray], dict[str, str]]:
  """Reads files in a random order until there are `most` images; and why others were left out."""
  left_out = {file.name: "not named as an image" for file in files if not file.is_named_as_image}
  named = [file for file in files if file.is_named_as_image]
  images: list[np.ndarray] = []
  for i in np.random.RandomState(seed).permutation(len(named)):
    if len(images) == most:
      break
    try:
      images.append(read(named[i]))
    except errors.UserError:
      raise
    except Exception as error:  # a file's bytes can make Pillow raise almost anything
      left_out[named[i].name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
  return images, left_out


def _splits(part: str, count: int, test_fraction: float) -> list[str]:
  """The split of each image of a class, in the order drawn: `part` if that is one.

  Else test images are spread evenly, so that an image's split does not depend on what follows it.
  """
  if part:
    return [part] * count
  tests = np.floor(np.arange(count + 1) * test_fraction + 0.5)  # among the first 0, 1, 2, …
  return ["test" if more else "train" for more in np.diff(tests)]
