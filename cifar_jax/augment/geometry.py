"""Affine maps as matrices, and sampling of images under such maps.

Matrices are homogeneous, [batch, 3, 3] float32, and act on columns (x, y, 1): x counts columns, y
counts rows, and pixel centres are whole numbers. A matrix maps an output pixel to the place in the
input that the pixel shows, so a matrix that doubles coordinates halves the picture, as in Keras and
SciPy.
"""

import itertools

import jax
import jax.numpy as jnp
from jax import lax


def make_matrix(
  *,
  xx: jax.Array | float = 1.0,
  xy: jax.Array | float = 0.0,
  x: jax.Array | float = 0.0,
  yx: jax.Array | float = 0.0,
  yy: jax.Array | float = 1.0,
  y: jax.Array | float = 0.0,
) -> jax.Array:
  """Return the matrices [..., 3, 3] of x' = xx·x + xy·y + x and y' = yx·x + yy·y + y.

  The default is the identity. Coefficients are scalars or arrays, and broadcast against each other.
  """
  entries = jnp.broadcast_arrays(*map(jnp.float32, (xx, xy, x, yx, yy, y, 0, 0, 1)))
  return jnp.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)


def make_rotation(radians: jax.Array | float) -> jax.Array:
  """Return the matrices that turn the displayed picture counter-clockwise about the origin."""
  cos, sin = jnp.cos(radians), jnp.sin(radians)
  return make_matrix(xx=cos, xy=-sin, yx=sin, yy=cos)


def compose(*matrices: jax.Array) -> jax.Array:
  """Return the product of the matrices, left to right: the last one maps an output pixel first."""
  product = matrices[0]
  for factor in matrices[1:]:
    # Accelerators would multiply in TF32 or bfloat16, which shifts samples by tenths of a pixel.
    product = jnp.matmul(product, factor, precision=lax.Precision.HIGHEST)
  return product


def move_origin_to_centre(matrices: jax.Array, height: int, width: int) -> jax.Array:
  """Return the maps with the centre of a height × width image as origin, not the first pixel."""
  x, y = (width - 1) / 2, (height - 1) / 2
  return compose(make_matrix(x=x, y=y), matrices, make_matrix(x=-x, y=-y))


def warp(
  images: jax.Array,
  matrices: jax.Array,
  *,
  fill_mode: str,
  fill_value: float = 0.0,
  interpolation: str = "bilinear",
) -> jax.Array:
  """Return images, float [batch, height, width, channels], sampled under matrices [batch, 3, 3].

  `fill_mode` says what lies beyond the border, with the names of scipy.ndimage:

    'nearest'        a a a | a b c d | d d d
    'reflect'        c b a | a b c d | d c b
    'grid-wrap'      b c d | a b c d | a b c
    'grid-constant'  k k k | a b c d | k k k, where k is fill_value; samples between a border pixel
                     and the fill are blended
    'wrap'           like grid-wrap, but a and d coincide: the period is a pixel shorter
    'constant'       fill_value wherever a coordinate is outside [0, size - 1], never blended

  Args:
    fill_mode: one of the above.
    fill_value: used by the constant modes.
    interpolation: 'bilinear' (order 1), or 'nearest' (order 0, halves rounded away from zero).
  """
  batch, height, width, channels = images.shape
  column = jnp.arange(width, dtype=jnp.float32)
  row = jnp.arange(height, dtype=jnp.float32)[:, None]
  m = matrices[:, :, :, None, None]
  source_x = m[:, 0, 0] * column + m[:, 0, 1] * row + m[:, 0, 2]
  source_y = m[:, 1, 0] * column + m[:, 1, 1] * row + m[:, 1, 2]
  inside = (source_x >= 0) & (source_x <= width - 1) & (source_y >= 0) & (source_y <= height - 1)
  if fill_mode == "wrap":
    source_x, source_y = _wrap(source_x, width), _wrap(source_y, height)

  pixels = images.reshape(batch, height * width, channels)
  result = jnp.zeros_like(images)
  for (y, weight_y), (x, weight_x) in itertools.product(
    _weigh_neighbours(source_y, interpolation), _weigh_neighbours(source_x, interpolation)
  ):
    index = _fill_index(y, height, fill_mode) * width + _fill_index(x, width, fill_mode)
    values = jnp.take_along_axis(
      pixels, index.reshape(batch, -1, 1), axis=1, mode="promise_in_bounds"
    ).reshape(images.shape)
    if fill_mode == "grid-constant":
      exists = (x >= 0) & (x < width) & (y >= 0) & (y < height)
      values = jnp.where(exists[..., None], values, fill_value)
    result += (weight_y * weight_x)[..., None] * values
  if fill_mode == "constant":
    result = jnp.where(inside[..., None], result, fill_value)
  return result


def _weigh_neighbours(
  coordinate: jax.Array, interpolation: str
) -> list[tuple[jax.Array, jax.Array]]:
  """Return the indices of the pixels that a coordinate is interpolated from, with their weights."""
  if interpolation == "nearest":
    return [(lax.round(coordinate).astype(jnp.int32), jnp.ones_like(coordinate))]
  lower = jnp.floor(coordinate)
  fraction = coordinate - lower
  index = lower.astype(jnp.int32)
  return [(index, 1 - fraction), (index + 1, fraction)]


def _wrap(coordinate: jax.Array, size: int) -> jax.Array:
  """Map a coordinate into [0, size - 1], as the mode 'wrap' repeats the image."""
  outside = (coordinate < 0) | (coordinate > size - 1)
  return jnp.where(outside, coordinate % max(size - 1, 1), coordinate)


def _fill_index(index: jax.Array, size: int, fill_mode: str) -> jax.Array:
  """Return the pixel in [0, size) to read for any index; in the constant modes, `warp` masks it."""
  if fill_mode == "reflect":
    index = index % (2 * size)
    return jnp.minimum(index, 2 * size - 1 - index)
  if fill_mode == "grid-wrap":
    return index % size
  return jnp.clip(index, 0, size - 1)
