"""Test sets other than the dataset's own, for `--mode=evaluate --test_set=…`.

  corruptions        the run's test images, corrupted here (see corruptions.py)
  a folder with labels.npy and <corruption>.npy
                     CIFAR-10-C's layout: five severities, one after the other, of the same images
  a folder with <name>_data.npy and <name>_labels.npy, or one such file, or 'images.npy,labels.npy'
                     images and labels, as CIFAR-10.1 has them
  a folder of folders
                     image files, one folder for each class, named as the network's classes

A path that does not exist is looked up in the data directory. Arrays are memory-mapped and never
unpickled.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from analysis import images as image_input
from analysis.evaluate import corruptions
from analysis.run import Run
from cifar_jax import errors
from cifar_jax.data import datasets, image_files
from cifar_jax.runs import test_uses
from cifar_jax.runtime.console import log, progress

MAKE_CORRUPTIONS = "corruptions"
_MAX_IMAGES = 10_000_000
_MAX_FILES = 200_000  # image files, which are decoded into memory


class Part(NamedTuple):
  """Images that are evaluated together.

  Attributes:
    corruption: its name; '' if there is none.
    severity: 1 to 5; None without severities.
    images: [n, height, width, channels] uint8.
    labels: [n] integers.
  """

  corruption: str
  severity: int | None
  images: np.ndarray
  labels: np.ndarray


class TestSet(NamedTuple):
  """A test set of one or several parts.

  Attributes:
    name: a short name.
    counts_as: the name under which its uses are counted: 'test' for corrupted test images.
    num_parts: the number of parts.
    parts: a function that yields the parts.
  """

  name: str
  counts_as: str
  num_parts: int
  parts: Callable[[], Iterator[Part]]


def open_test_set(run: Run, description: str) -> TestSet:
  """Find a test set that fits a network.

  Args:
    description: the value of --test_set.

  Raises:
    UserError: the test set is missing or damaged, or has other images or classes than the network.
  """
  if description == MAKE_CORRUPTIONS:
    return _make_corruptions(run)
  path, files = _find(run, description), description.split(",")
  if path is None and len(files) != 2:
    raise errors.UserError(
      f"--test_set: {description}: no such file or folder, here or in {_data_dir(run)}; name a "
      "folder, a .npy file, 'images.npy,labels.npy' or 'corruptions'"
    )
  try:
    if path is None:
      images, labels = (pathlib.Path(file).expanduser() for file in files)
      return _open_pair(run, images.stem, images, labels)
    return _open_folder(run, path) if path.is_dir() else _open_pair(run, *_complete_pair(path))
  except OSError as error:
    raise errors.UserError(
      f"--test_set: {error.filename or path}: cannot be read ({error.strerror or error}); correct "
      "this, or name another"
    ) from error


def _data_dir(run: Run) -> pathlib.Path:
  return pathlib.Path(datasets.find_data_dir(run.config.data.dir or None))


def _find(run: Run, description: str) -> pathlib.Path | None:
  """Return the file or folder that a description names; None if there is none."""
  try:
    for path in (pathlib.Path(description).expanduser(), _data_dir(run) / description):
      if path.exists():
        return path
  except (OSError, ValueError, RuntimeError):  # too long, a null character, or no such home
    pass
  return None


def _open_folder(run: Run, folder: pathlib.Path) -> TestSet:
  arrays = sorted(path for path in folder.glob("*.npy") if not path.name.startswith("."))
  names = [path.name for path in arrays]
  if "labels.npy" in names and len(names) > 1:
    return _open_corrupted(run, folder, [path for path in arrays if path.name != "labels.npy"])
  pairs = [path for path in arrays if path.name.endswith("_data.npy")]
  if len(pairs) == 1:
    return _open_pair(run, *_complete_pair(pairs[0]))
  if pairs:
    raise errors.UserError(
      f"--test_set: {folder}: holds {', '.join(path.name for path in pairs)}; name one of them"
    )
  if arrays:
    raise errors.UserError(
      f"--test_set: {folder}: holds neither labels.npy nor a file that ends in _data.npy; name "
      "'images.npy,labels.npy'"
    )
  return _open_image_files(run, folder)


# --- Arrays --------------------------------------------------------------------------------------


def _complete_pair(path: pathlib.Path) -> tuple[str, pathlib.Path, pathlib.Path]:
  """Return the name of a test set, its images and its labels, given the file of the images."""
  for word in ("data", "images"):
    head, found, tail = path.name.rpartition(word)
    if found:
      return head.strip("_") or word, path, path.with_name(f"{head}labels{tail}")
  raise errors.UserError(
    f"--test_set: {path}: has neither 'data' nor 'images' in its name, so the file of its labels "
    "is unknown; name 'images.npy,labels.npy'"
  )


def _open_pair(
  run: Run, name: str, images_file: pathlib.Path, labels_file: pathlib.Path
) -> TestSet:
  images, labels = _read_images(run, images_file), _read_labels(run, labels_file)
  _check_lengths(images_file, images, labels)
  return TestSet(name, name, 1, lambda: iter([Part("", None, images, labels)]))


def _open_corrupted(run: Run, folder: pathlib.Path, files: list[pathlib.Path]) -> TestSet:
  labels = _read_labels(run, folder / "labels.npy")
  arrays = {file.stem: _read_images(run, file) for file in files}
  for file in files:
    _check_lengths(file, arrays[file.stem], labels)
  size, rest = divmod(len(labels), len(corruptions.SEVERITIES))
  if rest or (labels.reshape(len(corruptions.SEVERITIES), size) != labels[:size]).any():
    raise errors.UserError(
      f"--test_set: {folder / 'labels.npy'}: does not repeat the same labels five times, once for "
      "each severity; restore the file, or name 'images.npy,labels.npy'"
    )

  def list_parts() -> Iterator[Part]:
    for name, images in arrays.items():
      for i, severity in enumerate(corruptions.SEVERITIES):
        yield Part(name, severity, images[i * size : (i + 1) * size], labels[:size])

  num_parts = len(files) * len(corruptions.SEVERITIES)
  return TestSet(folder.name, test_uses.OFFICIAL, num_parts, list_parts)


def _read_array(file: pathlib.Path) -> np.ndarray:
  try:
    return np.load(file, mmap_mode="r", allow_pickle=False)
  except OSError:
    raise
  except Exception as error:  # NumPy parses an array's header as Python: any exception is possible
    raise errors.UserError(
      f"--test_set: {file}: not a .npy array ({errors.describe(error)}); restore the file"
    ) from error


def _read_images(run: Run, file: pathlib.Path) -> np.ndarray:
  images = _read_array(file)
  if images.ndim == 3 and run.image_shape[2] == 1:
    images = images[..., None]
  if (
    images.dtype != np.uint8
    or images.shape[1:] != run.image_shape
    or not 0 < len(images) <= _MAX_IMAGES
  ):
    raise errors.UserError(
      f"--test_set: {file}: {images.dtype} of shape {images.shape}; {run.name} takes uint8 of "
      f"shape (n, {', '.join(map(str, run.image_shape))})"
    )
  return images


def _read_labels(run: Run, file: pathlib.Path) -> np.ndarray:
  labels, num_classes = _read_array(file), len(run.class_names)
  if labels.ndim != 1 or labels.dtype.kind not in "iu" or not 0 < len(labels) <= _MAX_IMAGES:
    raise errors.UserError(
      f"--test_set: {file}: {labels.dtype} of shape {labels.shape}, but labels are whole numbers "
      "of shape (n,); restore the file"
    )
  if labels.min() < 0 or labels.max() >= num_classes:
    raise errors.UserError(
      f"--test_set: {file}: has labels from {labels.min()} to {labels.max()}, but {run.name} knows "
      f"the classes 0 to {num_classes - 1}; name a test set of {run.description['name']}"
    )
  return np.array(labels, np.int32)


def _check_lengths(file: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> None:
  if len(images) != len(labels):
    raise errors.UserError(
      f"--test_set: {file}: has {len(images):,} images, but there are {len(labels):,} labels; "
      "restore the files"
    )


# --- Image files and corruptions -----------------------------------------------------------------


def _open_image_files(run: Run, folder: pathlib.Path) -> TestSet:
  """Decode the image files below a folder as `--mode=predict` does."""
  classes = image_files.list_folders(folder)
  unknown = [name for name in classes if name not in run.class_names]
  if unknown or not classes:
    raise errors.UserError(
      f"--test_set: {folder}: its folders are {', '.join(classes) or 'none'}, but the classes of "
      f"{run.name} are {', '.join(run.class_names)}; name the folders after the classes"
    )
  decoding = image_input.choose_decoding(run)
  files = [
    (name, file)
    for name in classes
    for file in image_files.list_files(folder, folder / name)
    if file.is_named_as_image
  ]
  if len(files) > _MAX_FILES:
    raise errors.UserError(
      f"--test_set: {folder}: holds {len(files):,} image files; name at most {_MAX_FILES:,}"
    )
  images, labels, left_out = [], [], []
  with progress("decode", len(files), "images") as advance:
    for name, file in files:
      try:
        images.append(image_input.decode(file.read(), *decoding))
        labels.append(run.class_names.index(name))
      except errors.UserError:
        raise
      except Exception as error:  # depending on the bytes, Pillow raises almost anything
        left_out.append(f"{errors.printable(file.name)} ({image_input.describe_error(error)})")
      advance(1)
  if not images:
    raise errors.UserError(f"--test_set: {folder}: holds no image file that can be read; add some")
  if left_out:
    log.warning("left out %d files that cannot be read, such as %s", len(left_out), left_out[0])
  part = Part("", None, np.stack(images), np.array(labels, np.int32))
  return TestSet(folder.name, folder.name, 1, lambda: iter([part]))


def _make_corruptions(run: Run) -> TestSet:
  test = run.load_data()[0].test
  names = corruptions.list_names(run.image_shape[2])

  def list_parts() -> Iterator[Part]:
    images = np.asarray(test.images[np.arange(len(test.labels))])
    yield Part("none", None, images, test.labels)
    for name in names:
      for severity in corruptions.SEVERITIES:
        yield Part(name, severity, corruptions.corrupt(name, severity, images), test.labels)

  num_parts = 1 + len(names) * len(corruptions.SEVERITIES)
  return TestSet(MAKE_CORRUPTIONS, test_uses.OFFICIAL, num_parts, list_parts)
