"""CIFAR-10 and CIFAR-100 from the archives that PyTorch and Keras users have on disk."""

import hashlib
import importlib.util
import logging
import os
import pathlib
import pickle

import numpy as np
import pytest
from etils import epath
from small_datasets import (
  CIFAR100_COARSE,
  check_small,
  python_files,
  small_cifar10,
  small_cifar100,
  write_archive,
  write_folder,
)

from cifar_jax import errors
from cifar_jax.data import cifar, datasets, fetch

pytestmark = pytest.mark.usefixtures("small_cifar")


def write_source(folder, files, kind, prefix):
  if kind == "folder":
    return str(write_folder(folder / prefix, files))
  return str(write_archive(folder / f"{prefix}.tar.gz", files, prefix))


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_cifar10_for_python(kind, tmp_path, prepared):
  spec, files, _, _ = small_cifar10()
  others = {"batches.meta": b"x", "readme.html": b"y"}
  source = write_source(tmp_path, python_files(spec, files) | others, kind, "cifar-10-batches-py")
  dataset = datasets.load("cifar10", str(tmp_path / "data"), source)
  check_small(dataset)
  assert dataset.fingerprint == datasets.load("cifar10", str(prepared)).fingerprint


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_cifar100_for_python(kind, tmp_path):
  spec, files, labels = small_cifar100()
  source = write_source(tmp_path, python_files(spec, files), kind, "cifar-100-python")
  fine = datasets.load("cifar100", str(tmp_path / "data"), source)
  coarse = datasets.load("cifar100_coarse", str(tmp_path / "data"))
  for split in ("train", "test"):
    np.testing.assert_array_equal(getattr(fine, split).labels, labels[split])
    expected = CIFAR100_COARSE[labels[split]]
    np.testing.assert_array_equal(getattr(coarse, split).labels, expected)
  pixels = np.frombuffer(files["train.bin"], np.uint8).reshape(-1, 3074)[:, 2:]
  images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  np.testing.assert_array_equal(fine.train.images, images)


def test_altered_pixels_of_cifar100_for_python_are_refused(tmp_path):
  spec, files, _ = small_cifar100()
  altered = bytearray(files["train.bin"])
  altered[1000] ^= 1
  pickles = python_files(spec, files | {"train.bin": bytes(altered)})
  source = write_source(tmp_path, pickles, "folder", "cifar-100-python")
  with pytest.raises(errors.UserError, match=r"train\.bin is not cifar100's: its SHA-1 is"):
    datasets.load("cifar100", str(tmp_path / "data"), source)


def test_bad_archives_for_python_are_refused(tmp_path):
  spec, files, _, _ = small_cifar10()
  good = python_files(spec, files)
  altered = bytearray(files["data_batch_3.bin"])
  altered[1000] ^= 1
  values = {"labels": [0] * 20, "data": np.zeros((20, 3072), np.uint8)}

  class Malicious:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "owned"),)

  cases = {
    "altered": (
      python_files(spec, files | {"data_batch_3.bin": bytes(altered)}),
      "data_batch_3.bin is not cifar10's: its SHA-256 is",
    ),
    "malicious": (
      good | {"data_batch_2": pickle.dumps(values | {"data": Malicious()}, 2)},
      r"data_batch_2: it names 'posix.mkdir', which is not executed; give a folder or archive",
    ),
    "cut": (
      good | {"test_batch": good["test_batch"][:-100]},
      "test_batch: not a pickle, or damaged",
    ),
    "no labels": (
      python_files(spec, files, {"label": "fine_labels"}),
      r"data_batch_1: 'labels' is not a list of 20 whole numbers",
    ),
    "odd labels": (
      good | {"data_batch_1": pickle.dumps(values | {"labels": [256] * 20}, 2)},
      r"data_batch_1: 'labels' is not a list of 20 whole numbers",
    ),
    "few pixels": (
      good | {"data_batch_1": pickle.dumps(values | {"data": values["data"][:, 1:]}, 2)},
      r"data_batch_1: 'data' is not 20 x 3072 bytes",
    ),
    "five": (
      {name: good[name] for name in list(good)[:5]},
      "five: data_batch_1.bin, .*test_batch.bin missing; give .*data_batch_1, .*version for Python",
    ),
  }
  for name, (contents, message) in cases.items():
    source = write_folder(tmp_path / name, contents)
    with pytest.raises(errors.UserError, match=message) as caught:
      datasets.load("cifar10", str(tmp_path / "data"), str(source))
    assert str(caught.value).startswith(f"data.source: {source}")
    assert "\n" not in str(caught.value)
  assert not (tmp_path / "owned").exists()


def test_the_mirror_follows_the_official_site(tmp_path, monkeypatch, caplog):
  spec, files, _, _ = small_cifar10()
  archive = write_archive(tmp_path / "p.tar.gz", python_files(spec, files), "cifar-10-batches-py")

  def download_file(url, sha256, folder, min_rate):
    if url == spec.url:
      raise fetch.TooSlow(f"{url}: too slow, 75 kB/s over 20 s")
    assert (url, sha256) == (spec.python.mirrors[0], cifar.CIFAR10.python.sha256)
    return epath.Path(archive)

  monkeypatch.setattr(cifar.download, "download_file", download_file)
  with caplog.at_level(logging.INFO, "cifar-jax"):
    check_small(datasets.load("cifar10", str(tmp_path / "data")))
  (line,) = [message for message in caplog.messages if message.startswith("cifar10: used")]
  assert spec.python.mirrors[0] in line and "too slow, 75 kB/s" in line


def test_keras_lists_the_same_archives():
  """Compare the checksums with those in the installed Keras."""
  keras = importlib.util.find_spec("keras")  # not imported, which takes seconds
  folder = pathlib.Path(keras.submodule_search_locations[0], "src", "datasets")
  for spec in (cifar.CIFAR10, cifar.CIFAR100):
    assert f'"{spec.python.sha256}"' in (folder / f"{spec.name}.py").read_text()


def test_limits_hold_the_official_files():
  # The sizes of the files in the official archives.
  ten, hundred = (spec.python.limits(spec.files) for spec in (cifar.CIFAR10, cifar.CIFAR100))
  assert ten["data_batch_1"] > 31_035_704 and ten["test_batch"] > 31_035_526
  assert hundred["train"] > 155_249_918 and hundred["test"] > 31_049_908


def test_real_cifar10_for_python(monkeypatch, tmp_path):
  """Rebuild the official files from a true archive, if this machine has the prepared data."""
  data_dir = epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
  folder = data_dir / "cifar10" / "decoded-3.0.2"
  if not folder.exists():
    pytest.skip("CIFAR-10 is not prepared on this machine")
  images = np.load(folder / "test_images.npy", mmap_mode="r")
  planes = images.transpose(0, 3, 1, 2).reshape(10_000, 3072)
  labels = np.load(folder / "test_label.npy").astype(np.uint8)
  content = np.column_stack([labels, planes]).tobytes()
  pickled = python_files(cifar.CIFAR10, {"test_batch.bin": content})["test_batch"]
  binary = cifar.CIFAR10.python.to_binary(
    {"test_batch": pickled}, {"test": {"test_batch.bin": 10_000}}, epath.Path(tmp_path)
  )["test_batch.bin"]
  assert hashlib.sha256(binary).hexdigest() == cifar.CIFAR10.sha256["test_batch.bin"]
