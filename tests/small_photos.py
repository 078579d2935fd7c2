"""Folders of small photos for tests."""

import io
import json
import pathlib

import numpy as np
from PIL import Image

from cifar_jax.data import datasets

SIZE = 4
OPTIONS = {"size": SIZE, "test_fraction": 0.5}


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
  """Return random whole numbers over all of the type's range."""
  return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **arguments: object) -> bytes:
  """Return the content of an image file; `arguments` are those of Pillow's `save`."""
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, kind, **arguments)
  return buffer.getvalue()


def solid(value: int) -> bytes:
  """Return a photo of one colour, which its first pixel identifies, in the final size."""
  return encoded(np.full((SIZE, SIZE, 3), value, np.uint8))


def write(root: pathlib.Path, files: dict[str, bytes]) -> str:
  """Write files below `root`; return its path."""
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  return str(root)


def tree(root: pathlib.Path, per_class: int = 4, prefix: str = "") -> str:
  """Write solid photos: cats of the values 0, 1, 2, …, dogs of 100, 101, 102, …"""
  files = {
    f"{prefix}{name}/{i:02d}.png": solid(first + i)
    for name, first in (("cat", 0), ("dog", 100))
    for i in range(per_class)
  }
  return write(root, files)


def values(split: datasets.Split) -> list[int]:
  """Return the values of a split's solid photos, in order."""
  for image in split.images:
    assert len(np.unique(image)) == 1
  return split.images[:, 0, 0, 0].tolist()


def load(
  data_dir: pathlib.Path, source: str | None, name: str = "image_folder", **options: object
) -> datasets.Dataset:
  """Load a folder of photos with `OPTIONS`, changed by `options`."""
  return datasets.load(name, str(data_dir), source, OPTIONS | options)


def left_out(data_dir: pathlib.Path) -> dict[str, str]:
  """Return the reasons in left_out.json by file name."""
  (path,) = (data_dir / "image_folder").glob("decoded-*/left_out.json")
  return {note["file"]: note["reason"] for note in json.loads(path.read_text())}
