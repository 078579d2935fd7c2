"""TFDS data sets in ArrayRecord: written from plain arrays and read back, without TensorFlow."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.runtime.console import log, progress

# Records are read this many at a time: few calls, little memory.
_CHUNK = 1000


def exists(folder: epath.Path) -> bool:
  """Whether a data set in ArrayRecord is at `folder`; False when the place is free.

  Args:
    folder: `<data_dir>/<name>/<version>`.

  Raises:
    errors.UserError: something else is there, such as the data set in TFRecord format.
  """
  if any(folder.glob("*.array_record*")):
    return True
  if any(folder.glob("*.tfrecord*")):
    raise errors.UserError(
      f"{folder}: is in TFRecord format, which needs TensorFlow to read; set "
      "--config.data.dir to another folder, delete this one, or convert it where TensorFlow, "
      f"apache-beam and mlcroissant are installed: tfds convert_format "
      f"--dataset_version_dir={folder} --out_file_format=array_record"
    )
  if folder.exists() and any(folder.iterdir()):
    raise errors.UserError(
      f"{folder}: holds no TFDS data set in ArrayRecord; delete it, or set "
      "--config.data.dir to another folder"
    )
  return False


def write(
  stock: str,
  splits: Mapping[str, Sequence[tuple[np.ndarray, Mapping[str, int]]]],
  class_names: Mapping[str, tuple[str, ...]],
  work: epath.Path,
) -> epath.Path:
  """Writes a data set just as one of TFDS's stock image builders would.

  Args:
    stock: class name of the builder in `tfds.image_classification`, whose features are an image,
      an id (`<split>_<index, 5 digits>`) and labels.
    splits: by split, in the official order, each image ([height, width, 3] uint8) with its labels.
    class_names: by kind of label.
    work: a folder to make it in.

  Returns:
    The finished folder, somewhere under `work`.

  Raises:
    OSError: the disk is full or cannot be written.
  """
  import tensorflow_datasets as tfds
  from PIL import Image

  def examples(split: str) -> Iterable[tuple[int, dict[str, object]]]:
    what = f"{builder.name}: preparing {split}"
    log.info("%s", what)
    with progress(what, len(splits[split]), "images") as advance:
      for index, (pixels, labels) in enumerate(splits[split]):
        # An array TFDS would encode with TensorFlow; one of Pillow's images it lets Pillow encode.
        image = Image.fromarray(np.ascontiguousarray(pixels))
        yield index, {"id": f"{split}_{index:05d}", "image": image, **labels}
        advance(1)

  stock_builder = getattr(tfds.image_classification, stock)
  with tfds.core.registered.skip_registration():

    class Builder(stock_builder):
      """The stock builder, but for where its images come from."""

      name = stock_builder.name
      __module__ = stock_builder.__module__  # recorded in dataset_info.json

      def _split_generators(self, dl_manager):
        for label, names in class_names.items():
          self.info.features[label].names = names
        return {split: examples(split) for split in splits}

  builder = Builder(data_dir=work / "tfds")
  tfds.disable_progress_bar()  # `progress` shows how far it is
  try:
    # TFDS prints what it is going to download, which is nothing.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(file_format="array_record")
  except RuntimeError as error:  # what ArrayRecord makes of the system's errors
    raise OSError(" ".join(str(error).split())) from error
  return epath.Path(builder.data_dir)


def read(
  folder: epath.Path, split: str, shape: tuple[int, int, int, int], labels: Iterable[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Reads a whole split back, in the official order, which the ids tell.

  Args:
    folder: of the data set.
    split: its name.
    shape: (n, height, width, channels) that the images must have together.
    labels: which kinds of label to read.

  Returns:
    images: [n, height, width, channels] uint8; and by kind of label, [n] int32.

  Raises:
    errors.UserError: the folder is damaged, or holds another data set.
  """
  import tensorflow_datasets as tfds
  from PIL import Image

  images = np.zeros(shape, np.uint8)
  values = {label: np.zeros(shape[0], np.int32) for label in labels}
  # Records of another data set, or damaged ones, fail in TFDS's or ArrayRecord's own many ways.
  try:
    records = tfds.builder_from_directory(folder).as_data_source(
      split,
      # Decoded here, because TFDS would take OpenCV if it happened to be installed.
      decoders={"image": tfds.decode.SkipDecoding()},
      file_format="array_record",
    )
    what = f"{folder.parent.name}: decoding {split}"
    log.info("%s", what)
    with progress(what, len(records), "images") as advance:
      for start in range(0, len(records), _CHUNK):
        chunk = range(start, min(start + _CHUNK, len(records)))
        for example in records.__getitems__(chunk):
          index = int(example["id"].decode().removeprefix(f"{split}_"))
          with Image.open(io.BytesIO(example["image"]), formats=["PNG"]) as image:
            images[index] = np.asarray(image)
          for label in values:
            values[label][index] = example[label]
        advance(len(chunk))
  except Exception as error:
    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise errors.UserError(
      f"{folder}: cannot be read as the data set it should be ({why}); "
      "delete that folder to have it prepared anew, or set --config.data.dir to another"
    ) from error
  return images, values
