"""Affine augmentations: every image is sampled once, under a matrix of its own.

Matrices are homogeneous, [batch, 3, 3] float32, and act on columns (x, y, 1): x counts columns, y
counts rows, pixel centres are whole numbers. They map an output pixel to the place in the input
that it shows, so a matrix that doubles coordinates halves the picture (Keras and SciPy do so too).

The random_… functions are transforms of augment.py, which says what keys and images are. A range is
a pair (lower, upper); one number f stands for (-f, f), as in Keras.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def random_rotation(
  keys: jax.Array,
  images: jax.Array,
  *,
  factor: float | tuple[float, float],
  fill_mode: str = "reflect",
  fill_value: float = 0.0,
  interpolation: str = "bilinear",
) -> jax.Array:
  """Keras' RandomRotation: about the centre, by a fraction of a whole turn drawn from `factor`."""
  (turn,) = _uniform(keys, factor)
  matrices = about_centre(rotation_matrix(2 * math.pi * turn), *images.shape[1:3])
  return _warp_as_layer(images, matrices, fill_mode, fill_value, interpolation)


def random_zoom(
  keys: jax.Array,
  images: jax.Array,
  *,
  height_factor: float | tuple[float, float],
  width_factor: float | tuple[float, float] | None = None,
  fill_mode: str = "reflect",
  fill_value: float = 0.0,
  interpolation: str = "bilinear",
) -> jax.Array:
  """Keras' RandomZoom: 1 + factor times as much is shown, so that a negative factor zooms in.

  width_factor: None keeps the aspect ratio; otherwise the width is drawn for itself.
  """
  factors = (height_factor,) if width_factor is None else (height_factor, width_factor)
  scales = 1 + _uniform(keys, *factors)
  matrices = about_centre(matrix(xx=scales[-1], yy=scales[0]), *images.shape[1:3])
  return _warp_as_layer(images, matrices, fill_mode, fill_value, interpolation)


def random_translation(
  keys: jax.Array,
  images: jax.Array,
  *,
  height_factor: float | tuple[float, float],
  width_factor: float | tuple[float, float],
  fill_mode: str = "reflect",
  fill_value: float = 0.0,
  interpolation: str = "bilinear",
) -> jax.Array:
  """Keras' RandomTranslation: down and right by fractions of the height and of the width."""
  height, width = images.shape[1:3]
  down, right = _uniform(keys, height_factor, width_factor)
  matrices = matrix(x=-width * right, y=-height * down)
  return _warp_as_layer(images, matrices, fill_mode, fill_value, interpolation)


def random_shear(
  keys: jax.Array,
  images: jax.Array,
  *,
  x_factor: float | tuple[float, float] = 0.0,
  y_factor: float | tuple[float, float] = 0.0,
  fill_mode: str = "reflect",
  fill_value: float = 0.0,
  interpolation: str = "bilinear",
) -> jax.Array:
  """Keras' RandomShear: each row moves x_factor pixels past the last, each column y_factor.

  The first pixel stays where it is; one random sign, drawn per image, goes for both directions.
  """
  along_x, along_y, sign = _uniform(keys, x_factor, y_factor, 1.0)
  sign = jnp.where(sign < 0, -1, 1)
  matrices = matrix(xy=sign * along_x, yx=sign * along_y)
  return _warp_as_layer(images, matrices, fill_mode, fill_value, interpolation)


def random_affine(
  keys: jax.Array,
  images: jax.Array,
  *,
  rotation: float = 0.0,
  shift: tuple[float, float] = (0.0, 0.0),
  shear: float = 0.0,
  zoom: float | tuple[float, float] = 0.0,
  flip: bool = False,
  fill_mode: str = "nearest",
  fill_value: float = 0.0,
) -> jax.Array:
  """Keras' ImageDataGenerator: rotation, shift, shear, zoom and flip in one bilinear warp.

  rotation: rotation_range, degrees either way.
  shift: (height_shift_range, width_shift_range), fractions of the size either way.
  shear: shear_range, degrees either way (Keras until 2017 took it for radians).
  zoom: zoom_range, z for (1 - z, 1 + z) or a pair; drawn for height and width apart, and a factor
    above 1 shows more.
  flip: horizontal_flip. fill_mode, fill_value: fill_mode and cval, as SciPy's ndimage means them.

  On square images this is Keras' apply_transform for the same theta, tx (columns), ty (rows),
  shear, zx and zy. On others it does what Keras documents: Keras' code takes the centre's row for
  its column. Keras also draws the shift of columns from height_shift_range and that of rows from
  width_shift_range, which makes no difference to square images when both ranges are one.
  """
  height, width = images.shape[1:3]
  zooms = zoom if isinstance(zoom, Sequence) else (1 - zoom, 1 + zoom)
  angle, down, right, slant, zoom_x, zoom_y, side = _uniform(
    keys, math.radians(rotation), *shift, math.radians(shear), zooms, zooms, 1.0
  )
  matrices = compose(
    rotation_matrix(angle),
    matrix(x=width * right, y=height * down),
    matrix(xy=-jnp.sin(slant), yy=jnp.cos(slant)),
    matrix(xx=zoom_x, yy=zoom_y),
    matrix(xx=jnp.where(side < 0, -1, 1) if flip else 1),
  )
  matrices = about_centre(matrices, height, width)
  return warp(images, matrices, fill_mode=fill_mode, fill_value=fill_value)


def _uniform(keys: jax.Array, *ranges: float | Sequence[float]) -> jax.Array:
  """[number of ranges, batch]: one uniform draw per range and image."""
  bounds = [sorted(r) if isinstance(r, Sequence) else (-abs(r), abs(r)) for r in ranges]
  low, high = jnp.array(bounds, jnp.float32).T
  draw = jax.vmap(lambda key: jax.random.uniform(key, low.shape, minval=low, maxval=high))
  return draw(keys).T


def _warp_as_layer(images, matrices, fill_mode, fill_value, interpolation):
  # What Keras' layers call 'constant' and 'wrap' is SciPy's 'grid-constant' and 'grid-wrap'.
  if fill_mode in ("constant", "wrap"):
    fill_mode = f"grid-{fill_mode}"
  return warp(
    images, matrices, fill_mode=fill_mode, fill_value=fill_value, interpolation=interpolation
  )


def matrix(
  *,
  xx: jax.Array | float = 1.0,
  xy: jax.Array | float = 0.0,
  x: jax.Array | float = 0.0,
  yx: jax.Array | float = 0.0,
  yy: jax.Array | float = 1.0,
  y: jax.Array | float = 0.0,
) -> jax.Array:
  """Matrices [..., 3, 3] of x' = xx·x + xy·y + x and y' = yx·x + yy·y + y; the identity by default.

  Every coefficient is a scalar or an array; they broadcast against each other.
  """
  entries = jnp.broadcast_arrays(*map(jnp.float32, (xx, xy, x, yx, yy, y, 0, 0, 1)))
  return jnp.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)


def rotation_matrix(radians: jax.Array | float) -> jax.Array:
  """Matrices that turn the picture about the origin, counter-clockwise as it is looked at."""
  cos, sin = jnp.cos(radians), jnp.sin(radians)
  return matrix(xx=cos, xy=-sin, yx=sin, yy=cos)


def compose(*matrices: jax.Array) -> jax.Array:
  """The product of the matrices, left to right: an output pixel goes through the last one first."""
  product = matrices[0]
  for factor in matrices[1:]:
    # Accelerators would multiply in TF32 or bfloat16, which misplaces pixels by tenths.
    product = jnp.matmul(product, factor, precision=lax.Precision.HIGHEST)
  return product


def about_centre(matrices: jax.Array, height: int, width: int) -> jax.Array:
  """The same maps with the middle of a height × width image, not its first pixel, as origin."""
  x, y = (width - 1) / 2, (height - 1) / 2
  return compose(matrix(x=x, y=y), matrices, matrix(x=-x, y=-y))


def warp(
  images: jax.Array,
  matrices: jax.Array,
  *,
  fill_mode: str,
  fill_value: float = 0.0,
  interpolation: str = "bilinear",
) -> jax.Array:
  """Images [batch, height, width, channels] float seen through matrices [batch, 3, 3]; same shape.

  fill_mode says what lies beyond the border, by the names of scipy.ndimage:
    'nearest'        a a a | a b c d | d d d
    'reflect'        c b a | a b c d | d c b
    'grid-wrap'      b c d | a b c d | a b c
    'grid-constant'  k k k | a b c d | k k k, k being fill_value, blended with the border between
    'wrap'           like grid-wrap, but a and d are one place: the period is a pixel shorter
    'constant'       fill_value wherever a coordinate is outside [0, size - 1], never blended
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
    _neighbours(source_y, interpolation), _neighbours(source_x, interpolation)
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


def _neighbours(coordinate: jax.Array, interpolation: str) -> list[tuple[jax.Array, jax.Array]]:
  """The whole-numbered places that a coordinate draws on, each with its weight."""
  if interpolation == "nearest":
    return [(lax.round(coordinate).astype(jnp.int32), jnp.ones_like(coordinate))]
  lower = jnp.floor(coordinate)
  fraction = coordinate - lower
  index = lower.astype(jnp.int32)
  return [(index, 1 - fraction), (index + 1, fraction)]


def _wrap(coordinate: jax.Array, size: int) -> jax.Array:
  outside = (coordinate < 0) | (coordinate > size - 1)
  return jnp.where(outside, coordinate % max(size - 1, 1), coordinate)


def _fill_index(index: jax.Array, size: int, fill_mode: str) -> jax.Array:
  """Where inside [0, size) to read for any index; what the constant modes read is masked later."""
  if fill_mode == "reflect":
    index = index % (2 * size)
    return jnp.minimum(index, 2 * size - 1 - index)
  if fill_mode == "grid-wrap":
    return index % size
  return jnp.clip(index, 0, size - 1)
