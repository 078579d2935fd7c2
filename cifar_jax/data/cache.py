"""Decoded images on disk: plain .npy files that later starts map into memory.

A cache folder holds `<split>_images.npy` (uint8 [n, height, width, channels]) and, for each kind of
label, `<split>_<label>.npy` (int32 [n]). Its index.json lists the shape, dtype and SHA-256 of each
array, the class names, and the mean and standard deviation of each channel. A folder gets its final
name only when it is complete, and every read checks every byte (docs/measurements.md has the cost).
Instead of arrays, the images may be photo files that stay where they are (photo_array.py). These
are checked when they are decoded.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from etils import epath

from cifar_jax.data.photo_array import PhotoArray
from cifar_jax.runtime.console import log

SPLITS = ("train", "test")
WARNINGS = "warnings.json"  # a list of lines to log at every start, if the data has a defect
Images: TypeAlias = np.ndarray | PhotoArray
_INDEX = "index.json"


class Unusable(Exception):
  """The cache folder is missing or damaged; the message says which."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """One official split, in the official order.

  Attributes:
    images: [n, height, width, channels] uint8, read-only and memory-mapped, or photos that are
      decoded when they are indexed.
    labels: [n] int32.
    ids: [n] int32, the index in the official order, equal to the position here. For CIFAR-10's
      training split, `ids // 10000` is the official batch file, counted from 0.
  """

  images: Images
  labels: np.ndarray
  ids: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A dataset that is ready to use.

  Attributes:
    name: one of `datasets.list_names()`.
    train: the official training split, from which callers take their validation split.
    test: the official test split.
    class_names: one name for each label value.
    fingerprint: 64 hex digits, a SHA-256 over every image and label of both splits.
    mean: the mean of each channel over the training images, with pixels scaled to [0, 1].
    std: the standard deviation of each channel over the same pixels.
  """

  name: str
  train: Split
  test: Split
  class_names: tuple[str, ...]
  fingerprint: str
  mean: tuple[float, ...]
  std: tuple[float, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
  """The arrays of a dataset, to be cached.

  Attributes:
    images: by split, [n, height, width, channels] uint8. The file of a memory-mapped array is moved
      instead of copied if it lies next to the cache folder.
    labels: by split and kind of label, [n] integers.
    class_names: by kind of label, one name for each label value.
    moments: those of the training images, if already known.
  """

  images: Mapping[str, Images]
  labels: dict[str, dict[str, np.ndarray]]
  class_names: dict[str, tuple[str, ...]]
  moments: "Moments | None" = None


def write(folder: epath.Path, decoded: Decoded) -> None:
  """Write the cache's files into a new folder.

  Raises:
    OSError: the folder exists or cannot be written, or the disk is full.
  """
  folder.mkdir()
  arrays: dict[str, Images] = {f"{split}_images": decoded.images[split] for split in SPLITS}
  for split in SPLITS:
    for label, values in decoded.labels[split].items():
      arrays[f"{split}_{label}"] = values.astype(np.int32)
  for stem, array in arrays.items():
    filename = getattr(array, "filename", None)
    if isinstance(array, PhotoArray):
      array.save(folder, stem)
    elif filename and pathlib.Path(filename).parent == pathlib.Path(folder).parent:
      os.replace(filename, folder / f"{stem}.npy")
    else:
      np.save(folder / f"{stem}.npy", array, allow_pickle=False)
  moments = decoded.moments or _compute_moments(decoded.images["train"])
  mean, std = moments.finish()
  index = {
    "arrays": {stem: _describe(array) for stem, array in arrays.items()},
    "class_names": decoded.class_names,
    "mean": mean,
    "std": std,
  }
  (folder / _INDEX).write_text(json.dumps(index, indent=1))


def read(folder: epath.Path, name: str, label: str) -> Dataset:
  """Load the dataset `name` from a cache folder, and check every byte against the index.

  Log the lines of the file WARNINGS, if there is one.

  Args:
    folder: the cache folder.
    name: becomes `Dataset.name`.
    label: the kind of label to load.

  Raises:
    Unusable: the folder is missing, or a file in the folder is missing, truncated or altered.
  """
  if not folder.exists():
    raise Unusable(f"{folder}: no decoded images yet")
  try:
    index = json.loads((folder / _INDEX).read_text())
    arrays: dict[str, Images] = {}
    for stem in [f"{split}_{part}" for split in SPLITS for part in ("images", label)]:
      if (folder / f"{stem}.json").exists():
        arrays[stem] = PhotoArray.load(folder, stem)
      else:
        arrays[stem] = np.load(folder / f"{stem}.npy", mmap_mode="r", allow_pickle=False)
      if _describe(arrays[stem]) != index["arrays"][stem]:
        raise Unusable(f"{folder}/{stem}.npy: differs from its description in {_INDEX}")
    if (folder / WARNINGS).exists():
      for line in json.loads((folder / WARNINGS).read_text()):
        log.warning("%s", line)
    descriptions = json.dumps([index["arrays"][stem] for stem in arrays], sort_keys=True)
    return Dataset(
      name=name,
      train=_make_split(arrays["train_images"], arrays[f"train_{label}"]),
      test=_make_split(arrays["test_images"], arrays[f"test_{label}"]),
      class_names=tuple(index["class_names"][label]),
      fingerprint=hashlib.sha256(descriptions.encode()).hexdigest(),
      mean=tuple(index["mean"]),
      std=tuple(index["std"]),
    )
  except Unusable:
    raise
  except Exception as error:  # NumPy parses an array's header as Python: any exception is possible
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    raise Unusable(f"{folder}: damaged ({reason})") from error


def publish(complete: epath.Path, final: epath.Path) -> None:
  """Move a complete folder to its final place atomically.

  An old folder at `final` is moved to the parent of `complete`, for the caller to delete.
  """
  if final.exists():
    os.replace(final, complete.parent / "replaced")
  os.replace(complete, final)


def _make_split(images: Images, labels: Images) -> Split:
  return Split(images, np.array(labels), np.arange(len(labels), dtype=np.int32))


def _describe(array: Images) -> dict[str, object]:
  if isinstance(array, PhotoArray):
    return array.describe()
  sha256 = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
  return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": sha256}


class Moments:
  """The mean and the standard deviation of each channel, with pixels scaled to [0, 1].

  The sums are exact integers, so every machine and every order of summation gives the same result.
  """

  def __init__(self, num_channels: int):
    self._counts = np.zeros((num_channels, 256), np.int64)  # of each value in each channel

  def add(self, images: np.ndarray) -> None:
    """Add images, [..., channels] uint8."""
    for channel, counts in enumerate(self._counts):
      counts += np.bincount(images[..., channel].ravel(), minlength=256)

  def finish(self) -> tuple[list[float], list[float]]:
    """Return the means and the standard deviations."""
    values, count = np.arange(256), self._counts[0].sum()
    mean = self._counts @ values / count
    std = np.sqrt(self._counts @ values**2 / count - mean**2)
    return (mean / 255).tolist(), (std / 255).tolist()


def _compute_moments(images: Images) -> Moments:
  moments = Moments(images.shape[-1])
  for start in range(0, len(images), 1000):
    moments.add(images[start : start + 1000])
  return moments


class ArrayWriter:
  """A .npy file that grows image by image, so that only one image at a time is in memory.

  Args:
    path: the new file.
    shape: the shape of one image, which is uint8.
  """

  def __init__(self, path: pathlib.Path, shape: tuple[int, ...]):
    path.unlink(missing_ok=True)
    self._file, self._shape, self._length = path.open("wb"), shape, 0
    self._write_header()

  def append(self, image: np.ndarray) -> None:
    self._file.write(np.ascontiguousarray(image).data)
    self._length += 1

  def finish(self) -> np.ndarray:
    """Complete the file, and return the array, memory-mapped."""
    self._file.seek(0)
    self._write_header()
    self._file.close()
    return np.load(self._file.name, mmap_mode="r", allow_pickle=False)

  def close(self) -> None:
    self._file.close()

  def _write_header(self) -> None:
    # NumPy leaves room for the first axis to grow, so each header has the same length.
    np.lib.format.write_array_header_1_0(
      self._file,
      {"descr": "|u1", "fortran_order": False, "shape": (self._length, *self._shape)},
    )
