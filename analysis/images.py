"""Image files as a trained network takes them: found, read and decoded as its training photos were.

Files go through `image_files.decode`: turned upright, resized to the square whatever their
proportions, the high byte of 16-bit grey. One thing differs: what is transparent is laid on white,
as a viewer shows it, where training on photos drops the transparency as Keras does.
"""

import inspect
import io
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np

from analysis.run import Run
from cifar_jax import errors
from cifar_jax.data import datasets, image_files

# For networks whose data set came as arrays, not as photos. Of 500 real photos of cats and dogs a
# CIFAR-10 network of 73 % test accuracy recognised 52 % so, 46 % by 'bicubic', 21 % by 'nearest'.
_INTERPOLATION = "bilinear"
_WITH_TRANSPARENCY = ("BMP", "GIF", "PNG", "TIFF", "WEBP")
_MAX_BYTES = 1 << 28


def find(paths: Sequence[str | os.PathLike]) -> list[pathlib.Path]:
  """The files that are named, and in place of a folder all image files below it, sorted.

  A file that is named itself is taken whatever it is called. Names that begin with a dot are passed
  over in folders.

  Raises:
    UserError: nothing is named, or a folder holds no image file or cannot be read.
  """
  if not paths:
    raise errors.UserError("images: none given; name image files, or folders of them")
  found = []
  for given in paths:
    name = os.path.expanduser(given)  # this and isdir never raise, as Path's own methods do
    path = pathlib.Path(name)
    if not os.path.isdir(name):
      found.append(path)
      continue
    try:
      below = [path / f.name for f in image_files.list_files(path, path) if f.is_named_as_image]
    except OSError as error:
      raise errors.UserError(
        f"{error.filename}: cannot be read as a folder ({error.strerror}); mend its permissions, "
        "or name files"
      ) from error
    if not below:
      raise errors.UserError(
        f"{printable(path)}: holds no image file (.jpg, .png, …); name a folder with some, or files"
      )
    found += sorted(below)
  return found


def read(path: pathlib.Path) -> bytes:
  """The content of a file.

  Raises:
    OSError: it is not there or cannot be read.
    ValueError: it is no regular file, or far too large for an image.
  """
  status = path.stat()
  if not path.is_file():  # a pipe would be waited for
    raise ValueError("no regular file")
  if status.st_size > _MAX_BYTES:
    raise ValueError(f"{status.st_size:,} bytes are more than the {_MAX_BYTES:,} of an image")
  return path.read_bytes()


def decode(content: bytes, shape: tuple[int, int, int], interpolation: str) -> np.ndarray:
  """One image, as a network for images of `shape` takes it.

  Args:
    content: of the file.
    shape: height, width and channels; a square, of 1 channel (grey) or 3.
    interpolation: as Pillow names it.

  Returns:
    [height, width, channels] uint8.

  Raises:
    Exception: of almost any kind, by what the content is; the message says why.
  """
  from PIL import Image

  size, channels = shape[0], shape[2]
  # First as it is, which refuses what is no image or has too many pixels.
  image = image_files.decode(content, size, interpolation)
  opaque = _on_white(content)
  if opaque is not None:
    image = image_files.decode(opaque, size, interpolation)
  return image if channels == 3 else np.asarray(Image.fromarray(image).convert("L"))[..., None]


def how_to_decode(run: Run) -> tuple[tuple[int, int, int], str]:
  """The shape and interpolation to decode images with for this network.

  The interpolation is the one that its training photos were decoded with, bilinear where they did
  not come as photos.

  Raises:
    UserError: the network takes images that files cannot be made into.
  """
  height, width, channels = run.image_shape
  if height != width or channels not in (1, 3):
    raise errors.UserError(
      f"{run.name}: takes images of shape {run.image_shape}; only square ones with 1 or 3 channels "
      "are made from files"
    )
  entry = datasets.REGISTRY.get(run.description["name"])
  options = inspect.signature(entry.decode).parameters if entry else {}
  if "interpolation" not in options:
    return run.image_shape, _INTERPOLATION
  chosen = run.config.data.options.get("interpolation")
  return run.image_shape, chosen or options["interpolation"].default


def printable(path: str | os.PathLike) -> str:
  """A path that any terminal and JSON take, bytes that are no UTF-8 written as \\x…"""
  return os.fsencode(path).decode("utf-8", "backslashreplace")


def _on_white(content: bytes) -> bytes | None:
  """An image with transparency laid on white, upright, as a file without; None if it has none.

  The content has been found to be an image of reasonable size.
  """
  from PIL import Image, ImageOps, UnidentifiedImageError

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
      image = Image.open(io.BytesIO(content), formats=_WITH_TRANSPARENCY)
    except UnidentifiedImageError:
      return None
    if not image.has_transparency_data or image.mode.startswith("I"):
      return None
    try:
      image = ImageOps.exif_transpose(image)
    except Exception:  # a sound image may have damaged EXIF data
      image.load()
    image = image.convert("RGBA")
  white = Image.new("RGBA", image.size, "white")
  buffer = io.BytesIO()
  Image.alpha_composite(white, image).convert("RGB").save(buffer, "PPM")
  return buffer.getvalue()
