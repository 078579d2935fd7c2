"""Find, read and decode image files as input for a trained network.

Files are decoded like the training photos, by `image_files.decode`: rotated upright, resized to a
square whatever their proportions, and with 16-bit grey reduced to its high byte. One step differs:
transparent pixels are composited onto white, as a viewer shows them, whereas training drops the
transparency, as Keras does.
"""

import inspect
import io
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.exported import ExportedNetwork
from analysis.run import Run
from cifar_jax import errors
from cifar_jax.data import datasets, image_files

# For networks trained on arrays of images; docs/measurements.md compares it with others.
_INTERPOLATION = "bilinear"
_WITH_TRANSPARENCY = ("BMP", "GIF", "PNG", "TIFF", "WEBP")
_MAX_BYTES = 1 << 28


class Decoding(NamedTuple):
  """How to decode a file for a network.

  Attributes:
    shape: height, width and channels; a square, with 1 channel (grey) or 3.
    interpolation: how to resize, by Pillow's name.
    crop: the part of the image to resize, as in `image_files.decode`.
  """

  shape: tuple[int, int, int]
  interpolation: str
  crop: str = "none"


def find_files(paths: Sequence[str | os.PathLike]) -> list[pathlib.Path]:
  """Return the named files, and for each folder all image files below it, sorted.

  A file that is named directly is returned whatever its extension. In folders, names that begin
  with a dot are skipped.

  Raises:
    UserError: `paths` is empty, or a folder holds no image file or cannot be read.
  """
  if not paths:
    raise errors.UserError("images: none given; name image files, or folders of them")
  files = []
  for name in paths:
    expanded = os.path.expanduser(name)  # like isdir, and unlike Path's methods, never raises
    path = pathlib.Path(expanded)
    files += _files_below(path) if os.path.isdir(expanded) else [path]
  return files


def _files_below(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    files = [folder / f.name for f in image_files.list_files(folder, folder) if f.is_named_as_image]
  except OSError as error:
    raise errors.UserError(
      f"{error.filename}: the folder cannot be read ({error.strerror}); fix its permissions, or "
      "name files"
    ) from error
  if not files:
    raise errors.UserError(
      f"{printable(folder)}: holds no image file (.jpg, .png, …); name a folder with image files, "
      "or files"
    )
  return sorted(files)


def read_file(path: pathlib.Path) -> bytes:
  """Return the content of a file.

  Raises:
    OSError: the file is missing or cannot be read.
    ValueError: the path is not a regular file, or the file is far too large for an image.
  """
  status = path.stat()
  if not path.is_file():  # reading a pipe would block
    raise ValueError("not a regular file")
  if status.st_size > _MAX_BYTES:
    raise ValueError(f"{status.st_size:,} bytes; an image file may have {_MAX_BYTES:,}")
  return path.read_bytes()


def decode(
  content: bytes, shape: tuple[int, int, int], interpolation: str, crop: str = "none"
) -> np.ndarray:
  """Decode one image for a network that takes images of `shape`.

  Args:
    content: the bytes of the file.
    shape: height, width and channels; a square, with 1 channel (grey) or 3.
    interpolation: how to resize, by Pillow's name.
    crop: the part of the image to resize, as in `image_files.decode`.

  Returns:
    [height, width, channels] uint8.

  Raises:
    Exception: of almost any type, if the content is not a valid image; the message says why.
  """
  from PIL import Image

  image = _decode_opaque(content, shape[0], interpolation, crop)
  return image if shape[2] == 3 else np.asarray(Image.fromarray(image).convert("L"))[..., None]


def read_photo(path: pathlib.Path, max_side: int) -> np.ndarray:
  """Return an image file as a viewer shows it, uint8 [height, width, 3].

  max_side: the maximum height and width; larger images are scaled down and keep their proportions.

  Raises:
    Exception: of almost any type, if the file cannot be read or is not a valid image.
  """
  from PIL import Image

  image = Image.fromarray(_decode_opaque(read_file(path), None, _INTERPOLATION))
  image.thumbnail((max_side, max_side))
  return np.asarray(image)


def _decode_opaque(
  content: bytes, size: int | None, interpolation: str, crop: str = "none"
) -> np.ndarray:
  """Decode an image like `image_files.decode`, but with transparent pixels on white."""
  # Decode the unchanged content first, to reject what is not an image or has too many pixels.
  image = image_files.decode(content, size, interpolation, crop)
  opaque = _lay_on_white(content)
  return image if opaque is None else image_files.decode(opaque, size, interpolation, crop)


def choose_decoding(run: Run | ExportedNetwork) -> Decoding:
  """Return how to decode files for a network.

  Interpolation and crop are those of the training photos, or 'bilinear' and 'none' if the training
  images were arrays.

  Raises:
    UserError: the network takes images of a shape that files cannot be decoded to.
  """
  height, width, channels = run.image_shape
  if height != width or channels not in (1, 3):
    raise errors.UserError(
      f"{run.name}: takes images of shape {run.image_shape}; image files can only be decoded to "
      "squares with 1 or 3 channels, so choose another run"
    )
  entry = datasets.REGISTRY.get(run.description["name"])
  if entry is None or "interpolation" not in inspect.signature(entry.decode).parameters:
    return Decoding(run.image_shape, _INTERPOLATION)
  parameters = inspect.signature(entry.decode).parameters
  interpolation, crop = (
    run.config.data.options.get(name) or parameters[name].default
    for name in ("interpolation", "crop")
  )
  return Decoding(run.image_shape, interpolation, crop)


def printable(path: str | os.PathLike) -> str:
  """Return a path as text for any terminal or JSON: bytes that are not UTF-8 become \\x…"""
  return os.fsencode(path).decode("utf-8", "backslashreplace")


def describe_error(error: Exception) -> str:
  """Return in one line why a file could not be read or decoded."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return " ".join(str(error).split()) or type(error).__name__


def _lay_on_white(content: bytes) -> bytes | None:
  """Return an image file composited onto white and rotated upright; None if the image is opaque.

  content: the bytes of an image that was decoded before, and so has a reasonable size.
  """
  from PIL import Image, ImageOps, UnidentifiedImageError

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
      image: Image.Image = Image.open(io.BytesIO(content), formats=_WITH_TRANSPARENCY)
    except UnidentifiedImageError:
      return None
    if not image.has_transparency_data or image.mode.startswith("I"):
      return None
    try:
      image = ImageOps.exif_transpose(image)
    except Exception:  # the EXIF data of a valid image may be damaged
      image.load()
    image = image.convert("RGBA")
  white = Image.new("RGBA", image.size, "white")
  buffer = io.BytesIO()
  Image.alpha_composite(white, image).convert("RGB").save(buffer, "PPM")
  return buffer.getvalue()
