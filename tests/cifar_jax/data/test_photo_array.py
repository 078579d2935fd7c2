"""Photos that are decoded whenever they are read: the same pixels as those decoded once."""

import os
import pathlib
import pickle
import tracemalloc

import jax
import numpy as np
import pytest
from etils import epath
from fakes import data_config
from small_photos import SIZE, encoded, left_out, load, noise, solid, tree, write

import input_pipeline
from cifar_jax import errors
from cifar_jax.data import cache, image_files, image_folder, photo_array, photo_recipe, sources


@pytest.fixture
def source(tmp_path):
  """A folder of noise: 9 cats and 7 dogs, and a file that is no image."""
  files = {
    f"{name}/{i:02d}.jpg": encoded(noise(20 + i, 30, 3, seed=first + i), "JPEG")
    for name, count, first in (("cat", 9, 0), ("dog", 7, 100))
    for i in range(count)
  }
  return write(tmp_path / "photos", files | {"cat/text.jpg": b"no image"})


def load_both(tmp_path, source, **options):
  """Load the photos as pixels and as files."""
  return (
    load(tmp_path / name, source, decode_once=decode_once, **options)
    for name, decode_once in (("pixels", True), ("files", False))
  )


@pytest.mark.parametrize(
  "options", [{}, {"crop": "center", "interpolation": "bilinear", "size": 9}]
)
def test_files_give_the_same_dataset_as_pixels(tmp_path, source, options):
  pixels, files = load_both(tmp_path, source, **options)
  assert isinstance(pixels.train.images, np.memmap)
  assert isinstance(files.train.images, photo_array.PhotoArray)
  for ours, expected in ((files.train, pixels.train), (files.test, pixels.test)):
    assert ours.images.shape == expected.images.shape and ours.images.dtype == np.uint8
    assert ours.images.nbytes == expected.images.nbytes and len(ours.images) == len(expected.images)
    np.testing.assert_array_equal(ours.images, expected.images)
    np.testing.assert_array_equal(ours.labels, expected.labels)
    for index in (0, -1, slice(1, 4), [2, 0, 2], np.array([[1, 0], [2, 2]]), ours.labels == 1):
      np.testing.assert_array_equal(ours.images[index], expected.images[index])
    with pytest.raises(IndexError):
      ours.images[len(ours.images)]
  assert (files.mean, files.std) == (pixels.mean, pixels.std)
  assert files.class_names == pixels.class_names
  assert left_out(tmp_path / "files") == left_out(tmp_path / "pixels") != {}
  # No pixels are on disk, and a second start decodes nothing.
  (folder,) = (tmp_path / "files" / "image_folder").glob("decoded-*")
  names = {path.name for path in folder.iterdir()}
  assert not any(name.endswith("images.npy") for name in names) and "train_images.json" in names


def test_moments_are_those_of_the_training_pixels(tmp_path, source):
  for dataset in load_both(tmp_path, source):
    pixels = np.asarray(dataset.train.images).astype(np.float64) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_the_fingerprint_depends_on_content_and_recipe_alone(tmp_path, source):
  def fingerprint(name, folder=source, **options):
    return load(tmp_path / name, folder, decode_once=False, **options).fingerprint

  first = fingerprint("a")
  copy = tmp_path / "copy"
  write(
    copy, {str(p.relative_to(source)): p.read_bytes() for p in pathlib.Path(source).rglob("*.jpg")}
  )
  assert fingerprint("b", str(copy)) == first
  assert fingerprint("c", size=SIZE + 1) != first
  assert fingerprint("d", crop="center") != first
  assert fingerprint("e", interpolation="box") != first
  path = copy / "cat" / "00.jpg"
  path.write_bytes(path.read_bytes() + b"\0")
  assert fingerprint("f", str(copy)) != first


def test_a_second_start_decodes_nothing(tmp_path, source, monkeypatch):
  first = load(tmp_path, source, decode_once=False)
  monkeypatch.setattr(image_files, "decode", None)  # decoding would be a TypeError
  assert load(tmp_path, source, decode_once=False).fingerprint == first.fingerprint


def test_a_folder_that_moved_is_prepared_again(tmp_path):
  tree(tmp_path / "here")
  load(tmp_path, str(tmp_path / "here"), decode_once=False)
  os.rename(tmp_path / "here", tmp_path / "there")
  moved = load(tmp_path, str(tmp_path / "there"), decode_once=False)
  assert moved.train.images.root == str(tmp_path / "there")
  assert len(np.unique(moved.train.images[:])) == 4


def read_all(dataset, num_workers):
  """Read a batch of all training photos, as training does."""
  devices = jax.device_count()
  order = np.resize(np.arange(len(dataset.train.labels), dtype=np.int32), devices)
  return list(sources.StreamedSource(dataset, num_workers).train(order, devices, 0, [1]))


def test_a_photo_that_changes_during_training_is_one_line(tmp_path):
  source = tree(tmp_path / "photos")
  dataset = load(tmp_path, source, decode_once=False)
  assert len(read_all(dataset, 0)) == 1
  path = pathlib.Path(source, dataset.train.images.names[1])
  path.write_bytes(solid(77))
  for num_workers in (0, 1):
    with pytest.raises(errors.UserError, match=r"^data.source: .*png: has changed since it was pr"):
      read_all(dataset, num_workers)
  path.unlink()
  with pytest.raises(errors.UserError, match=r"png: cannot be read \(No such file or directory\)"):
    read_all(dataset, 0)


def test_each_process_decodes_only_its_rows(tmp_path, monkeypatch):
  source = tree(tmp_path / "photos", per_class=12)
  dataset = load(tmp_path, source, decode_once=False, test_fraction=0.25)
  streamed = sources.StreamedSource(dataset, 0)
  order = np.asarray(input_pipeline.epoch_order(jax.random.key(0), 0, np.arange(18)))
  seen = []
  decode = photo_array.PhotoArray._decode

  def record(self, number):
    seen.append(number)
    return decode(self, number)

  monkeypatch.setattr(photo_array.PhotoArray, "_decode", record)
  rows, images = [], []
  for process in range(2):  # of four devices each
    monkeypatch.setattr(sources, "_local_devices", lambda p=process: slice(4 * p, 4 * p + 4))
    seen.clear()
    ((shard, _), (second, _)) = streamed.train(order, 8, 0, [1, 1])
    expected = order[:16].reshape(2, 2, 4)[:, process]  # of two steps, processes, four rows
    assert sorted(seen) == sorted(expected.ravel())
    rows.append(shard.rows.ravel())
    images.append(np.concatenate([shard.examples.images, second.examples.images], axis=1))
  assert np.concatenate(rows).tolist() == list(range(8))
  together = np.concatenate(images)[:, :, 0]  # [devices, steps, ...]
  expected = dataset.train.images[order[:16]].reshape(2, 8, SIZE, SIZE, 3).swapaxes(0, 1)
  np.testing.assert_array_equal(together, expected)


def test_photos_are_always_streamed(tmp_path):
  dataset = load(tmp_path, tree(tmp_path / "photos"), decode_once=False)
  chosen = sources.make_source(dataset, data_config(resident_bytes=1 << 40), lambda x: x)
  assert isinstance(chosen, sources.StreamedSource)


def test_an_array_is_small_in_worker_processes(tmp_path, source):
  images = load(tmp_path, source, decode_once=False).train.images
  copy = pickle.loads(pickle.dumps(images))
  np.testing.assert_array_equal(copy[:3], images[:3])
  assert len(pickle.dumps(images)) < 3000


def test_tfds_cannot_be_decoded_again(tmp_path):
  folder = epath.Path(tmp_path)
  with pytest.raises(errors.UserError, match=r"^data.options.decode_once: False needs a folder of"):
    image_folder.CATS_VS_DOGS.decode(folder, folder, None, decode_once=False)


def test_preparing_keeps_a_window_of_photos_in_memory(tmp_path, monkeypatch):
  """The pixels of 40 photos have 40 MB; the peak of what Python allocates stays far below."""
  source = tree(tmp_path / "photos", per_class=20)
  pixels = np.zeros((600, 600, 3), np.uint8)
  monkeypatch.setattr(image_files, "decode", lambda *args: pixels + np.uint8(1))
  monkeypatch.setattr(photo_recipe.os, "cpu_count", lambda: 2)
  load(tmp_path / "warm", source, size=600, per_class=2)  # imports Grain
  tracemalloc.start()
  try:
    dataset = load(tmp_path, source, size=600)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert dataset.train.images.nbytes + dataset.test.images.nbytes == 40 * pixels.nbytes
  assert peak < 20 * pixels.nbytes  # 8 photos ahead, and their copies


def test_array_writer_writes_what_numpy_writes(tmp_path):
  images = noise(3, 5, 4, 3)
  writer = cache.ArrayWriter(tmp_path / "grown.npy", (5, 4, 3))
  for image in images:
    writer.append(image)
  grown = writer.finish()
  np.testing.assert_array_equal(grown, images)
  np.save(tmp_path / "saved.npy", images)
  assert (tmp_path / "grown.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()
  empty = cache.ArrayWriter(tmp_path / "empty.npy", (5, 4, 3)).finish()
  assert empty.shape == (0, 5, 4, 3)
