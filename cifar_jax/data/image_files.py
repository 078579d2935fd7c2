"""Image files: list them in a folder or a TFDS dataset, read and decode them one by one."""

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
from cifar_jax.data import array_record

# The suffixes that Keras' flow_from_directory accepts, plus .gif and .webp.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
# Pillow goes by the content, not the name; some of its other decoders start programs.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
_MAX_BYTES = 1 << 28
_MAX_PIXELS = 90_000_000


class File(NamedTuple):
  """A file that may be an image.

  Attributes:
    name: the path below the source, with slashes.
    read: returns the content.
  """

  name: str
  read: Callable[[], bytes]

  @property
  def is_named_as_image(self) -> bool:
    return self.name.lower().endswith(_SUFFIXES)


def list_folders(folder: pathlib.Path) -> list[str]:
  """Return the sorted names of a folder's sub-folders, without those that begin with a dot.

  Raises:
    OSError: the folder cannot be read.
  """
  with os.scandir(folder) as entries:
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def list_files(root: pathlib.Path, folder: pathlib.Path) -> list[File]:
  """Return all files at any depth below a folder, sorted by name.

  Files and folders whose names begin with a dot are skipped.

  Args:
    root: the folder that names are relative to.
    folder: `root` or a folder below it.

  Raises:
    OSError: a folder cannot be read.
  """

  def fail(error: OSError) -> None:  # os.walk would skip a folder that cannot be read
    raise error

  names = []
  for parent, subfolders, filenames in os.walk(folder, onerror=fail):
    subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    prefix = pathlib.Path(parent).relative_to(root).as_posix()
    names += [f"{prefix}/{name}" for name in filenames if not name.startswith(".")]
  return [File(name, functools.partial(read_file, root / name)) for name in sorted(names)]


def read_file(path: pathlib.Path) -> bytes:
  """Return a file's content.

  Raises:
    FileNotFoundError, PermissionError, ValueError: the file cannot be used as an image.
    errors.UserError: the disk or the network failed, so another run might read the file.
  """
  try:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
      raise ValueError("not a regular file")
    if status.st_size > _MAX_BYTES:
      raise ValueError(f"{status.st_size} bytes; an image may have at most {_MAX_BYTES}")
    return path.read_bytes()
  except (FileNotFoundError, PermissionError):
    raise
  except OSError as error:
    raise errors.UserError(
      f"data.source: {path}: cannot be read ({error.strerror}); check the disk and run again"
    ) from error


def list_tfds_files(folder: pathlib.Path) -> dict[str, list[File]]:
  """Return the photos of TFDS's cats_vs_dogs in ArrayRecord by class, sorted by name.

  Raises:
    errors.UserError: the folder is damaged or holds another dataset.
  """
  with array_record.explain_damage(folder):
    records = array_record.open_records(folder, "train")

    def read(index: int) -> bytes:
      return records[index]["image"]

    class_names = records.dataset_info.features["label"].names
    files: dict[str, list[File]] = {name: [] for name in class_names}
    for index, record in array_record.iterate(records):
      file = File(record["image/filename"].decode(), functools.partial(read, index))
      files[class_names[record["label"]]].append(file)
  return {name: sorted(of_class, key=lambda file: file.name) for name, of_class in files.items()}


def decode(content: bytes, size: int | None, interpolation: str, crop: str = "none") -> np.ndarray:
  """Decode one image as Keras' `load_img(target_size=(size, size))` does.

  Orientation and 16-bit grey are treated differently; see image_folder.py.

  With the centre crop, a JPEG is decoded at half, a quarter or an eighth of its size if that leaves
  at least twice `size`, because this is several times faster.

  Args:
    content: the file's content.
    size: height and width in pixels; None keeps the image's size.
    interpolation: Pillow's name for the interpolation, in lower case.
    crop: 'none' resizes the whole image, whatever its proportions; 'center' resizes its largest
      central square.

  Returns:
    [size, size, 3] uint8, or [height, width, 3].

  Raises:
    Exception: the content is not a usable image. Almost any type is possible; the message says why.
  """
  from PIL import Image, ImageOps, UnidentifiedImageError

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # they concern images that can still be read
    try:
      image: Image.Image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError as error:
      raise ValueError("not an image") from error
    # Pillow only warns of this, and threads share the filters that turn warnings into errors.
    if image.width * image.height > _MAX_PIXELS:
      raise ValueError(f"{image.width * image.height} pixels; at most {_MAX_PIXELS} are allowed")
    if size is not None and crop == "center":
      image.draft(None, (2 * size, 2 * size))
    image.load()
    with contextlib.suppress(Exception):  # an intact image may have damaged EXIF data
      ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
      image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
      raise ValueError(f"the range of its pixels (mode {image.mode}) is unknown")
    image = image.convert("RGB")
    if crop == "center":
      image = image.crop(_find_central_square(*image.size))
    if size is not None and image.size != (size, size):
      image = image.resize((size, size), Image.Resampling[interpolation.upper()])
    return np.asarray(image)


def _find_central_square(width: int, height: int) -> tuple[int, int, int, int]:
  """Return left, top, right and bottom of an image's largest central square."""
  side = min(width, height)
  left, top = (width - side) // 2, (height - side) // 2
  return (left, top, left + side, top + side)
