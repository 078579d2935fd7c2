"""Crops that are resized to the size of the image, by sampling every image once.

The functions are transforms as `transforms` describes them. Sampling is bilinear; a crop is never
larger than the image, so it is only ever enlarged.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cifar_jax.augment.geometry import make_matrix, warp
from cifar_jax.augment.registration import Check, is_pair, number, register

_ATTEMPTS = 10  # to draw a crop that fits, as in torchvision


def _range(low: float, high: float) -> Check:
  return Check(
    lambda value: is_pair(value, low, high) and value[0] <= value[1],
    f"a pair (lower, upper) within [{low}, {high}]",
  )


@register(area=_range(0.0001, 1), ratio=_range(0.01, 100))
def random_resized_crop(
  keys: jax.Array,
  images: jax.Array,
  *,
  area: Sequence[float] = (0.08, 1.0),
  ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> jax.Array:
  """Crop a random part of each image, and resize it to the image's size (Szegedy et al. 2015).

  The draws are those of torchvision's RandomResizedCrop, without its rounding to whole pixels: up
  to ten crops are drawn, and the first that fits into the image is taken. If none fits, the whole
  image is used.

  area: the range of the crop's share of the image's area, drawn uniformly.
  ratio: the range of its width / height in pixels, whose logarithm is drawn uniformly.
  """
  height, width = images.shape[1:3]

  def draw(key: jax.Array) -> jax.Array:
    shape_key, place_key = jax.random.split(key)
    low, high = jnp.array([area, (jnp.log(ratio[0]), jnp.log(ratio[1]))], jnp.float32).T
    draws = jax.random.uniform(shape_key, (_ATTEMPTS, 2), minval=low, maxval=high)
    pixels, stretch = draws[:, 0] * height * width, jnp.exp(draws[:, 1])
    sides = jnp.sqrt(jnp.stack([pixels / stretch, pixels * stretch], axis=-1))
    fits = (sides <= jnp.array([height, width])).all(-1)
    side = jnp.where(fits.any(), sides[fits.argmax()], jnp.array([height, width], jnp.float32))
    place = jax.random.uniform(place_key, (2,))
    return jnp.concatenate([side, place * (jnp.array([height, width]) - side)])

  return _resize_crop(images, jax.vmap(draw)(keys))


@register(fraction=number(0.01, 1, "a fraction of the sides from 0.01 to 1"))
def center_crop(keys: jax.Array, images: jax.Array, *, fraction: float = 0.875) -> jax.Array:
  """Crop the central part of each image, and resize it to the image's size; `keys` is unused.

  fraction: the crop's share of height and width; 0.875 is the usual 224 of 256.
  """
  del keys
  size = jnp.array(images.shape[1:3], jnp.float32)
  crop = jnp.concatenate([fraction * size, (1 - fraction) / 2 * size])
  return _resize_crop(images, jnp.broadcast_to(crop, (len(images), 4)))


def _resize_crop(images: jax.Array, crops: jax.Array) -> jax.Array:
  """Return the crops [batch, (height, width, top, left)], in pixels, resized to the image size."""
  height, width = images.shape[1:3]
  crop_height, crop_width, top, left = crops.T
  scale_y, scale_x = crop_height / height, crop_width / width
  # The centre of the first output pixel is half an output pixel inside the crop.
  matrices = make_matrix(
    xx=scale_x, x=left + (scale_x - 1) / 2, yy=scale_y, y=top + (scale_y - 1) / 2
  )
  return warp(images, matrices, fill_mode="nearest")
