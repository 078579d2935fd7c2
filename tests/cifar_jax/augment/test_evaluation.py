"""Evaluation transforms and the crop of a batch, against Keras 2.6's layers written in NumPy."""

import re

import jax
import numpy as np
import pytest
from image_batches import make_keys, make_noise

from cifar_jax import errors
from cifar_jax.augment import evaluation, transforms


def pad_and_resize(images, padding):
  """ZeroPadding2D, then what Keras 2.6's RandomCrop does to square images at inference, float64.

  A bilinear resize with half-pixel centres and without antialiasing: output pixel i shows the place
  (i + 0.5) * scale - 0.5 of the padded image.
  """
  side = images.shape[1]
  padded = np.pad(images.astype(np.float64), ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
  place = (np.arange(side) + 0.5) * padded.shape[1] / side - 0.5
  lower = np.floor(place).astype(int)
  share = place - lower
  rows = padded[:, lower] * (1 - share)[:, None, None] + padded[:, lower + 1] * share[:, None, None]
  return rows[:, :, lower] * (1 - share)[:, None] + rows[:, :, lower + 1] * share[:, None]


@pytest.mark.parametrize(("side", "padding"), [(32, 4), (8, 1), (5, 3)])
def test_pad_and_resize_is_keras_random_crop_at_inference(side, padding):
  images = make_noise(3, side, side)
  result = transforms.pad_and_resize(make_keys(3), images, padding=padding)
  np.testing.assert_allclose(result, pad_and_resize(images, padding), atol=1e-6)


def test_batch_crop_cuts_all_images_at_one_place_which_is_uniform():
  images = make_noise(3, 4, 5)
  padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
  places = [(top, left) for top in range(3) for left in range(3)]
  crop = jax.jit(jax.vmap(lambda key: transforms.batch_crop(key, images, padding=1)))
  counts = dict.fromkeys(places, 0)
  for result in np.asarray(crop(make_keys(900))):
    (place,) = [
      (y, x) for y, x in places if np.array_equal(result, padded[:, y : y + 4, x : x + 5])
    ]
    counts[place] += 1
  assert min(counts.values()) > 60 and max(counts.values()) < 145  # 100 each, ± 4 deviations


def test_an_empty_transform_changes_nothing():
  images = make_noise(2)
  assert evaluation.parse("")(np.zeros(images.shape, np.uint8), images) is images


def test_draws_depend_on_the_pixels_alone():
  pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 10, 3), dtype=np.uint8)
  pixels[1:32] = pixels[0]
  pixels[1, 0, 0, 0] ^= 1
  transform = jax.jit(evaluation.parse("random_affine(shift=(0.3, 0.3)) | random_flip()"))
  images = np.tile(make_noise(1), (64, 1, 1, 1))  # the same, so that only the draws differ
  result = np.asarray(transform(pixels, images))
  for i in range(2, 32):
    np.testing.assert_array_equal(result[i], result[0])
  assert len(np.unique(result.reshape(64, -1), axis=0)) == 2 + 32
  backwards = transform(pixels[::-1].astype(np.float32), images)  # as gradients need it
  np.testing.assert_array_equal(backwards[::-1], result)


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    (
      "mixup(0.2)",
      "eval_transform: mixup needs the labels, the epoch or the batch; use transforms",
    ),
    ("alternating_flip", "eval_transform: alternating_flip needs the labels, the epoch or the"),
    ("pad_and_resize | batch_crop", "eval_transform: batch_crop needs the labels, the epoch or"),
    ("pad_and_rezise", "eval_transform: unknown transform 'pad_and_rezise'; did you mean 'pad_and"),
    ("pad_and_resize(-1)", "eval_transform: pad_and_resize(padding=-1): padding must be a whole"),
  ],
)
def test_what_cannot_transform_single_images_is_refused(spec, message):
  with pytest.raises(errors.UserError, match=f"^{re.escape(message)}"):
    evaluation.parse(spec)
