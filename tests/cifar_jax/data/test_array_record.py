"""TFDS folders: TFDS reads the folders written here, and unusable folders are refused."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
from small_datasets import RECORDS, check_small, small_cifar10

from cifar_jax import errors
from cifar_jax.data import cifar, datasets

pytestmark = pytest.mark.usefixtures("small_cifar")


def test_stock_tfds_reads_a_prepared_folder(prepared):
  import tensorflow_datasets as tfds

  _, _, images, labels = small_cifar10()
  builder = tfds.builder("cifar10", data_dir=prepared, file_format="array_record")
  assert builder.info.features["label"].names == list(cifar.CIFAR10.classes["label"])
  assert builder.info.splits["train"].num_examples == 5 * RECORDS
  for split, offset, num_images in (("train", 0, 5 * RECORDS), ("test", 5 * RECORDS, RECORDS)):
    indices = []
    for example in builder.as_data_source(split):
      assert example.keys() == {"id", "image", "label"}
      prefix, index = example["id"].decode().split("_")
      assert prefix == split and len(index) == 5
      np.testing.assert_array_equal(example["image"], images[offset + int(index)])
      assert example["label"] == labels[offset + int(index)]
      indices.append(int(index))
    assert sorted(indices) == list(range(num_images))
    assert indices != sorted(indices)  # TFDS shuffles


def test_a_prepared_tfds_folder_needs_no_other_source(prepared_copy):
  shutil.rmtree(prepared_copy / "cifar10" / "decoded-3.0.2")
  check_small(datasets.load("cifar10", str(prepared_copy)))


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

  # The command's module cannot be imported without TensorFlow; the flags are fields of a class.
  cli = pathlib.Path(tfds.__file__).parent / "scripts" / "cli" / "convert_format.py"
  for flag in ("dataset_version_dir", "out_file_format"):
    assert f"\n  {flag}: " in cli.read_text()

  (folder / "cifar10-train.tfrecord-00000-of-00001").rename(folder / "other")
  with pytest.raises(errors.UserError, match=r"3.0.2: holds no TFDS dataset in ArrayRecord"):
    datasets.load("cifar10", str(tmp_path), source)


def test_damaged_tfds_folder_is_refused(prepared_copy):
  shutil.rmtree(prepared_copy / "cifar10" / "decoded-3.0.2")
  (records,) = (prepared_copy / "cifar10" / "3.0.2").glob("*test.array_record*")
  content = records.read_bytes()
  records.write_bytes(content[: len(content) // 2])
  with pytest.raises(errors.UserError, match=r"cifar10/3.0.2: cannot be read.*delete this folder"):
    datasets.load("cifar10", str(prepared_copy))


def test_tfds_folder_with_other_images_is_refused(prepared_copy):
  """Another program may have prepared the folder from other images."""
  spec, _, _, _ = small_cifar10()
  other = dataclasses.replace(spec, sha256=spec.sha256 | {"data_batch_4.bin": "0" * 64})
  shutil.rmtree(prepared_copy / "cifar10" / "decoded-3.0.2")
  datasets.REGISTRY["cifar10"] = datasets.REGISTRY["cifar10"]._replace(decode=other.decode)
  with pytest.raises(errors.UserError, match=r"3.0.2: data_batch_4.bin is not.*delete this folder"):
    datasets.load("cifar10", str(prepared_copy))
