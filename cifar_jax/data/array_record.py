"""TFDS datasets in ArrayRecord: write them from plain arrays and read them, without TensorFlow."""

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.runtime.console import log, progress

# An image ([height, width, 3] uint8) with its labels by kind.
Example: TypeAlias = tuple[np.ndarray, Mapping[str, int]]

# Records read per call: large enough to make few calls, small enough to need little memory.
_CHUNK_RECORDS = 1000


class Records(Protocol):
  """Random access to a split's records, with images encoded as they are stored."""

  dataset_info: Any  # tfds.core.DatasetInfo

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]: ...

  def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]: ...


def exists(folder: epath.Path) -> bool:
  """Return whether `folder` holds a dataset in ArrayRecord; False if `folder` is empty or missing.

  Args:
    folder: `<data_dir>/<name>/<version>`.

  Raises:
    errors.UserError: the folder holds other files, such as the dataset in TFRecord format.
  """
  if any(folder.glob("*.array_record*")):
    return True
  if any(folder.glob("*.tfrecord*")):
    raise errors.UserError(
      f"{folder}: is in TFRecord format, which needs TensorFlow to read; set "
      "--config.data.dir to another folder, delete this one, or convert it on a machine with "
      "TensorFlow, apache-beam and mlcroissant: tfds convert_format "
      f"--dataset_version_dir={folder} --out_file_format=array_record"
    )
  if folder.exists() and any(folder.iterdir()):
    raise errors.UserError(
      f"{folder}: holds no TFDS dataset in ArrayRecord; delete this folder, or set "
      "--config.data.dir to another folder"
    )
  return False


def write(
  stock: str,
  splits: Mapping[str, Sequence[Example]],
  class_names: Mapping[str, tuple[str, ...]],
  work: epath.Path,
) -> epath.Path:
  """Write a dataset exactly as one of TFDS's stock image builders would.

  Args:
    stock: the builder's class name in `tfds.image_classification`. Its features are an image, an id
      (`<split>_<index, 5 digits>`) and labels.
    splits: by split, the examples in the official order.
    class_names: by kind of label.
    work: the folder to work in.

  Returns:
    The complete folder, below `work`.

  Raises:
    OSError: the disk is full or cannot be written.
  """
  import tensorflow_datasets as tfds

  # The base class is known only at run time.
  stock_builder: Any = getattr(tfds.image_classification, stock)
  with tfds.core.registered.skip_registration():

    class Builder(stock_builder):
      """The stock builder with another source of images."""

      name = stock_builder.name
      __module__ = stock_builder.__module__  # recorded in dataset_info.json

      def _split_generators(self, dl_manager: object) -> dict[str, Iterable]:
        for label, names in class_names.items():
          self.info.features[label].names = names
        return {split: _encode(self.name, split, splits[split]) for split in splits}

  builder = Builder(data_dir=work / "tfds")
  tfds.disable_progress_bar()  # `_encode` shows the progress
  try:
    # TFDS would print the size of a download that never happens.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(file_format="array_record")
  except RuntimeError as error:  # which ArrayRecord raises for system errors
    raise OSError(" ".join(str(error).split())) from error
  return epath.Path(builder.data_dir)


def _encode(
  name: str, split: str, examples: Sequence[Example]
) -> Iterator[tuple[int, dict[str, object]]]:
  """Yield the examples of a split in the form that a TFDS builder takes; show the progress."""
  from PIL import Image

  title = f"{name}: preparing {split}"
  log.info("%s", title)
  with progress(title, len(examples), "images") as advance:
    for index, (pixels, labels) in enumerate(examples):
      # TFDS encodes arrays with TensorFlow, but Pillow's images with Pillow.
      image = Image.fromarray(np.ascontiguousarray(pixels))
      yield index, {"id": f"{split}_{index:05d}", "image": image, **labels}
      advance(1)


def read(
  folder: epath.Path, split: str, shape: tuple[int, int, int, int], labels: Iterable[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Read a whole split in the official order, which the records' ids give.

  Args:
    folder: the dataset's folder.
    split: the split's name.
    shape: (n, height, width, channels), the expected shape of all images together.
    labels: the kinds of label to read.

  Returns:
    images: [n, height, width, channels] uint8.
    labels: by kind of label, [n] int32.

  Raises:
    errors.UserError: the folder is damaged or holds another dataset.
  """
  from PIL import Image

  images = np.zeros(shape, np.uint8)
  values = {label: np.zeros(shape[0], np.int32) for label in labels}
  title = f"{folder.parent.name}: decoding {split}"
  with explain_damage(folder):
    records = open_records(folder, split)
    log.info("%s", title)
    with progress(title, len(records), "images") as advance:
      for _, record in iterate(records):
        index = int(record["id"].decode().removeprefix(f"{split}_"))
        with Image.open(io.BytesIO(record["image"]), formats=["PNG"]) as image:
          images[index] = np.asarray(image)
        for label in values:
          values[label][index] = record[label]
        advance(1)
  return images, values


def open_records(folder: os.PathLike, split: str) -> Records:
  """Open a split for reading. Call this, like all code that reads records, in `explain_damage`."""
  import tensorflow_datasets as tfds

  return tfds.builder_from_directory(folder).as_data_source(
    split,
    # The caller decodes the images, because TFDS would use OpenCV if that is installed.
    decoders={"image": tfds.decode.SkipDecoding()},
    file_format="array_record",
  )


def iterate(records: Records) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yield the index and the content of each record, in stored order."""
  for start in range(0, len(records), _CHUNK_RECORDS):
    chunk = range(start, min(start + _CHUNK_RECORDS, len(records)))
    yield from zip(chunk, records.__getitems__(chunk), strict=True)


@contextlib.contextmanager
def explain_damage(folder: os.PathLike) -> Iterator[None]:
  """Convert any error of the block into a one-line `UserError` about the dataset in `folder`.

  Damaged records and records of another dataset make TFDS and ArrayRecord raise exceptions of many
  types.
  """
  try:
    yield
  except Exception as error:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise errors.UserError(
      f"{folder}: cannot be read as this dataset ({reason}); delete this folder and run again, or "
      "set --config.data.dir to another folder"
    ) from error
