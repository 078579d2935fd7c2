"""Targets of fuzz.py that hold images: image files, archives, the cache of decoded images."""

import dataclasses
import gzip
import hashlib
import io
import pathlib
import struct
import tarfile
import types
import zipfile
from typing import Any, Literal

import numpy as np
from etils import epath
from PIL import Image

from analysis import images as analysis_images
from analysis.evaluate import test_sets
from benchmarks.robustness.fuzz_damage import Target, damaged, damaged_files, damaged_json, replaced
from cifar_jax import errors
from cifar_jax.data import cache, fetch, image_folder, mnist
from configs import default


def image_targets(folder: pathlib.Path) -> list[Target]:
  """Return the targets for image files of many formats, in a dataset and to predict."""
  contents = _encoded_images()
  for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(contents[0])
  work = folder.with_name("work")
  work.mkdir()

  def read_dataset(content: bytes) -> None:
    (folder / "a" / "2.png").write_bytes(content)
    decoded = image_folder.IMAGE_FOLDER.decode(
      epath.Path(folder), epath.Path(work), folder, size=8, test_fraction=0.5
    )
    assert all(images.shape[1:] == (8, 8, 3) for images in decoded.images.values())
    assert 4 <= sum(map(len, decoded.images.values())) <= 5

  def read_to_predict(content: bytes) -> None:
    try:
      image = analysis_images.decode(content, (8, 8, 3), "bilinear")
    except (MemoryError, RecursionError):
      raise
    except Exception as error:  # predict also catches all errors, and skips the file
      raise errors.UserError(" ".join(str(error).split()) or type(error).__name__) from error
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8

  return [
    Target("image in a data set", damaged(contents), contents, read_dataset),
    Target("image to predict", damaged(contents), contents, read_to_predict),
  ]


def _encoded_images() -> list[bytes]:
  """Return noise as image files of every format."""
  noise = np.random.default_rng(0).integers(0, 256, (12, 10, 4), np.uint8)

  def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()

  opaque, transparent = Image.fromarray(noise[..., :3]), Image.fromarray(noise)
  exif = opaque.getexif()
  exif[0x0112] = 6  # orientation
  return [
    encode(opaque, "PNG"),
    encode(transparent, "PNG"),
    encode(opaque.quantize(8), "PNG", transparency=1),
    encode(opaque, "JPEG", exif=exif),
    encode(opaque, "JPEG", progressive=True),
    encode(opaque, "GIF"),
    encode(opaque, "TIFF", compression="tiff_lzw"),
    encode(opaque, "WEBP"),
    encode(opaque, "BMP"),
    encode(opaque, "PPM"),
  ]


def archive_targets(folder: pathlib.Path) -> list[Target]:
  """Return the targets for archives of every kind, with MNIST's four files of a few images."""
  folder.mkdir()
  sizes = {"train": 3, "test": 2}
  contents = _mnist_files(sizes)
  sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
  source = dataclasses.replace(mnist.MNIST, images=sizes, sha256=sha256)
  plain = [
    _tar(contents, "w"),
    _tar(contents, "w", gzip_members=True),
    _tar(contents, "w", form=tarfile.GNU_FORMAT),
  ]
  compressed = [_tar(contents, "w:gz"), _tar(contents, "w:bz2"), _tar(contents, "w:xz")]
  archives = [*plain, *compressed, _zip(contents)]
  file = epath.Path(folder / "archive")

  def read(content: bytes) -> None:
    file.write_bytes(content)
    decoded = source.decode(epath.Path(folder), epath.Path(folder), file)
    assert np.asarray(decoded.images["train"]).tobytes() == contents["train-images-idx3-ubyte"][16:]

  def read_gzipped(content: bytes) -> None:  # the damage is inside, out of reach of gzip's checksum
    file.write_bytes(gzip.compress(content, 1))
    try:
      fetch.read(file, {name: len(content) for name, content in contents.items()})
    except fetch.Failed as error:  # callers of fetch.read add what to do
      raise errors.UserError(str(error)) from error

  return [
    Target("archive", damaged(archives), archives[:-1], read),
    Target("archive, damaged before gzip", damaged(plain), plain, read_gzipped),
  ]


def _mnist_files(sizes: dict[str, int]) -> dict[str, bytes]:
  """Return MNIST's four files by name, with `sizes` images in each split."""
  contents = {}
  for split, (images, labels) in mnist._FILES.items():
    n = sizes[split]
    pixels = np.arange(n * mnist.SIDE**2, dtype=np.uint8).tobytes()
    contents[images] = struct.pack(">4BIII", 0, 0, 8, 3, n, mnist.SIDE, mnist.SIDE) + pixels
    contents[labels] = struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(range(n))
  return contents


def _tar(
  contents: dict[str, bytes],
  mode: Literal["w", "w:gz", "w:bz2", "w:xz"],
  gzip_members: bool = False,
  form: int = tarfile.PAX_FORMAT,
) -> bytes:
  """Return a tar archive of files with long names."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:
    for name, content in contents.items():
      content = gzip.compress(content, mtime=0) if gzip_members else content
      member = tarfile.TarInfo(f"{'ä' * 60}/{name}{'.gz' * gzip_members}")
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  return buffer.getvalue()


def _zip(contents: dict[str, bytes]) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name, content in contents.items():
      archive.writestr(name, content)
  return buffer.getvalue()


def cache_target(folder: pathlib.Path) -> Target:
  """Return the target for the cache of decoded images: arrays and their index."""
  rng = np.random.default_rng(0)
  images = {split: rng.integers(0, 256, (3, 4, 4, 3), np.uint8) for split in cache.SPLITS}
  labels = {split: {"label": np.arange(3)} for split in cache.SPLITS}
  cache.write(epath.Path(folder), cache.Decoded(images, labels, {"label": ("a", "b", "c")}))
  files = {path.name: path.read_bytes() for path in folder.iterdir()}
  arrays = {name: content for name, content in files.items() if name.endswith(".npy")}
  index = {name: content for name, content in files.items() if name.endswith(".json")}

  def read(file: tuple[str, bytes]) -> None:
    name, content = file
    with replaced(folder / name, content):
      try:
        dataset = cache.read(epath.Path(folder), "x", "label")
      except cache.Unusable as error:  # callers write the cache again
        raise errors.UserError(" ".join(str(error).split())) from error
      assert np.array_equal(dataset.train.images, images["train"]) or name == "index.json"

  damaged_cache = damaged_files(arrays) | damaged_json(index)
  return Target("decoded cache", damaged_cache, list(files.items()), read)


def test_set_target(folder: pathlib.Path) -> Target:
  """Return the target for test sets of arrays, in CIFAR-10-C's and in CIFAR-10.1's layout."""
  rng = np.random.default_rng(0)
  labels = np.arange(3)
  arrays = {
    "c/fog.npy": rng.integers(0, 256, (15, 4, 4, 3), np.uint8),
    "c/labels.npy": np.tile(labels, 5),
    "pair/v6_data.npy": rng.integers(0, 256, (3, 4, 4, 3), np.uint8),
    "pair/v6_labels.npy": labels,
  }
  for name, array in arrays.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, array)
  files = {name: (folder / name).read_bytes() for name in arrays}
  run: Any = types.SimpleNamespace(  # the attributes of a run that test_sets uses
    name="x",
    image_shape=(4, 4, 3),
    class_names=["a", "b", "c"],
    description={"name": "x"},
    config=default.get_config(),
  )

  def read(file: tuple[str, bytes]) -> None:
    name, content = file
    with replaced(folder / name, content):
      for part in test_sets.open_test_set(run, str((folder / name).parent)).parts():
        assert len(part.images) == len(part.labels) and np.isin(part.labels, labels).all()
        part.images.sum()

  return Target("test set", damaged_files(files), list(files.items()), read)
