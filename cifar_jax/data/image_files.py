"""The files that photos come in: found in a folder or a TFDS data set, and decoded one by one."""

import contextlib
import functools
import io
import os
import pathlib
import stat
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cifar_jax import errors

# Names that Keras' flow_from_directory takes for images, and .gif and .webp.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
# Pillow goes by the content, whatever the name; some of its other decoders start programs.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
_MAX_BYTES = 1 << 28
_RECORDS = 1000  # of a TFDS data set, read at a time


class File(NamedTuple):
  """A file that may be a photo.

  Attributes:
    name: its path below the source, with slashes.
    read: gives its content.
  """

  name: str
  read: Callable[[], bytes]

  @property
  def is_named_as_image(self) -> bool:
    return self.name.lower().endswith(_SUFFIXES)


def folders(folder: pathlib.Path) -> list[str]:
  """The names of a folder's own sub-folders, sorted, but those that begin with a dot.

  Raises:
    OSError: the folder cannot be read.
  """
  with os.scandir(folder) as entries:
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def files(root: pathlib.Path, folder: pathlib.Path) -> list[File]:
  """All files at any depth below a folder, sorted by name, but those that begin with a dot.

  Args:
    root: names are relative to it.
    folder: below `root`.

  Raises:
    OSError: a folder cannot be read.
  """

  def fail(error: OSError) -> None:  # os.walk would pass over what it cannot read
    raise error

  names = []
  for where, below, files in os.walk(folder, onerror=fail):
    below[:] = [name for name in below if not name.startswith(".")]
    parent = pathlib.Path(where).relative_to(root).as_posix()
    names += [f"{parent}/{name}" for name in files if not name.startswith(".")]
  return [File(name, functools.partial(_content, root / name)) for name in sorted(names)]


def _content(path: pathlib.Path) -> bytes:
  try:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
      raise ValueError("no regular file")
    if status.st_size > _MAX_BYTES:
      raise ValueError(f"{status.st_size} bytes are more than the {_MAX_BYTES} of a photo")
    return path.read_bytes()
  except (FileNotFoundError, PermissionError):
    raise
  except OSError as error:  # of the disk or the network; another time the photo would be there
    raise errors.UserError(f"data.source: {path}: cannot be read ({error.strerror})") from error


def tfds_files(folder: pathlib.Path) -> dict[str, list[File]]:
  """The photos of TFDS's cats_vs_dogs in ArrayRecord, by class, sorted by name.

  Raises:
    errors.UserError: the folder is damaged, or holds another data set.
  """
  import tensorflow_datasets as tfds

  def read(index: int) -> bytes:
    return records[index]["image"]

  # Records of another data set, or damaged ones, fail in TFDS's or ArrayRecord's own many ways.
  try:
    builder = tfds.builder_from_directory(folder)
    records = builder.as_data_source(
      "train", decoders={"image": tfds.decode.SkipDecoding()}, file_format="array_record"
    )
    names = builder.info.features["label"].names
    found: dict[str, list[File]] = {name: [] for name in names}
    for start in range(0, len(records), _RECORDS):
      chunk = range(start, min(start + _RECORDS, len(records)))
      for index, record in zip(chunk, records.__getitems__(chunk), strict=True):
        file = File(record["image/filename"].decode(), functools.partial(read, index))
        found[names[record["label"]]].append(file)
  except Exception as error:
    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise errors.UserError(
      f"{folder}: cannot be read as the data set it should be ({why}); delete that folder, or set "
      "--config.data.dir to another"
    ) from error
  return {name: sorted(of_class, key=lambda file: file.name) for name, of_class in found.items()}


def decode(content: bytes, size: int, interpolation: str) -> np.ndarray:
  """One photo, as Keras' `load_img(target_size=(size, size))` would have it, but for what
  photos.py says of orientation and 16-bit grey.

  Args:
    content: of the file.
    size: height and width in pixels.
    interpolation: as Pillow names it.

  Returns:
    [size, size, 3] uint8.

  Raises:
    Exception: of almost any kind, by what the content is; the message says why.
  """
  from PIL import Image, ImageOps, UnidentifiedImageError

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what can be read all the same
    # By the size in the header, 90 million pixels, before anything is decoded.
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
      image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError as error:
      raise ValueError("not an image") from error
    image.load()
    with contextlib.suppress(Exception):  # a sound photo may have damaged EXIF data
      ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
      image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
      raise ValueError(f"its pixels, of mode {image.mode}, have no known range")
    image = image.convert("RGB")
    if image.size != (size, size):
      image = image.resize((size, size), Image.Resampling[interpolation.upper()])
    return np.asarray(image)
