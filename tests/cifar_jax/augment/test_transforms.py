"""Flips, crops, holes and mixing against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from image_batches import make_keys, make_noise, one_hot

from cifar_jax.augment import transforms


def test_normalize():
  images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 1, 3, 3) * 14
  mean, std = [0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]
  result = transforms.normalize(images, mean, std)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, (images / 255 - mean) / std, atol=1e-6)
  np.testing.assert_allclose(
    transforms.normalize(images, [0] * 3, [1] * 3), images / 255, atol=1e-7
  )


def test_normalize_makes_a_constant_channel_zero():
  images = np.full((2, 1, 1, 3), 77, np.uint8)
  result = transforms.normalize(images, [77 / 255] * 3, [0, 0.2, 0])
  np.testing.assert_allclose(result, np.zeros((2, 1, 1, 3)), atol=1e-6)


def test_random_flip_mirrors_columns_half_the_time():
  images = make_noise(1000, 2, 3, 1)
  result = np.asarray(transforms.random_flip(make_keys(1000), images))
  flipped = (result == images[:, :, ::-1]).all(axis=(1, 2, 3))
  assert np.all(flipped != (result == images).all(axis=(1, 2, 3)))
  assert scipy.stats.binomtest(int(flipped.sum()), 1000).pvalue > 1e-3


def test_alternating_flip_mirrors_one_half_and_then_the_other():
  images = make_noise(1000, 2, 3, 1)

  def find_mirrored(epoch, seed=0):
    result = np.asarray(transforms.alternating_flip(make_keys(1000, seed), epoch, images))
    mirrored = (result == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert np.all(mirrored != (result == images).all(axis=(1, 2, 3)))
    return mirrored

  first = find_mirrored(0)
  assert scipy.stats.binomtest(int(first.sum()), 1000).pvalue > 1e-3
  for epoch in (1, 2, 7):
    np.testing.assert_array_equal(find_mirrored(jnp.int32(epoch)), first ^ (epoch % 2 == 1))
  assert 400 < (find_mirrored(0, seed=1) != first).sum() < 600


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_random_crop_is_a_uniformly_drawn_window_of_the_padded_image(mode):
  images = make_noise(2500, 4, 5, 1)
  result = np.asarray(transforms.random_crop(make_keys(2500), images, padding=2, mode=mode))
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)
  windows = [padded[:, y : y + 4, x : x + 5] for y in range(5) for x in range(5)]
  matches = np.array([(result == window).all(axis=(1, 2, 3)) for window in windows])
  assert np.all(matches.sum(axis=0) == 1)
  assert scipy.stats.chisquare(matches.sum(axis=1)).pvalue > 1e-3


def test_random_crop_defaults_to_four_zeros():
  result = transforms.random_crop(make_keys(200), np.ones((200, 6, 6, 1), np.float32))
  rows = np.asarray(result.max(axis=(2, 3)).sum(axis=1))
  assert set(rows) == {2, 3, 4, 5, 6}
  assert set(np.unique(result)) == {0, 1}


@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_cutout_zeroes_one_square_clipped_at_the_border(size):
  height, width = 9, 12
  images = np.abs(make_noise(1000, height, width, 2)) + 1
  result = np.asarray(transforms.cutout(make_keys(1000), images, size=size))
  holes = np.zeros((height, width, height, width), bool)  # for every centre
  for y in range(height):
    for x in range(width):
      top, left = y - size // 2, x - size // 2
      holes[y, x, max(top, 0) : top + size, max(left, 0) : left + size] = True
  expected = {hole.tobytes() for hole in holes.reshape(-1, height, width)}
  assert {hole.tobytes() for hole in (result == 0).all(axis=-1)} == expected
  np.testing.assert_array_equal(result, np.where((result == 0).all(-1)[..., None], 0, images))


@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_cutout_inside_is_one_unclipped_square_anywhere(size):
  height, width = 9, 12
  images = np.abs(make_noise(1000, height, width, 2)) + 1
  result = np.asarray(transforms.cutout(make_keys(1000), images, size=size, inside=True))
  tall, wide = min(size, height), min(size, width)  # a square that is too large covers the image
  holes = np.zeros((height - tall + 1, width - wide + 1, height, width), bool)
  for y in range(height - tall + 1):
    for x in range(width - wide + 1):
      holes[y, x, y : y + tall, x : x + wide] = True
  expected = {hole.tobytes() for hole in holes.reshape(-1, height, width)}
  assert {hole.tobytes() for hole in (result == 0).all(axis=-1)} == expected


def test_mixup_blends_images_and_labels_with_one_partner_each(uniform_beta):
  images = make_noise(6)
  for seed in range(5):
    result, labels = transforms.mixup(jax.random.key(seed), images, one_hot(6), alpha=1.0)
    labels = np.asarray(labels)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=0), 1, atol=1e-5)  # a permutation
    np.testing.assert_allclose(result, np.einsum("ij,jhwc->ihwc", labels, images), atol=1e-5)
    weights = np.diag(labels)  # lambda, or 1 where an image is its partner
    assert np.unique(weights[weights < 1].round(5)).size <= 1


def test_mixup_draws_lambda_from_beta():
  images, labels = np.zeros((2, 1, 1, 1), np.float32), one_hot(2)
  mix = jax.vmap(
    lambda key, alpha: transforms.mixup(key, images, labels, alpha=alpha)[1], (0, None)
  )
  mix = jax.jit(mix)
  for alpha in (0.2, 1.0, 8.0):
    lam = np.asarray(mix(make_keys(3000), alpha))[:, 0, 0]
    mixed = lam < 1  # in half of the permutations of two, every image is its partner
    assert scipy.stats.kstest(lam[mixed], scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert 1350 < mixed.sum() < 1650


def test_cutmix_pastes_one_box_and_mixes_labels_by_its_area(uniform_beta):
  height, width, batch = 8, 10, 6
  images = make_noise(batch, height, width)
  clipped = 0
  for seed in range(12):
    key = jax.random.key(seed)
    result, labels = transforms.cutmix(key, images, one_hot(batch), alpha=1.0)
    result, labels = np.asarray(result), np.asarray(labels)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=0), 1, atol=1e-6)
    pasted = (result != images).all(axis=-1)
    box = pasted.any(axis=0)
    rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
    np.testing.assert_array_equal(box, np.outer(box.any(axis=1), box.any(axis=0)))
    assert np.all(np.diff(rows) == 1) and np.all(np.diff(columns) == 1)
    for i in range(batch):
      partner = np.argmax(np.where(np.arange(batch) == i, -1, labels[i]))
      if labels[i, i] == 1:
        np.testing.assert_array_equal(result[i], images[i])
        continue
      np.testing.assert_allclose(labels[i, i], 1 - box.mean(), atol=1e-6)
      np.testing.assert_array_equal(result[i], np.where(box[..., None], images[partner], images[i]))
    side = np.sqrt(1 - jax.random.beta(jax.random.split(key, 3)[0], 1.0, 1.0))
    sides = int(side * height), int(side * width)
    assert len(rows) <= sides[0] and len(columns) <= sides[1]
    at_border = {0, height - 1} & set(rows) or {0, width - 1} & set(columns)
    assert at_border or (len(rows), len(columns)) == sides
    clipped += (len(rows), len(columns)) != sides
  assert 0 < clipped < 12


@pytest.mark.parametrize("mix", [transforms.mixup, transforms.cutmix])
def test_mixing_never_holds_the_global_batch_on_a_device(mix):
  images, labels = make_noise(8 * 4, 8, 8, 3).reshape(8, 4, 8, 8, 3), one_hot(32).reshape(8, 4, 32)
  apply = functools.partial(mix, jax.random.key(0), alpha=1.0, axis_name="batch")
  program = jax.make_jaxpr(jax.pmap(apply, axis_name="batch"))(images, labels)

  def equations(jaxpr):
    for equation in jaxpr.eqns:
      yield equation
      for value in equation.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
          inner = getattr(inner, "jaxpr", inner)
          if hasattr(inner, "eqns"):
            yield from equations(inner)

  (on_a_device,) = [e for e in equations(program.jaxpr) if e.primitive.name == "shard_map"]
  outputs = [v for e in equations(on_a_device.params["jaxpr"]) for v in e.outvars]
  assert max(variable.aval.size for variable in outputs) == images[0].size
