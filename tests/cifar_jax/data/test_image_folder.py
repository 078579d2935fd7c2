"""Folders of photos: which files are taken, how each is decoded, and when the cache is used."""

import io
import itertools
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cifar_jax import errors
from cifar_jax.data import datasets, image_files, image_folder

ROOT = pathlib.Path(__file__).parents[3]
REAL = ROOT / ".." / "shared" / "data" / "cats_vs_dogs"
SIZE = 4
OPTIONS = {"size": SIZE, "test_fraction": 0.5}


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **arguments) -> bytes:
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, kind, **arguments)
  return buffer.getvalue()


def solid(value: int) -> bytes:
  """A photo that is known again by its first pixel, and needs no resizing."""
  return encoded(np.full((SIZE, SIZE, 3), value, np.uint8))


def write(root: pathlib.Path, files: dict[str, bytes]) -> str:
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  return str(root)


def tree(root: pathlib.Path, per_class: int = 4, prefix: str = "") -> str:
  """Cats 0, 1, 2, …, dogs 100, 101, 102, …"""
  files = {
    f"{prefix}{name}/{i:02d}.png": solid(first + i)
    for name, first in (("cat", 0), ("dog", 100))
    for i in range(per_class)
  }
  return write(root, files)


def values(split: datasets.Split) -> list[int]:
  """Which solid photos are in a split, in their order."""
  for image in split.images:
    assert len(np.unique(image)) == 1
  return split.images[:, 0, 0, 0].tolist()


def load(data_dir: pathlib.Path, source: str | None, name: str = "image_folder", **options):
  return datasets.load(name, str(data_dir), source, OPTIONS | options)


def left_out(data_dir: pathlib.Path) -> dict[str, str]:
  (path,) = (data_dir / "image_folder").glob("decoded-*/left_out.json")
  return {note["file"]: note["reason"] for note in json.loads(path.read_text())}


# How one photo is decoded.


@pytest.fixture(scope="module")
def keras_utils():
  import keras

  return keras.utils


def kinds() -> dict[str, bytes]:
  rgb = Image.fromarray(noise(23, 31, 3)).resize((310, 230), Image.Resampling.BICUBIC)
  rgba = Image.fromarray(noise(40, 30, 4))
  return {
    "jpeg": encoded(rgb, "JPEG"),
    "progressive": encoded(rgb, "JPEG", progressive=True),
    "CMYK": encoded(rgb.convert("CMYK"), "JPEG"),
    "grey jpeg": encoded(rgb.convert("L"), "JPEG"),
    "grey": encoded(noise(9, 50)),
    "RGBA": encoded(rgba),
    "grey and alpha": encoded(rgba.convert("LA")),
    "palette": encoded(rgb.quantize(17)),
    "palette, transparent": encoded(rgb.quantize(17), transparency=3),
    "palette, transparencies": encoded(rgb.quantize(4), transparency=bytes([0, 9, 255])),
    "one bit": encoded(rgb.convert("1")),
    "gif": encoded(rgb, "GIF"),
    "bmp": encoded(rgb, "BMP"),
    "webp": encoded(rgb, "WEBP"),
    "tiff": encoded(rgb, "TIFF", compression="tiff_lzw"),
    "ppm": encoded(rgb, "PPM"),
    "one pixel": encoded(noise(1, 1, 3)),
    "line": encoded(noise(1, 999, 3)),
    "as wanted": encoded(noise(15, 15, 3)),
  }


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # where Keras decodes
@pytest.mark.parametrize("interpolation", image_folder.INTERPOLATIONS)
def test_decode_is_keras_load_img(interpolation, keras_utils):
  for kind, content in kinds().items():
    expected = keras_utils.load_img(
      io.BytesIO(content), target_size=(15, 15), interpolation=interpolation
    )
    found = image_files.decode(content, 15, interpolation)
    assert (found.shape, found.dtype) == ((15, 15, 3), np.uint8)
    np.testing.assert_array_equal(found, keras_utils.img_to_array(expected), err_msg=kind)


def test_all_of_keras_interpolations_are_known():
  from keras.src.utils import image_utils

  assert set(image_utils.PIL_INTERPOLATION_METHODS) == set(image_folder.INTERPOLATIONS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_honoured(kind):
  upright = np.zeros((64, 64, 3), np.uint8)
  upright[:32, :32], upright[:32, 32:], upright[32:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
  stored = {  # where row 0 and column 0 of the stored photo are, by the EXIF standard
    1: upright,  # top, left
    2: upright[:, ::-1],  # top, right
    3: upright[::-1, ::-1],  # bottom, right
    4: upright[::-1],  # bottom, left
    5: upright.transpose(1, 0, 2),  # left, top
    6: np.rot90(upright),  # right, top
    7: upright[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: np.rot90(upright, -1),  # left, bottom
  }
  for orientation, pixels in stored.items():
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = image_files.decode(encoded(pixels, kind, exif=exif), 64, "nearest")
    np.testing.assert_allclose(found[16::32, 16::32], upright[16::32, 16::32], atol=9)


def test_damaged_exif_leaves_a_photo_as_it_is():
  pixels = noise(8, 8, 3)
  for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f"):
    np.testing.assert_array_equal(
      image_files.decode(encoded(pixels, exif=exif), 8, "nearest"), pixels
    )


def test_16_bits_of_grey_become_their_high_byte():
  pixels = noise(8, 8, dtype=np.uint16)
  expected = (pixels >> 8).astype(np.uint8)[..., None].repeat(3, -1)
  big_endian = Image.frombytes("I;16B", (8, 8), pixels.astype(">u2").tobytes())
  for content in (encoded(pixels), encoded(pixels, "TIFF"), encoded(big_endian, "TIFF")):
    np.testing.assert_array_equal(image_files.decode(content, 8, "nearest"), expected)


def bomb() -> bytes:
  """The header of a PNG of 10 GB of pixels, and a beginning of them."""

  def chunk(kind: bytes, content: bytes) -> bytes:
    return (
      struct.pack(">I", len(content))
      + kind
      + content
      + struct.pack(">I", zlib.crc32(kind + content))
    )

  header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
  return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))


# Which files are taken.


def test_what_is_no_image_is_left_out_and_listed(tmp_path, log_lines):
  good = {
    "cat/1.png": 1,
    "cat/UPPER.PNG": 2,
    "cat/png inside.jpg": 3,
    "cat/deep/er/4.png": 4,
    "cat/ночь 猫 é.png": 5,
    "dog/6.jpeg": 6,
    "dog/7.png": 7,
  }
  jpeg = encoded(noise(64, 64, 3), "JPEG")
  bad = {
    "cat/cut.jpg": jpeg[: len(jpeg) // 2],
    "cat/header only.jpg": jpeg[:200],
    "cat/cut.png": encoded(noise(64, 64, 3))[:-2000],
    "cat/text.jpg": b"This is no image.\n",
    "cat/empty.jpg": b"",
    "cat/Thumbs.db": b"\xd0\xcf\x11\xe0",
    "cat/notes.txt": b"cats",
    "cat/deep/bomb.png": bomb(),
    "cat/float.tif": encoded(np.zeros((4, 4), np.float32), "TIFF"),
    "dog/postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n",
  }
  hidden = {
    ".git/1.png": solid(90),
    "cat/._1.png": solid(91),
    "cat/.thumbs/1.png": solid(92),
    "readme.txt": b"",
    "loose.png": solid(93),
  }
  root = tmp_path / "photos"
  source = write(root, {name: solid(value) for name, value in good.items()} | bad | hidden)
  os.mkfifo(root / "dog" / "pipe.jpg")
  (root / "dog" / "nowhere.jpg").symlink_to(tmp_path / "nowhere")
  (root / "dog" / "link.png").symlink_to(root / "dog" / "7.png")
  dataset = load(tmp_path, source)
  found = values(dataset.train) + values(dataset.test)
  assert sorted(found) == [1, 2, 3, 4, 5, 6, 7, 7]  # the link to 7 is a file of its own

  reasons = left_out(tmp_path)
  assert reasons.keys() == bad.keys() | {"dog/pipe.jpg", "dog/nowhere.jpg"}
  for name, reason in {
    "cat/cut.jpg": "truncated",
    "cat/header only.jpg": "truncated",
    "cat/cut.png": "truncated",
    "cat/text.jpg": "not an image",
    "cat/empty.jpg": "not an image",
    "cat/Thumbs.db": "not named as an image",
    "cat/deep/bomb.png": "3600000000 pixels",
    "cat/float.tif": "mode f",
    "dog/postscript.jpg": "not an image",
    "dog/pipe.jpg": "no regular file",
    "dog/nowhere.jpg": "no such file",
  }.items():
    assert reason in reasons[name].lower() and "\n" not in reasons[name], reasons[name]
  (line,) = [line for line in log_lines if "left out" in line]
  assert "image_folder: left out 12 files" in line and "left_out.json" in line


def test_too_large_a_file_is_left_out_unread(tmp_path, monkeypatch):
  source = tree(tmp_path / "photos")
  monkeypatch.setattr(image_files, "_MAX_BYTES", 1000)
  write(tmp_path / "photos", {"cat/film.jpg": bytes(1001)})
  load(tmp_path, source)
  assert left_out(tmp_path) == {
    "cat/film.jpg": "ValueError: 1001 bytes are more than the 1000 of a photo"
  }


def test_an_error_of_the_disk_is_no_bad_photo(tmp_path, monkeypatch):
  """It would be there another time: the data set would silently be another."""
  source = tree(tmp_path / "photos")
  read_bytes = pathlib.Path.read_bytes

  def failing(path):
    if path.name == "02.png":
      raise OSError(5, "Input/output error")
    return read_bytes(path)

  monkeypatch.setattr(pathlib.Path, "read_bytes", failing)
  with pytest.raises(errors.UserError, match=r"cat/02.png: cannot be read \(Input/output error\)"):
    load(tmp_path, source)
  monkeypatch.undo()
  assert len(load(tmp_path, source).train.labels) == 4


def test_the_same_files_give_the_same_arrays_everywhere(tmp_path):
  """Whenever, in whatever order and wherever they were written."""
  contents = {
    f"{name}/{i}.png": solid(first + i) for name, first in (("b", 0), ("a", 9)) for i in range(9)
  }
  sources = [
    write(tmp_path / "here", contents),
    write(tmp_path / "there", dict(reversed(contents.items()))),
  ]
  for i, source in enumerate(sources):
    dataset = load(tmp_path / str(i), source, per_class=7, test_fraction=0.3, seed=5)
    assert dataset.class_names == ("a", "b")
    assert values(dataset.train) == [11, 17, 16, 9, 14, 2, 8, 7, 0, 5]
    assert values(dataset.test) == [13, 10, 4, 1]
    assert dataset.train.labels.tolist() == [0] * 5 + [1] * 5
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert dataset.fingerprint == (
      "32cf69df8761b2815fca6dc9373a66865e29270498dd4edc6c0f358216bc320e"
    )


class Fake:
  """Files without a disk: their content is their number, and some cannot be read."""

  def __init__(self, count: int, bad: set[int]):
    self.files = [
      image_files.File(f"{i:03d}.jpg", lambda i=i: self.content(i)) for i in range(count)
    ]
    self.bad = bad

  def content(self, i: int) -> int:
    if i in self.bad:
      raise OSError("broken")
    return i

  def split(self, most: float, seed: int, fraction: float) -> dict[str, list[int]]:
    drawn, self.reasons = image_folder._draw(self.files, most, seed, lambda file: file.read())
    splits = image_folder._splits("", len(drawn), fraction)
    return {
      name: [i for i, split in zip(drawn, splits, strict=True) if split == name]
      for name in ("train", "test")
    }


@settings(max_examples=200, deadline=None)
@given(
  st.integers(0, 60),
  st.sets(st.integers(0, 59)),
  st.integers(1, 60),
  st.integers(0, 3),
  st.floats(0.01, 0.99),
)
def test_drawing(count, bad, most, seed, fraction):
  fake = Fake(count, bad)
  good = set(range(count)) - bad
  splits = fake.split(most, seed, fraction)
  taken = splits["train"] + splits["test"]
  assert len(set(taken)) == len(taken) == min(most, len(good)) and good.issuperset(taken)
  assert abs(len(splits["test"]) - fraction * len(taken)) <= 0.5 + 1e-9
  assert {int(name[:3]) for name in fake.reasons} <= bad
  # More photos: those taken before stay, in the split where they were.
  more = fake.split(most + 7, seed, fraction)
  assert all(more[split][: len(splits[split])] == splits[split] for split in splits)
  everything = fake.split(np.inf, seed, fraction)
  assert set(everything["train"] + everything["test"]) == good
  assert {int(name[:3]) for name in fake.reasons} == bad & set(range(count))


def test_per_class_is_filled_in_spite_of_bad_files(tmp_path):
  source = tree(tmp_path / "photos", per_class=10)
  write(tmp_path / "photos", {f"cat/bad{i}.jpg": b"bad" for i in range(10)})
  dataset = load(tmp_path, source, per_class=8)
  counts = [np.bincount(split.labels).tolist() for split in (dataset.train, dataset.test)]
  assert counts == [[4, 4], [4, 4]]


def test_train_and_test_folders_are_kept(tmp_path):
  tree(tmp_path / "photos", 6, "train/")
  source = tree(tmp_path / "photos", 3, "test/")
  dataset = load(tmp_path / "a", source)
  assert sorted(values(dataset.train)) == [*range(6), *range(100, 106)]
  assert sorted(values(dataset.test)) == [*range(3), *range(100, 103)]
  assert dataset.class_names == ("cat", "dog")
  few = load(tmp_path / "b", source, per_class=4)
  assert [np.bincount(s.labels).tolist() for s in (few.train, few.test)] == [[4, 4], [3, 3]]


@pytest.mark.skipif(not REAL.exists(), reason="the photos are not on this machine")
def test_real_photos(tmp_path, keras_utils):
  """The files that the docstring says, as Keras loads them."""
  options = {"per_class": 20}
  dataset = datasets.load("cats_vs_dogs", str(tmp_path), str(REAL), options)
  expected = {"train": [], "test": []}
  for name in ("cat", "dog"):
    files = sorted(os.listdir(REAL / name))
    for i, row in enumerate(np.random.RandomState(0).permutation(len(files))[:20]):
      image = keras_utils.load_img(REAL / name / files[row], target_size=(150, 150))
      expected["test" if i % 10 == 4 else "train"].append(np.asarray(image))
  np.testing.assert_array_equal(dataset.train.images, expected["train"])
  np.testing.assert_array_equal(dataset.test.images, expected["test"])
  assert dataset.train.labels.tolist() == [0] * 18 + [1] * 18
  assert dataset.test.labels.tolist() == [0, 0, 1, 1]


# Folders and options that are refused.


def test_bad_folders_are_refused(tmp_path):
  def case(name, *folders, **files):
    root = tmp_path / name
    write(root, {"cat/1.png": solid(1), "cat/2.png": solid(2)} | files)
    for folder in folders:
      (root / folder).mkdir(parents=True)
    return root

  (tmp_path / "file").write_bytes(b"PK")
  (tmp_path / "bare").mkdir()
  only_bad = case("only bad", **{"dog/1.jpg": b"1", "dog/2.jpg": b"2"})
  no_test = tree(tmp_path / "no test", 2, "train/")
  tree(tmp_path / "val", 2, "train/")
  tree(tmp_path / "val", 2, "test/")
  tree(tmp_path / "differ", 2, "train/")
  write(tmp_path / "differ", {"test/cat/1.png": solid(1), "test/mouse/1.png": solid(1)})
  cases = {
    tmp_path
    / "nowhere": r"nowhere: cannot be read as a folder \(No such file or directory\); give",
    tmp_path
    / "file": r"file: cannot be read as a folder \(Not a directory\); give --config.data.s",
    tmp_path / "bare": r"bare: its folders are none, of at least two classes",
    case("one"): r"one: its folders are cat, of at least two classes",
    case("hidden", ".dog"): r"hidden: its folders are cat, of at least two",
    case("empty", "dog"): r"empty/dog: holds 0 files and no image that can be opened; add images",
    only_bad: r"dog: holds 2 files and no image .*\(dog/[12].jpg: ValueError: not an image\)",
    case("text", **{"dog/a.txt": b""}): r"1 files and no image .*\(dog/a.txt: not named as an im",
    no_test: r"no test: its folders are train; there must be train and test and nothing else",
    tree(tmp_path / "val", 2, "val/"): r"val: its folders are test, train, val; there must be",
    tmp_path
    / "differ": r"differ/test: its folders are cat, mouse, but those of train are cat, dog",
  }
  for source, message in cases.items():
    with pytest.raises(errors.UserError, match=message) as caught:
      load(tmp_path / "data", str(source))
    assert str(caught.value).startswith(f"data.source: {tmp_path}")
    assert "\n" not in str(caught.value)
  with pytest.raises(errors.UserError, match=r"leaves the test set empty or a class without train"):
    load(tmp_path / "data", tree(tmp_path / "few"), test_fraction=0.1)
  with pytest.raises(errors.UserError, match=r"leaves the test set empty or a class without train"):
    load(tmp_path / "data", tree(tmp_path / "few"), test_fraction=0.9, per_class=1)
  assert {path.name for path in (tmp_path / "data" / "image_folder").iterdir()} == {"prepare.lock"}


def test_an_unreadable_folder_is_refused(tmp_path, monkeypatch):
  """os.walk would pass over it, and half the photos would be missing."""
  source = tree(tmp_path / "photos")
  write(tmp_path / "photos", {"cat/locked/1.png": solid(1)})
  scandir = os.scandir

  def locked(path):
    if os.fspath(path).endswith("locked"):
      raise PermissionError(13, "Permission denied", os.fspath(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", locked)
  with pytest.raises(
    errors.UserError, match=r"cat/locked: cannot be read as a folder \(Permission"
  ):
    load(tmp_path, source)


def test_bad_options_are_refused(tmp_path):
  source = tree(tmp_path / "photos")
  for option, value, message in [
    ("size", 0, "must be a whole number >= 1, got 0"),
    ("size", 150.0, "must be a whole number >= 1, got 150.0"),
    ("size", True, "must be a whole number >= 1, got True"),
    ("size", (150, 150), "must be a whole number >= 1, got (150, 150)"),
    ("interpolation", "linear", "must be one of nearest, bilinear, bicubic, hamming, box, lanczos"),
    ("per_class", -1, "must be a whole number, or 0 for all, got -1"),
    ("test_fraction", 1.0, "must be between 0 and 1, got 1.0"),
    ("test_fraction", 0, "must be between 0 and 1, got 0"),
    ("test_fraction", float("nan"), "must be between 0 and 1, got nan"),
    ("seed", -1, "must be a whole number in [0, 2 ** 32), got -1"),
    ("seed", 2**32, "must be a whole number in"),
    ("sise", 9, "'image_folder' takes no such option; it takes: size, interpolation, per_class, t"),
    ("home", "x", "'image_folder' takes no such option"),
  ]:
    with pytest.raises(errors.UserError) as caught:
      load(tmp_path, source, **{option: value})
    assert str(caught.value).startswith(f"data.options.{option}: {message}")
  for call in (datasets.load, datasets.prepare):
    with pytest.raises(errors.UserError) as caught:
      call("digits", str(tmp_path), None, {"size": 64})
    assert str(caught.value) == "data.options.size: 'digits' takes no such option; it takes: none"


# The cache.


def decoded(data_dir: pathlib.Path) -> set[str]:
  return {path.name for path in (data_dir / "image_folder").glob("decoded-*")}


def test_every_choice_has_its_own_cache(tmp_path, monkeypatch):
  source = tree(tmp_path / "photos")
  first = load(tmp_path, source)
  assert isinstance(first.train.images, np.memmap) and not first.train.images.flags.writeable
  changes = [
    {"size": 5},
    {"interpolation": "box"},
    {"per_class": 3},
    {"test_fraction": 0.4},
    {"seed": 1},
  ]
  for count, change in enumerate(changes, 2):
    dataset = load(tmp_path, source, **change)
    assert len(decoded(tmp_path)) == count
    assert dataset.train.images.shape[1:3] == (change.get("size", SIZE),) * 2
  monkeypatch.setattr(image_files, "decode", None)  # nothing is decoded any more
  for change in changes:
    load(tmp_path, source, **change)
  assert load(tmp_path, source, seed=None, size=SIZE).fingerprint == first.fingerprint
  assert load(tmp_path, f"{source}/../photos/").fingerprint == first.fingerprint
  assert len(decoded(tmp_path)) == 6


def test_changed_files_are_decoded_again(tmp_path):
  source = tree(tmp_path / "photos")
  cat = tmp_path / "photos" / "cat"
  fingerprints = [load(tmp_path, source).fingerprint]

  def changed():
    fingerprints.append(load(tmp_path, source).fingerprint)
    return len(decoded(tmp_path))

  (cat / "04.png").write_bytes(solid(50))
  assert changed() == 2
  (cat / "04.png").rename(cat / "004.png")
  assert changed() == 3
  before = (cat / "00.png").stat()
  (cat / "00.png").write_bytes(solid(60).ljust(before.st_size)[: before.st_size])
  os.utime(cat / "00.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
  assert changed() == 4
  (cat / "00.png").unlink()
  assert changed() == 5
  assert len(set(fingerprints)) >= 4  # the same photos under other names may give the same arrays
  assert 60 not in values(load(tmp_path, source).train)


def test_another_folder_has_its_own_cache(tmp_path):
  one = tree(tmp_path / "one")
  other = write(
    tmp_path / "other",
    {f"{name}/{i:02d}.png": solid(200 + i) for name in ("cat", "dog") for i in range(4)},
  )
  load(tmp_path, one)
  assert min(values(load(tmp_path, other).train)) >= 200
  assert max(values(load(tmp_path, one).train)) < 200


def test_a_damaged_cache_is_made_again(tmp_path):
  source = tree(tmp_path / "photos")
  fingerprint = load(tmp_path, source).fingerprint
  (folder,) = (tmp_path / "image_folder").glob("decoded-*")
  os.truncate(folder / "train_images.npy", 100)
  assert load(tmp_path, source).fingerprint == fingerprint
  assert sorted(path.name for path in (tmp_path / "image_folder").iterdir()) == [
    folder.name,
    "prepare.lock",
  ]
  assert (folder / "left_out.json").read_text() == "[]"


def test_a_warm_start_imports_nothing_heavy(tmp_path):
  source = tree(tmp_path / "photos")
  load(tmp_path, source)
  code = f"""
import sys
from cifar_jax.data import datasets
datasets.load("image_folder", sys.argv[1], sys.argv[2], {OPTIONS})
print(sorted({{"PIL", "tensorflow_datasets", "tensorflow", "jax"}} & set(sys.modules)))
"""
  said = subprocess.run(
    [sys.executable, "-c", code, str(tmp_path), source], cwd=ROOT, capture_output=True, text=True
  )
  assert said.stdout == "[]\n", said.stderr


# Cats and dogs.


def test_cats_vs_dogs_reads_a_folder(tmp_path):
  root = tmp_path / "PetImages"
  source = tree(root)
  (root / "cat").rename(root / "Cat")
  (root / "dog").rename(root / "Dog")
  dataset = load(tmp_path, source, "cats_vs_dogs")
  assert (dataset.name, dataset.class_names) == ("cats_vs_dogs", ("cat", "dog"))
  for split in (dataset.train, dataset.test):
    np.testing.assert_array_equal(split.labels, np.array(values(split)) >= 100)
  shutil.copytree(root / "Dog", root / "mouse")
  with pytest.raises(errors.UserError, match=r"PetImages: its folders are Cat, Dog, mouse instead"):
    load(tmp_path, source, "cats_vs_dogs")


def test_without_photos_they_are_unavailable(tmp_path):
  with pytest.raises(datasets.Unavailable) as caught:
    datasets.load("cats_vs_dogs", str(tmp_path))
  message = str(caught.value)
  assert message.startswith(
    "data.source: no folder is given for cats_vs_dogs, and there is none prepared in "
    f"{tmp_path}/cats_vs_dogs/4.0.1; give --config.data.source a folder with the sub-folders cat"
  )
  assert "kagglecatsanddogs_5340.zip" in message and "\n" not in message
  assert "tfds build cats_vs_dogs --file_format=array_record" in message
  with pytest.raises(
    datasets.Unavailable, match=r"no folder is given for image_folder; give --con"
  ):
    datasets.load("image_folder", str(tmp_path))


def prepare_tfds(data_dir: pathlib.Path) -> None:
  """TFDS's data set in ArrayRecord, with a few photos, as its stock builder would write it."""
  import tensorflow_datasets as tfds

  stock = tfds.image_classification.CatsVsDogs
  with tfds.core.registered.skip_registration():

    class Builder(stock):
      name = stock.name
      __module__ = stock.__module__

      def _split_generators(self, dl_manager):
        return {"train": self._examples()}

      def _examples(self):
        for (label, first), i in itertools.product((("Dog", 100), ("Cat", 0)), range(8)):
          name = f"PetImages/{label}/{i}.jpg"
          content = encoded(np.full((9, 7, 3), first + i, np.uint8), "JPEG", quality=95)
          yield (
            name,
            {
              "image": io.BytesIO(content),
              "image/filename": name,
              "label": label.lower(),
            },
          )

  tfds.disable_progress_bar()
  Builder(data_dir=data_dir).download_and_prepare(file_format="array_record")


def test_cats_vs_dogs_reads_tfds(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  assert str(tfds.image_classification.CatsVsDogs.VERSION) == image_folder.CATS_VS_DOGS.tfds_version
  checksums = pathlib.Path(tfds.__file__).parent / "url_checksums" / "cats_vs_dogs.txt"
  assert checksums.read_text().split("\t")[0] in image_folder.CATS_VS_DOGS.remedy
  prepare_tfds(tmp_path)
  dataset = load(tmp_path, None, "cats_vs_dogs", per_class=6, test_fraction=0.25)
  order = np.random.RandomState(0).permutation(8)[:6]
  cats = [i for n, i in enumerate(order) if n % 4 != 1]
  np.testing.assert_allclose(values(dataset.train), [*cats, *(100 + i for i in cats)], atol=1)
  np.testing.assert_allclose(
    values(dataset.test), [order[1], order[5], 100 + order[1], 100 + order[5]], atol=1
  )
  assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4
  with monkeypatch.context() as patch:
    patch.setattr(datasets, "prepare", None)
    load(tmp_path, None, "cats_vs_dogs", per_class=6, test_fraction=0.25)
  (records,) = (tmp_path / "cats_vs_dogs" / "4.0.1").glob("*.array_record*")
  records.write_bytes(records.read_bytes()[:-500])
  with pytest.raises(errors.UserError, match=r"4.0.1: cannot be read as the data set it should be"):
    load(tmp_path, None, "cats_vs_dogs")


# Whatever bytes there are.


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_bytes_break_it(data):
  """A photo with some bytes altered is decoded or left out, and nothing else happens."""
  content = bytearray(data.draw(st.sampled_from(FUZZED)))
  for _ in range(data.draw(st.integers(1, 8))):
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
  content = (
    content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
  )
  file = image_files.File("x.jpg", lambda: bytes(content))
  images, reasons = image_folder._draw(
    [file], np.inf, 0, lambda file: image_files.decode(file.read(), 8, "bilinear")
  )
  assert [image.shape for image in images] == [(8, 8, 3)] * (1 - len(reasons))


FUZZED = [
  encoded(noise(12, 10, 3), "JPEG"),
  encoded(noise(12, 10, 4)),
  encoded(Image.fromarray(noise(12, 10, 3)).quantize(8), transparency=1),
  encoded(noise(12, 10, 3), "TIFF", compression="tiff_lzw"),
  encoded(noise(12, 10, dtype=np.uint16)),
  encoded(noise(12, 10, 3), "GIF"),
  encoded(noise(12, 10, 3), "WEBP"),
  encoded(noise(12, 10, 3), "BMP"),
  encoded(noise(12, 10, 3), "PPM"),
]
