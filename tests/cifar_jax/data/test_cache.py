"""The cache of decoded arrays: what is written is read back, and damage is noticed."""

import os

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_datasets import check_small

from cifar_jax.data import cache, datasets


@pytest.mark.parametrize(
  "damage", ["truncated", "altered", "pickled", "gone", "other shape", "no index", "half an index"]
)
@pytest.mark.usefixtures("small_cifar")
def test_damaged_cache_is_rebuilt_and_logged(damage, prepared_copy, log_lines):
  folder = prepared_copy / "cifar10" / "decoded-3.0.2"
  file = folder / "train_images.npy"
  if damage == "truncated":
    os.truncate(file, 100_000)
  elif damage == "altered":
    with file.open("r+b") as stream:
      stream.seek(50_000)
      byte = stream.read(1)[0]
      stream.seek(50_000)
      stream.write(bytes([byte ^ 1]))
  elif damage == "pickled":
    np.save(folder / "train_label.npy", np.array([print], dtype=object), allow_pickle=True)
  elif damage == "gone":
    (folder / "test_label.npy").unlink()
  elif damage == "other shape":
    np.save(file, np.load(file).reshape(-1, 16, 64, 3))
  elif damage == "no index":
    (folder / "index.json").unlink()
  else:
    os.truncate(folder / "index.json", 300)
  rebuilt = datasets.load("cifar10", str(prepared_copy))
  check_small(rebuilt)
  (line,) = [line for line in log_lines if line.endswith("; preparing cifar10")]
  assert line.startswith(str(folder)) and "no decoded" not in line
  log_lines.clear()
  assert datasets.load("cifar10", str(prepared_copy)).fingerprint == rebuilt.fingerprint
  assert log_lines == []
  assert sorted(path.name for path in (prepared_copy / "cifar10").iterdir()) == [
    "3.0.2",
    "decoded-3.0.2",
    "prepare.lock",
  ]


@settings(max_examples=30, deadline=None)
@given(
  hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3, st.sampled_from([1, 3]))),
  hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3, st.sampled_from([1, 3]))),
)
def test_read_returns_the_written_arrays(tmp_path_factory, train, test):
  folder = epath.Path(tmp_path_factory.mktemp("cache")) / "new"
  labels = {"train": np.arange(len(train)), "test": np.arange(len(test))}
  decoded = cache.Decoded(
    images={"train": train, "test": test},
    labels={split: {"label": labels[split], "parity": labels[split] % 2} for split in labels},
    class_names={"label": tuple("abcde"), "parity": ("even", "odd")},
  )
  cache.write(folder, decoded)
  dataset = cache.read(folder, "a name", "parity")
  np.testing.assert_array_equal(dataset.train.images, train)
  np.testing.assert_array_equal(dataset.test.images, test)
  np.testing.assert_array_equal(dataset.test.labels, np.arange(len(test)) % 2)
  assert dataset.class_names == ("even", "odd") and dataset.name == "a name"
  pixels = train.reshape(-1, train.shape[-1]) / 255
  np.testing.assert_allclose(dataset.mean, pixels.mean(0), atol=1e-12)
  np.testing.assert_allclose(dataset.std, pixels.std(0), atol=1e-7)


def test_fingerprint_changes_with_any_image_or_label(tmp_path):
  images = np.zeros((4, 2, 2, 3), np.uint8)

  def fingerprint(i, change_image=False, change_label=False):
    test = images.copy()
    test[3, 1, 1, 2] = change_image
    labels = np.array([0, 1, 0, int(change_label)])
    folder = epath.Path(tmp_path) / str(i)
    cache.write(
      folder,
      cache.Decoded(
        {"train": images, "test": test},
        {"train": {"label": np.array([0, 1, 0, 1])}, "test": {"label": labels}},
        {"label": ("a", "b")},
      ),
    )
    return cache.read(folder, "x", "label").fingerprint

  first = fingerprint(0)
  assert len(first) == 64 and int(first, 16)
  assert fingerprint(1) == first
  assert len({first, fingerprint(2, change_image=True), fingerprint(3, change_label=True)}) == 3
