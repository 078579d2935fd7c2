"""Warps against Keras and SciPy."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from cifar_jax.augment import geometry

MODES = ["constant", "nearest", "reflect", "wrap"]
AS_LAYER = {"constant": "grid-constant", "wrap": "grid-wrap"}


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).normal(size=(6, 9, 12, 2)).astype(np.float32)


def random_matrices(number):
  """Return matrices that map much of the output several image sizes beyond the border."""
  rng = np.random.default_rng(2)
  linear = np.eye(2) + rng.uniform(-1.5, 1.5, (number, 2, 2))
  offset = rng.uniform(-15, 15, (number, 2, 1))
  last = np.broadcast_to([[[0.0, 0.0, 1.0]]], (number, 1, 3))
  matrices = np.concatenate([np.concatenate([linear, offset], axis=2), last], axis=1)
  return matrices.astype(np.float32)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill_mode", MODES)
def test_warp_equals_keras_affine_transform(keras, images, fill_mode, interpolation):
  matrices = random_matrices(len(images))
  ours = geometry.warp(
    images,
    jnp.asarray(matrices),
    fill_mode=AS_LAYER.get(fill_mode, fill_mode),
    fill_value=0.7,
    interpolation=interpolation,
  )
  theirs = keras.ops.image.affine_transform(
    images,
    matrices.reshape(-1, 9)[:, :8],
    interpolation=interpolation,
    fill_mode=fill_mode,
    fill_value=0.7,
    data_format="channels_last",
  )
  np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("fill_mode", [*MODES, "grid-constant", "grid-wrap"])
def test_warp_equals_scipy(images, fill_mode, order):
  matrices = random_matrices(len(images))
  ours = geometry.warp(
    images,
    jnp.asarray(matrices),
    fill_mode=fill_mode,
    fill_value=0.7,
    interpolation=["nearest", "bilinear"][order],
  )
  swap = [1, 0, 2]  # SciPy counts rows first
  theirs = [
    [
      scipy.ndimage.affine_transform(
        image[..., channel], m[swap][:, swap], order=order, mode=fill_mode, cval=0.7
      )
      for channel in range(image.shape[-1])
    ]
    for image, m in zip(images, matrices.astype(np.float64), strict=True)
  ]
  np.testing.assert_allclose(ours, np.moveaxis(theirs, 1, -1), atol=2e-4)


@pytest.mark.parametrize("fill_mode", [*MODES, "grid-constant", "grid-wrap"])
def test_images_of_one_pixel(fill_mode):
  image = np.full((1, 1, 1, 1), 3, np.float32)
  result = geometry.warp(
    image, geometry.make_matrix(x=jnp.array([5.3])), fill_mode=fill_mode, fill_value=7
  )
  assert result.item() == pytest.approx(7 if "constant" in fill_mode else 3)
