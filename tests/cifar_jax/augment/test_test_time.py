"""Test-time augmentation: views against SciPy's shifts, and their means against NumPy."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.special

from cifar_jax.augment import test_time

DIAGONALS = {"flip": 0, "flip_shift1": 1, "flip_shift2": 2}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)


def shifted(images, down, right):
  return scipy.ndimage.shift(images, (0, down, right, 0), order=0, mode="mirror")


@pytest.mark.parametrize("kind", DIAGONALS)
def test_views_are_the_images_flipped_and_shifted(kind):
  found = [np.asarray(view) for view in test_time.views(IMAGES, kind)]
  most = DIAGONALS[kind]
  assert len(found) == test_time.KINDS[kind].views == 2 * (1 + 4 * most)
  np.testing.assert_array_equal(found[0], IMAGES)
  np.testing.assert_array_equal(found[1], IMAGES[:, :, ::-1])
  expected = []
  for down in range(-most, most + 1):
    for right in range(-most, most + 1):
      if abs(down) == abs(right):
        view = shifted(IMAGES, down, right)
        expected += [view, view[:, :, ::-1]]
  assert {v.tobytes() for v in found} == {v.tobytes() for v in expected}


def network(images):
  """Logits [n, 4] that see every pixel's place."""
  weights = np.random.default_rng(1).normal(size=(6 * 8 * 3, 4)) / 1000
  return np.float32(np.asarray(images).reshape(len(images), -1) @ weights)


@pytest.mark.parametrize("kind", DIAGONALS)
def test_the_mean_is_of_probabilities(kind):
  logits = np.array([network(view) for view in test_time.views(IMAGES, kind)], np.float64)
  expected = np.log(scipy.special.softmax(logits, axis=-1).mean(0))
  np.testing.assert_allclose(test_time.logits(network, IMAGES, kind), expected, rtol=1e-5)


def test_multicrop_is_the_published_mean_of_logits():
  def mirrored(images):
    return (network(images) + network(images[:, :, ::-1])) / 2

  moved = (mirrored(shifted(IMAGES, 1, 1)) + mirrored(shifted(IMAGES, -1, -1))) / 2
  expected = (mirrored(IMAGES) + moved) / 2
  np.testing.assert_allclose(test_time.logits(network, IMAGES, "multicrop"), expected, rtol=1e-5)
  assert test_time.KINDS["multicrop"].views == 6


@pytest.mark.parametrize("kind", test_time.KINDS)
def test_weights_add_up_to_one(kind):
  same = np.broadcast_to(np.float32([0.3, -1, 2]), (3, 3))
  found = np.asarray(test_time.logits(lambda images: same, IMAGES, kind))
  expected = same if kind == "multicrop" else scipy.special.log_softmax(same, axis=-1)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
