"""CIFAR-10 and CIFAR-100 from the official archives for Python, which PyTorch and Keras download.

Each file is a pickled dict with the pixels ([records, 3072] uint8, planes as in the binary version)
and lists of the labels. plain_pickle.py reads the pickles without executing them.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from etils import epath

from cifar_jax.data import fetch, plain_pickle

_PIXEL_BYTES = 3 * 32 * 32
_NAME_BYTES = 256  # per record, for its file name and labels; the official files need at most 62


@dataclasses.dataclass(frozen=True)
class PythonArchive:
  """One of the datasets in its official version for Python.

  Attributes:
    sha256: SHA-256 of the archive; Keras lists the same.
    labels: by kind of label, its key in the pickled dict.
    mirrors: URLs of the archive on other hosts.
  """

  sha256: str
  labels: Mapping[str, str]
  mirrors: tuple[str, ...] = ()

  def limits(self, files: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the largest possible size in bytes of each file, by file name.

    Args:
      files: by split, the number of records in each binary file, in the official order.
    """
    return {
      python: count * (_PIXEL_BYTES + _NAME_BYTES) + (1 << 12)
      for python, (_, count) in self._pair(files).items()
    }

  def to_binary(
    self,
    contents: Mapping[str, bytes],
    files: Mapping[str, Mapping[str, int]],
    origin: epath.Path,
  ) -> dict[str, bytes]:
    """Return the contents of the official binary files.

    Args:
      contents: the contents of the files that `limits` names.
      files: as for `limits`.
      origin: where the contents come from, for messages.

    Raises:
      fetch.Failed: a file is damaged or has another format.
    """
    return {
      binary: self._convert(contents[python], count, f"{origin}: {python}")
      for python, (binary, count) in self._pair(files).items()
    }

  def _pair(self, files: Mapping[str, Mapping[str, int]]) -> dict[str, tuple[str, int]]:
    """Return the name and the number of records of each binary file, by the Python file's name."""
    return {
      name.removesuffix(".bin"): (name, count)
      for split in files
      for name, count in files[split].items()
    }

  def _convert(self, content: bytes, num_records: int, origin: str) -> bytes:
    """Convert one Python file to the content of its binary file."""
    try:
      values = plain_pickle.read(content)
    except plain_pickle.Refused as error:
      raise fetch.Failed(f"{origin}: {error}") from error
    columns = [_get_labels(values, key, num_records, origin) for key in self.labels.values()]
    pixels = values.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.shape != (num_records, _PIXEL_BYTES):
      raise fetch.Failed(f"{origin}: 'data' is not {num_records} x {_PIXEL_BYTES} bytes")
    return np.column_stack([*columns, pixels]).tobytes()


def _get_labels(
  values: Mapping[str, object], key: str, num_records: int, origin: str
) -> np.ndarray:
  """Return a list of labels as an array: [num_records] uint8."""
  labels = values.get(key)
  if (
    not isinstance(labels, list)
    or len(labels) != num_records
    or not all(type(label) is int and 0 <= label < 256 for label in labels)
  ):
    raise fetch.Failed(f"{origin}: {key!r} is not a list of {num_records} whole numbers")
  return np.array(labels, np.uint8)
