"""Folders of photos, one folder per class, decoded to squares of one size.

Photos are read as Keras' `flow_from_directory(target_size=(size, size))` reads them. Classes are
sorted by folder name, and files may lie at any depth below. Pillow converts photos to RGB and
resizes them to the square, whatever their proportions. The interpolation is part of the recipe: the
default is `nearest`, Keras' default for ImageDataGenerator; the others are Pillow's, which smooth
when they shrink. Two points differ from Keras. Photos are turned upright according to their EXIF
orientation. 16-bit grey keeps its high byte, because Pillow's conversion would turn nearly all of
it white.

Files that are not images or cannot be opened are left out; left_out.json next to the decoded arrays
lists them with the reasons. Files and folders whose names begin with a dot are skipped.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.data import array_record, cache, image_files, photo_recipe
from cifar_jax.data.fetch import Unavailable
from cifar_jax.data.photo_array import PhotoArray
from cifar_jax.data.photo_recipe import Listing
from cifar_jax.runtime.console import log


@dataclasses.dataclass(frozen=True)
class Photos:
  """A name in the registry that stands for a folder of photos.

  Attributes:
    name: the name in the registry.
    remedy: how to get the photos, for error messages.
    classes: the required names of the class folders, in lower case (the folders may use capitals);
      empty if any names will do.
    tfds_version: the version of the TFDS dataset of this name, which is read if no folder is given;
      "" if there is none.
  """

  name: str
  remedy: str
  classes: tuple[str, ...] = ()
  tfds_version: str = ""

  def fingerprint(self, home: epath.Path, source: epath.PathLike | None) -> str:
    """Return a SHA-256, in hex, of the files' names, sizes and modification times.

    No file is read.

    Args:
      home: `<data_dir>/<name>`, the parent of the TFDS dataset.
      source: a folder `<class>/…` or `{train,test}/<class>/…`; None for the TFDS dataset.

    Raises:
      errors.UserError: the source is not such a folder.
      Unavailable: the source is None, and there is no TFDS dataset.
    """
    if source is None:
      root = self._find_tfds_folder(home)
      names = sorted(os.listdir(root))
    else:
      root = _expand(source)
      parts = self._list_folder(root).values()
      names = [file.name for part in parts for files in part.values() for file in files]
    digest = hashlib.sha256()
    for name in names:
      description: tuple[object, ...] = (name,)
      try:
        status = os.stat(root / name)
        description += (status.st_size, status.st_mtime_ns)
      except OSError:  # a broken link
        pass
      digest.update(json.dumps(description).encode())
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
    crop: str = "none",
    decode_once: bool = True,
  ) -> cache.Decoded:
    """Decode the photos to [n, size, size, 3] uint8, labelled with the numbers of their classes.

    The files of a class, sorted by name, are drawn in the order of `RandomState(seed).permutation`,
    so the same files give the same arrays on every machine. The arrays hold one class after the
    other, each in the order drawn.

    Args:
      home: `<data_dir>/<name>`, the parent of the TFDS dataset.
      work: an empty folder. left_out.json is written there: it lists the files that were drawn but
        are unusable, and all files without the suffix of an image. If a class has fewer photos than
        `per_class`, cache.WARNINGS is written too.
      source: a folder `<class>/…` or `{train,test}/<class>/…`; None for the TFDS dataset.
      size: height and width in pixels.
      interpolation: one of `photo_recipe.INTERPOLATIONS`.
      per_class: the largest number of photos of a class (in each of train/ and test/, if the source
        has these); 0 for no limit. Raising it only adds photos; the others keep their splits.
      test_fraction: the fraction of each class that becomes the test split, unless the source has
        train/ and test/.
      seed: seeds the order of drawing, and thus the split.
      crop: 'none' resizes the whole photo to the square; 'center' its largest central square.
      decode_once: whether the pixels are kept on disk. Otherwise every photo is decoded once now,
        to find unusable files and compute the moments, and again whenever it is read.

    Raises:
      errors.UserError: an option or the source is invalid, or a class or split would be empty.
      Unavailable: the source is None, and there is no TFDS dataset.
    """
    recipe = photo_recipe.Recipe(
      size, interpolation, per_class, test_fraction, seed, crop, decode_once
    )
    listing: Listing
    if source is not None:
      root = _expand(source).absolute()
      listing = self._list_folder(root)
    elif decode_once:
      root = self._find_tfds_folder(home)
      listing = {"": image_files.list_tfds_files(root)}
    else:
      raise errors.UserError(
        "data.options.decode_once: False needs a folder of files; set data.source, or use True"
      )
    log.info("%s: decoding the photos in %s", self.name, root)
    notes = photo_recipe.Notes()
    photos = photo_recipe.decode(f"{self.name}: decoding", root, listing, recipe, notes)
    class_names = self.classes or tuple(next(iter(listing.values())))
    decoded = _collect(photos, recipe, class_names, root, work)
    labels = {split: decoded.labels[split]["label"] for split in cache.SPLITS}
    if not len(labels["test"]) or len(set(labels["train"].tolist())) < len(class_names):
      raise errors.UserError(
        f"data.options.test_fraction: {test_fraction} of each class leaves the test set empty or a "
        f"class without training images ({root}); choose another fraction, or add images"
      )
    self._note_left_out(notes.left_out, work)
    if notes.short:
      counts = ", ".join(f"{folder} has {count}" for folder, count in notes.short.items())
      warning = (
        f"data.options.per_class: {per_class} photos of each class are wanted, but {counts}; add "
        "photos, or lower it"
      )
      (work / cache.WARNINGS).write_text(json.dumps([warning]))
    return decoded

  def _note_left_out(self, left_out: Mapping[str, str], work: epath.Path) -> None:
    """Log how many files are left out, and write left_out.json."""
    if left_out:
      log.info(
        "%s: left out %d files that are not images or cannot be opened; left_out.json next to the "
        "decoded images lists them, the first is %s (%s)",
        *(self.name, len(left_out), *next(iter(left_out.items()))),
      )
    notes = [{"file": file, "reason": reason} for file, reason in left_out.items()]
    (work / "left_out.json").write_text(json.dumps(notes, indent=1))

  def _find_tfds_folder(self, home: epath.Path) -> pathlib.Path:
    """Return the folder of the TFDS dataset; raise Unavailable if it is missing."""
    folder = pathlib.Path(home, self.tfds_version)
    if self.tfds_version and array_record.exists(epath.Path(folder)):
      return folder
    tried = f", and no TFDS dataset is prepared in {folder}" if self.tfds_version else ""
    raise Unavailable(f"data.source: no folder is given for {self.name}{tried}; {self.remedy}")

  def _list_folder(self, root: pathlib.Path) -> Listing:
    """List a folder's files by part and class; raise UserError if the folder is unsuitable."""
    try:
      folders = image_files.list_folders(root)
      parts = cache.SPLITS if set(folders) & set(cache.SPLITS) else ("",)
      if len(parts) > 1 and set(folders) != set(parts):
        raise errors.UserError(
          f"data.source: {root}: its folders are {', '.join(folders)}; there must be train and "
          "test and nothing else, because data.validation is split off from train; move the other "
          "photos there, or remove them"
        )
      listing = {
        part: {
          name: image_files.list_files(root, root / part / name)
          for name in image_files.list_folders(root / part)
        }
        for part in parts
      }
    except OSError as error:
      raise errors.UserError(
        f"data.source: {error.filename}: cannot be read as a folder ({error.strerror}); "
        f"{self.remedy}"
      ) from error
    self._check_classes(root, listing)
    return listing

  def _check_classes(self, root: pathlib.Path, listing: Listing) -> None:
    """Raise UserError unless each part has the right class folders."""
    expected = list(next(iter(listing.values())))
    for part, classes in listing.items():
      problem = f"data.source: {root / part}: its folders are {', '.join(classes) or 'none'}"
      if self.classes and tuple(name.lower() for name in classes) != self.classes:
        raise errors.UserError(f"{problem} instead of {', '.join(self.classes)}; {self.remedy}")
      if len(classes) < 2:
        raise errors.UserError(f"{problem}, but at least two classes are needed; {self.remedy}")
      if list(classes) != expected:
        raise errors.UserError(
          f"{problem}, but those of train are {', '.join(expected)}; make them the same"
        )


IMAGE_FOLDER = Photos(
  name="image_folder",
  remedy="give --config.data.source a folder with a sub-folder of images for each class",
)
CATS_VS_DOGS = Photos(
  name="cats_vs_dogs",
  remedy=(
    "give --config.data.source a folder with the sub-folders cat and dog, such as PetImages from "
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    "kagglecatsanddogs_5340.zip unpacked; or where TensorFlow is installed, have TFDS prepare it: "
    "tfds build cats_vs_dogs --file_format=array_record"
  ),
  classes=("cat", "dog"),
  tfds_version="4.0.1",
)


def _collect(
  photos: Iterable[photo_recipe.Photo],
  recipe: photo_recipe.Recipe,
  class_names: tuple[str, ...],
  root: pathlib.Path,
  work: epath.Path,
) -> cache.Decoded:
  """Collect photos one by one: write their pixels to files in `work`, or keep only their names."""
  labels: dict[str, list[int]] = {split: [] for split in cache.SPLITS}
  files: dict[str, list[tuple[str, bytes]]] = {split: [] for split in cache.SPLITS}
  moments = cache.Moments(3)
  with contextlib.ExitStack() as stack:
    writers = {}
    for split in cache.SPLITS if recipe.decode_once else ():
      writer = cache.ArrayWriter(pathlib.Path(work, f"{split}.npy"), (recipe.size, recipe.size, 3))
      writers[split] = stack.enter_context(contextlib.closing(writer))
    for photo in photos:
      if photo.split == "train":
        moments.add(photo.image)
      if recipe.decode_once:
        writers[photo.split].append(photo.image)
      else:
        files[photo.split].append((photo.file.name, photo.sha256))
      labels[photo.split].append(photo.label)
    images: dict[str, cache.Images] = {split: writer.finish() for split, writer in writers.items()}
  if not recipe.decode_once:
    for split in cache.SPLITS:
      names = [name for name, _ in files[split]]
      sha256 = np.frombuffer(b"".join(digest for _, digest in files[split]), np.uint8)
      images[split] = PhotoArray(
        str(root), names, sha256.reshape(-1, 32), recipe.size, recipe.interpolation, recipe.crop
      )
  arrays = {split: {"label": np.array(labels[split], np.int32)} for split in cache.SPLITS}
  return cache.Decoded(images, arrays, {"label": class_names}, moments)


def _expand(source: epath.PathLike) -> pathlib.Path:
  return pathlib.Path(source).expanduser()
