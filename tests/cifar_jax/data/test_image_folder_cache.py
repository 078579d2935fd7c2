"""The cache of a folder of photos: when it is used, and when photos are decoded again."""

import os
import pathlib
import subprocess
import sys

import numpy as np
from small_datasets import ROOT
from small_photos import OPTIONS, SIZE, load, solid, tree, values, write

from cifar_jax.data import image_files


def cache_folders(data_dir: pathlib.Path) -> set[str]:
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
    assert len(cache_folders(tmp_path)) == count
    assert dataset.train.images.shape[1:3] == (change.get("size", SIZE),) * 2
  monkeypatch.setattr(image_files, "decode", None)  # decoding would be a TypeError
  for change in changes:
    load(tmp_path, source, **change)
  assert load(tmp_path, source, seed=None, size=SIZE).fingerprint == first.fingerprint
  assert load(tmp_path, f"{source}/../photos/").fingerprint == first.fingerprint
  assert len(cache_folders(tmp_path)) == 6


def test_changed_files_are_decoded_again(tmp_path):
  source = tree(tmp_path / "photos")
  cat = tmp_path / "photos" / "cat"
  fingerprints = [load(tmp_path, source).fingerprint]

  def count_caches() -> int:
    fingerprints.append(load(tmp_path, source).fingerprint)
    return len(cache_folders(tmp_path))

  (cat / "04.png").write_bytes(solid(50))
  assert count_caches() == 2
  (cat / "04.png").rename(cat / "004.png")
  assert count_caches() == 3
  before = (cat / "00.png").stat()
  (cat / "00.png").write_bytes(solid(60).ljust(before.st_size)[: before.st_size])
  os.utime(cat / "00.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
  assert count_caches() == 4
  (cat / "00.png").unlink()
  assert count_caches() == 5
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
  process = subprocess.run(
    [sys.executable, "-c", code, str(tmp_path), source], cwd=ROOT, capture_output=True, text=True
  )
  assert process.stdout == "[]\n", process.stderr
