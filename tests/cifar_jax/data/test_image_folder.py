"""Folders of photos: which files are used, and which folders are refused."""

import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from small_photos import encoded, left_out, load, noise, solid, tree, values, write

from cifar_jax import errors
from cifar_jax.data import image_files


def bomb() -> bytes:
  """Return the beginning of a PNG whose header announces 10 GB of pixels."""

  def chunk(kind: bytes, content: bytes) -> bytes:
    return (
      struct.pack(">I", len(content))
      + kind
      + content
      + struct.pack(">I", zlib.crc32(kind + content))
    )

  header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
  return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))


def test_files_that_are_not_images_are_left_out_and_listed(tmp_path, log_lines):
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
  photos = values(dataset.train) + values(dataset.test)
  assert sorted(photos) == [1, 2, 3, 4, 5, 6, 7, 7]  # the link to 7 counts as a file

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
    "dog/pipe.jpg": "not a regular file",
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
    "cat/film.jpg": "ValueError: 1001 bytes; an image may have at most 1000"
  }


def test_a_disk_error_is_not_a_bad_photo(tmp_path, monkeypatch):
  """Fail, because the next run might read the photo, and its dataset would be another."""
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
  """The order in which files were written and their place do not matter."""
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


def test_per_class_counts_usable_files_only(tmp_path):
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


def test_bad_folders_are_refused(tmp_path):
  def case(name, *folders, **files):
    """Write a folder with two cats, and further folders and files; return its path."""
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
  with_val = tree(tmp_path / "val", 2, "val/")
  differ = tree(tmp_path / "differ", 2, "train/")
  write(tmp_path / "differ", {"test/cat/1.png": solid(1), "test/mouse/1.png": solid(1)})
  unreadable = r"cannot be read as a folder"
  nowhere, file, bare = (str(tmp_path / name) for name in ("nowhere", "file", "bare"))
  cases = {
    nowhere: rf"nowhere: {unreadable} \(No such file or directory\); give",
    file: rf"file: {unreadable} \(Not a directory\); give --config.data.s",
    bare: r"bare: its folders are none, but at least two classes are needed",
    case("one"): r"one: its folders are cat, but at least two classes are needed",
    case("hidden", ".dog"): r"hidden: its folders are cat, but at least two classes",
    case("empty", "dog"): r"empty/dog: holds 0 files and no image that can be opened; add images",
    only_bad: r"dog: holds 2 files and no image .*\(dog/[12].jpg: ValueError: not an image\)",
    case("text", **{"dog/a.txt": b""}): r"1 files and no image .*\(dog/a.txt: not named as an im",
    no_test: r"no test: its folders are train; there must be train and test and nothing else",
    with_val: r"val: its folders are test, train, val; there must be",
    differ: r"differ/test: its folders are cat, mouse, but those of train are cat, dog",
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
  """os.walk would skip the folder, and photos would be missing silently."""
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


@pytest.mark.parametrize(
  ("parts", "counts"),
  [
    (("",), "cat has 4, dog has 3"),
    (("train/", "test/"), "train/cat has 4, train/dog has 3, test/cat has 4, test/dog has 3"),
  ],
)
def test_fewer_photos_than_per_class_are_a_warning_at_every_start(
  parts, counts, tmp_path, log_lines
):
  for part in parts:
    source = tree(tmp_path / "photos", per_class=4, prefix=part)
    os.remove(f"{source}/{part}dog/00.png")
  for start in range(2):  # the second reads the decoded images
    load(tmp_path / "data", source, per_class=5)
    lines = [line for line in log_lines if "per_class" in line]
    assert len(lines) == start + 1
    assert lines[start].endswith(
      f"data.options.per_class: 5 photos of each class are wanted, but {counts}; add photos, or "
      "lower it"
    )
  load(tmp_path / "data", source, per_class=3)
  load(tmp_path / "data", source)
  assert len([line for line in log_lines if "per_class" in line]) == 2
