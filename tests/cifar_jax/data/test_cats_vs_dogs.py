"""Cats and dogs: from a folder, from TFDS, and from the real photos."""

import io
import itertools
import os
import pathlib
import shutil

import numpy as np
import pytest
from small_photos import encoded, load, tree, values

from cifar_jax import errors
from cifar_jax.data import datasets, image_folder

REAL = pathlib.Path(__file__).parents[3] / ".." / "shared" / "data" / "cats_vs_dogs"


@pytest.mark.skipif(not REAL.exists(), reason="the real photos are not on this machine")
def test_real_photos(tmp_path):
  """Compare with Keras' images of the files that `decode`'s docstring names."""
  from keras import utils as keras_utils

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


def test_without_photos_the_dataset_is_unavailable(tmp_path):
  with pytest.raises(datasets.Unavailable) as caught:
    datasets.load("cats_vs_dogs", str(tmp_path))
  message = str(caught.value)
  assert message.startswith(
    "data.source: no folder is given for cats_vs_dogs, and no TFDS dataset is prepared in "
    f"{tmp_path}/cats_vs_dogs/4.0.1; give --config.data.source a folder with the sub-folders cat"
  )
  assert "kagglecatsanddogs_5340.zip" in message and "\n" not in message
  assert "tfds build cats_vs_dogs --file_format=array_record" in message
  with pytest.raises(
    datasets.Unavailable, match=r"no folder is given for image_folder; give --con"
  ):
    datasets.load("image_folder", str(tmp_path))


def prepare_tfds(data_dir: pathlib.Path) -> None:
  """Write TFDS's dataset in ArrayRecord with a few photos, as the stock builder would."""
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
  with pytest.raises(errors.UserError, match=r"4.0.1: cannot be read as this dataset"):
    load(tmp_path, None, "cats_vs_dogs")
