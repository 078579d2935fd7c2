"""Affine augmentations against Keras' layers, Keras' ImageDataGenerator and SciPy."""

import numpy as np
import pytest
import scipy.stats
from image_batches import make_keys

from cifar_jax.augment import affine

MODES = ["constant", "nearest", "reflect", "wrap"]


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).normal(size=(6, 9, 12, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def squares():
  return np.random.default_rng(1).normal(size=(6, 12, 12, 2)).astype(np.float32)


@pytest.mark.parametrize(
  ("ours", "layer", "arguments"),
  [
    *[
      (affine.random_rotation, "RandomRotation", {"factor": (0.07, 0.07), "fill_mode": fill_mode})
      for fill_mode in MODES
    ],
    (affine.random_rotation, "RandomRotation", {"factor": (-0.4, -0.4)}),
    (affine.random_rotation, "RandomRotation", {"factor": (0.3, 0.3), "interpolation": "nearest"}),
    (affine.random_zoom, "RandomZoom", {"height_factor": (0.3, 0.3)}),
    (
      affine.random_zoom,
      "RandomZoom",
      {"height_factor": (-0.3, -0.3), "width_factor": (0.5, 0.5), "fill_mode": "constant"},
    ),
    (
      affine.random_translation,
      "RandomTranslation",
      {"height_factor": (0.21, 0.21), "width_factor": (-0.34, -0.34)},
    ),
    (
      affine.random_translation,
      "RandomTranslation",
      {"height_factor": (0.6, 0.6), "width_factor": (0.8, 0.8), "fill_mode": "wrap"},
    ),
  ],
)
def test_equals_keras_layer_at_a_fixed_factor(keras, images, ours, layer, arguments):
  layer = getattr(keras.layers, layer)(**arguments, fill_value=-0.4)
  result = ours(make_keys(6), images, **arguments, fill_value=-0.4)
  np.testing.assert_allclose(result, layer(images, training=True), atol=2e-4)
  assert np.abs(result - images).max() > 0.1


def test_shear_equals_keras_layer_up_to_its_random_sign(keras, images):
  layer = keras.layers.RandomShear(0.5, 0.5)
  result = affine.random_shear(make_keys(6), images, x_factor=(0.3, 0.3), y_factor=(0.2, 0.2))
  signs = []
  for sign in (1.0, -1.0):
    transformation = {"shear_factor": np.full((6, 2), sign, np.float32) * [0.3, 0.2]}
    theirs = layer.transform_images(images, transformation)
    signs.append(np.abs(result - theirs).max(axis=(1, 2, 3)) < 2e-4)
  assert np.all(signs[0] != signs[1])
  assert 0 < np.sum(signs[0]) < 6


@pytest.fixture
def draws(monkeypatch):
  """The uniform draws of the transforms, in the order of the calls."""
  drawn, draw = [], affine._draw_uniform

  def spy(*arguments):
    drawn.append(draw(*arguments))
    return drawn[-1]

  monkeypatch.setattr(affine, "_draw_uniform", spy)
  return drawn


@pytest.mark.filterwarnings("ignore:.*scipy.ndimage:DeprecationWarning")
@pytest.mark.parametrize("fill_mode", MODES)
def test_random_affine_equals_image_data_generator(keras, squares, draws, fill_mode):
  from keras.src.legacy.preprocessing.image import ImageDataGenerator

  generator = ImageDataGenerator(fill_mode=fill_mode, cval=0.7, horizontal_flip=True)
  result = affine.random_affine(
    make_keys(6),
    squares,
    rotation=40,
    shift=(0.2, 0.1),
    shear=20,
    zoom=0.3,
    flip=True,
    fill_mode=fill_mode,
    fill_value=0.7,
  )
  flips = set()
  for image, ours, (theta, down, right, shear, zx, zy, side) in zip(
    squares, result, np.asarray(draws[0], np.float64).T, strict=True
  ):
    parameters = {
      "theta": np.rad2deg(theta),
      "tx": 12 * right,
      "ty": 12 * down,
      "shear": np.rad2deg(shear),
      "zx": zx,
      "zy": zy,
      "flip_horizontal": side < 0,
    }
    flips.add(bool(side < 0))
    np.testing.assert_allclose(ours, generator.apply_transform(image, parameters), atol=2e-4)
  assert flips == {True, False}


def test_random_affine_draws_from_its_ranges(draws, monkeypatch):
  monkeypatch.setattr(affine, "warp", lambda images, matrices, **options: images)
  image = np.zeros((2000, 1, 1, 1), np.float32)
  affine.random_affine(
    make_keys(2000), image, rotation=40, shift=(0.2, 0.1), shear=20, zoom=(0.7, 1.1), flip=True
  )
  degree = np.pi / 180
  ranges = [
    (-40 * degree, 40 * degree),
    (-0.2, 0.2),
    (-0.1, 0.1),
    (-20 * degree, 20 * degree),
    (0.7, 1.1),
    (0.7, 1.1),
    (-1, 1),
  ]
  for values, (low, high) in zip(np.asarray(draws[0]), ranges, strict=True):
    assert scipy.stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3
  assert np.abs(np.corrcoef(draws[0]) - np.eye(7)).max() < 0.1


def test_random_affine_shifts_rows_by_height_and_columns_by_width(draws):
  row, column = np.mgrid[:9, :12].astype(np.float32)
  ramps = np.broadcast_to(np.stack([row, column], axis=-1), (6, 9, 12, 2))
  result = affine.random_affine(make_keys(6), ramps, shift=(0.5, 0.1))
  down, right = np.asarray(draws[0])[1:3, :, None, None]
  np.testing.assert_allclose(result[..., 0], np.clip(row + 9 * down, 0, 8), atol=1e-5)
  np.testing.assert_allclose(result[..., 1], np.clip(column + 12 * right, 0, 11), atol=1e-5)


def test_random_affine_turns_about_the_centre_of_oblong_images():
  image = np.zeros((1, 9, 13, 1), np.float32)
  image[0, 4, 6] = 1
  result = affine.random_affine(
    make_keys(1), image, rotation=360, shear=30, zoom=(0.5, 0.5), flip=True
  )
  np.testing.assert_allclose(result[0, 4, 6], 1, atol=1e-5)


@pytest.mark.parametrize("fill_mode", MODES)
def test_empty_ranges_change_nothing(images, fill_mode):
  for transform, arguments in [
    (affine.random_rotation, {"factor": 0.0}),
    (affine.random_zoom, {"height_factor": 0.0}),
    (affine.random_translation, {"height_factor": 0.0, "width_factor": 0.0}),
    (affine.random_shear, {}),
    (affine.random_affine, {}),
  ]:
    np.testing.assert_array_equal(
      transform(make_keys(6), images, **arguments, fill_mode=fill_mode), images
    )


def test_zoom_keeps_the_aspect_ratio_unless_the_width_has_a_range(draws, images):
  affine.random_zoom(make_keys(6), images, height_factor=0.5)
  affine.random_zoom(make_keys(6), images, height_factor=0.5, width_factor=(-0.2, 0.1))
  assert [len(draw) for draw in draws] == [1, 2]
  assert np.all((draws[1][1] >= -0.2) & (draws[1][1] <= 0.1))
