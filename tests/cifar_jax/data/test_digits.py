"""scikit-learn's digits as a dataset."""

import numpy as np
import pytest
from sklearn import datasets as sklearn_datasets

from cifar_jax import errors
from cifar_jax.data import datasets


def test_digits_are_scikit_learns(tmp_path):
  dataset = datasets.load("digits", str(tmp_path))
  # The same on every machine, with every version of the libraries.
  assert dataset.fingerprint == "6a705f1ff06bcfbdb744c6c8680850336af7d0b9c489c172e7e41d450955450a"
  assert datasets.find_form("digits") == (*dataset.train.images.shape[1:], len(dataset.class_names))
  bunch = sklearn_datasets.load_digits()
  assert (len(dataset.train.labels), len(dataset.test.labels)) == (1437, 360)
  assert dataset.class_names == tuple("0123456789")
  expected = sorted(
    (*image.ravel(), label) for image, label in zip(bunch.images, bunch.target, strict=True)
  )
  digits = []
  for split in (dataset.train, dataset.test):
    images = split.images
    assert images.shape[1:] == (32, 32, 3)
    np.testing.assert_array_equal(
      images, images[:, ::4, ::4, :1].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    )
    grey = np.round(images[:, ::4, ::4, 0] * (16 / 255))
    digits += [(*image.ravel(), label) for image, label in zip(grey, split.labels, strict=True)]
    share = np.bincount(split.labels) / len(split.labels)
    np.testing.assert_allclose(share, np.bincount(bunch.target) / 1797, atol=0.002)
  assert sorted(digits) == expected


def test_a_source_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match=r"data.source: digits come with scikit-learn"):
    datasets.load("digits", str(tmp_path), "/somewhere")
