"""Test-time augmentation: views against SciPy's shifts, and their means against NumPy."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.special

from cifar_jax.augment import test_time

DIAGONALS = {"flip": 0, "flip_shift1": 1, "flip_shift2": 2}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)


def shift(images, down, right):
  return scipy.ndimage.shift(images, (0, down, right, 0), order=0, mode="mirror")


@pytest.mark.parametrize("kind", DIAGONALS)
def test_views_are_the_images_flipped_and_shifted(kind):
  views = [np.asarray(view) for view in test_time.make_views(IMAGES, kind)]
  max_pixels = DIAGONALS[kind]
  assert len(views) == test_time.KINDS[kind].num_views == 2 * (1 + 4 * max_pixels)
  np.testing.assert_array_equal(views[0], IMAGES)
  np.testing.assert_array_equal(views[1], IMAGES[:, :, ::-1])
  expected = []
  for down in range(-max_pixels, max_pixels + 1):
    for right in range(-max_pixels, max_pixels + 1):
      if abs(down) == abs(right):
        view = shift(IMAGES, down, right)
        expected += [view, view[:, :, ::-1]]
  assert {v.tobytes() for v in views} == {v.tobytes() for v in expected}


def network(images):
  """Return logits [n, 4] to which every pixel contributes by its position."""
  weights = np.random.default_rng(1).normal(size=(6 * 8 * 3, 4)) / 1000
  return np.float32(np.asarray(images).reshape(len(images), -1) @ weights)


@pytest.mark.parametrize("kind", DIAGONALS)
def test_averages_probabilities(kind):
  logits = np.array([network(view) for view in test_time.make_views(IMAGES, kind)], np.float64)
  expected = np.log(scipy.special.softmax(logits, axis=-1).mean(0))
  np.testing.assert_allclose(test_time.predict_logits(network, IMAGES, kind), expected, rtol=1e-5)


def test_multicrop_is_the_published_mean_of_logits():
  def average_mirrored(images):
    return (network(images) + network(images[:, :, ::-1])) / 2

  shifted = (average_mirrored(shift(IMAGES, 1, 1)) + average_mirrored(shift(IMAGES, -1, -1))) / 2
  expected = (average_mirrored(IMAGES) + shifted) / 2
  logits = test_time.predict_logits(network, IMAGES, "multicrop")
  np.testing.assert_allclose(logits, expected, rtol=1e-5)
  assert test_time.KINDS["multicrop"].num_views == 6


@pytest.mark.parametrize("kind", test_time.KINDS)
def test_weights_sum_to_one(kind):
  same_logits = np.broadcast_to(np.float32([0.3, -1, 2]), (3, 3))
  logits = test_time.predict_logits(lambda images: same_logits, IMAGES, kind)
  expected = same_logits if kind == "multicrop" else scipy.special.log_softmax(same_logits, axis=-1)
  np.testing.assert_allclose(logits, expected, rtol=1e-5)
