"""Photo files that are decoded when they are indexed, in place of an array of their pixels.

Memory and cache hold only the file names, the SHA-256 and the recipe, so the pixels need not fit.
Each process decodes only the photos of its rows.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.data import image_files


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoArray:
  """An array [n, size, size, 3] uint8 whose first axis can be indexed as in NumPy.

  Attributes:
    root: the folder with the photos.
    names: the names of the files below `root`.
    sha256: [n, 32] uint8, SHA-256 of each file. Reading a file that has changed is an error.
    size, interpolation, crop: how to decode a file; see `image_files.decode`.
  """

  root: str
  names: Sequence[str]
  sha256: np.ndarray
  size: int
  interpolation: str
  crop: str

  dtype = np.dtype(np.uint8)

  @property
  def shape(self) -> tuple[int, int, int, int]:
    return (len(self.names), self.size, self.size, 3)

  @property
  def nbytes(self) -> int:
    """The size of the pixels in bytes."""
    return len(self.names) * self.size * self.size * 3

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: Any) -> np.ndarray:
    """Decode the photos that an index selects: a number, a slice, an array of numbers or a mask.

    Raises:
      errors.UserError: a file is missing, cannot be read, or has changed.
    """
    numbers = np.arange(len(self))[index]
    images = np.empty((*numbers.shape, *self.shape[1:]), np.uint8)
    for image, number in zip(images.reshape(-1, *self.shape[1:]), numbers.flat, strict=True):
      image[:] = self._decode(int(number))
    return images

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.asarray(self[:], dtype)

  def _decode(self, number: int) -> np.ndarray:
    path = pathlib.Path(self.root, self.names[number])
    try:
      content = image_files.read_file(path)
    except (OSError, ValueError) as error:
      reason = getattr(error, "strerror", None) or error
      raise errors.UserError(
        f"data.source: {path}: cannot be read ({reason}); restore the file, or run again without it"
      ) from error
    if hashlib.sha256(content).digest() != self.sha256[number].tobytes():
      raise errors.UserError(
        f"data.source: {path}: has changed since it was prepared; run again to prepare the "
        "photos anew"
      )
    return image_files.decode(content, self.size, self.interpolation, self.crop)

  def describe(self) -> dict[str, object]:
    """Return the shape, the dtype, and one SHA-256 of all files' SHA-256 and how to decode them."""
    recipe = json.dumps([self.size, self.interpolation, self.crop]).encode()
    sha256 = hashlib.sha256(recipe + self.sha256.tobytes()).hexdigest()
    return {"shape": list(self.shape), "dtype": str(self.dtype), "sha256": sha256}

  def save(self, folder: epath.Path, stem: str) -> None:
    """Write `<stem>.json` and `<stem>_sha256.npy` into a folder."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    np.save(folder / f"{stem}_sha256.npy", fields.pop("sha256"), allow_pickle=False)
    (folder / f"{stem}.json").write_text(json.dumps(fields))

  @classmethod
  def load(cls, folder: epath.Path, stem: str) -> "PhotoArray":
    """Read what `save` wrote.

    Raises:
      FileNotFoundError: the folder with the photos is missing.
    """
    sha256 = np.load(folder / f"{stem}_sha256.npy", allow_pickle=False)
    photos = cls(**json.loads((folder / f"{stem}.json").read_text()), sha256=sha256)
    os.stat(photos.root)
    return photos
