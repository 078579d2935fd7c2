"""Decoded images on disk: plain .npy files that a later start maps into memory.

A cache folder holds `<split>_images.npy` (uint8 [n, height, width, channels]) and, for each kind of
label, `<split>_<label>.npy` (int32 [n]). Its index.json lists the shape, dtype and SHA-256 of each
array, the class names, and the mean and standard deviation of each channel. A folder gets its final
name only when it is complete, and every read checks every byte (docs/measurements.md has the cost).
"""

import dataclasses
import hashlib
import json
import os

import numpy as np
from etils import epath

from cifar_jax.runtime.console import log

SPLITS = ("train", "test")
WARNINGS = "warnings.json"  # a list of lines to log at every start, if the data has a defect
_INDEX = "index.json"


class Unusable(Exception):
  """The cache folder is missing or damaged; the message says which."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """One official split, in the official order.

  Attributes:
    images: [n, height, width, channels] uint8, read-only and memory-mapped.
    labels: [n] int32.
    ids: [n] int32, the index in the official order, equal to the position here. For CIFAR-10's
      training split, `ids // 10000` is the official batch file, counted from 0.
  """

  images: np.ndarray
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
    images: by split, [n, height, width, channels] uint8.
    labels: by split and kind of label, [n] integers.
    class_names: by kind of label, one name for each label value.
  """

  images: dict[str, np.ndarray]
  labels: dict[str, dict[str, np.ndarray]]
  class_names: dict[str, tuple[str, ...]]


def write(folder: epath.Path, decoded: Decoded) -> None:
  """Write the cache's files into a new folder.

  Raises:
    OSError: the folder exists or cannot be written, or the disk is full.
  """
  folder.mkdir()
  arrays = {f"{split}_images": decoded.images[split] for split in SPLITS}
  for split in SPLITS:
    for label, values in decoded.labels[split].items():
      arrays[f"{split}_{label}"] = values.astype(np.int32)
  for stem, array in arrays.items():
    np.save(folder / f"{stem}.npy", array, allow_pickle=False)
  mean, std = _compute_moments(decoded.images["train"])
  index = {
    "arrays": {stem: _describe(array) for stem, array in arrays.items()},
    "class_names": decoded.class_names,
    "mean": mean,
    "std": std,
  }
  (folder / _INDEX).write_text(json.dumps(index, indent=1))


def read(folder: epath.Path, name: str, label: str) -> Dataset:
  """Load the dataset `name` from a cache folder, and check every byte against the index.

  Log the lines of WARNINGS, if the folder has this file.

  Args:
    folder: the cache folder.
    name: the name for `Dataset.name`.
    label: the kind of label to load.

  Raises:
    Unusable: the folder is missing, or a file in the folder is missing, truncated or altered.
  """
  if not folder.exists():
    raise Unusable(f"{folder}: no decoded images yet")
  try:
    index = json.loads((folder / _INDEX).read_text())
    arrays = {}
    for stem in [f"{split}_{part}" for split in SPLITS for part in ("images", label)]:
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

  A folder that was at `final` moves to the parent of `complete`, for the caller to delete.
  """
  if final.exists():
    os.replace(final, complete.parent / "replaced")
  os.replace(complete, final)


def _make_split(images: np.ndarray, labels: np.ndarray) -> Split:
  return Split(images, np.array(labels), np.arange(len(labels), dtype=np.int32))


def _describe(array: np.ndarray) -> dict[str, object]:
  sha256 = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
  return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": sha256}


def _compute_moments(images: np.ndarray) -> tuple[list[float], list[float]]:
  """Return the mean and the standard deviation of each channel, with pixels scaled to [0, 1].

  The sums are exact integers, so every machine computes the same figures in any order of summation.
  """
  channels = images.shape[-1]
  total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
  for start in range(0, len(images), 1000):
    pixels = images[start : start + 1000].reshape(-1, channels).astype(np.int64)
    total += pixels.sum(0)
    squares += (pixels**2).sum(0)
  count = images.size // channels
  mean = total / count
  std = np.sqrt(squares / count - mean**2)
  return (mean / 255).tolist(), (std / 255).tolist()
