"""Affine augmentations: rotation, zoom, shift, shear and flip by sampling every image once.

The functions are transforms as `transforms` describes them. A range is a pair (lower, upper); a
single number f means (-f, f), as in Keras. `fill_mode` says what lies beyond the border:
`random_affine` uses SciPy's names, which `geometry.warp` lists, and the others use those of Keras'
layers.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cifar_jax.augment.geometry import (
  compose,
  make_matrix,
  make_rotation,
  move_origin_to_centre,
  warp,
)
from cifar_jax.augment.registration import (
  Check,
  choice,
  is_number,
  is_pair,
  number,
  number_or_pair,
  optional,
  register,
)

_DEGREES = number(0, 360, "an angle in degrees from 0 to 360")
_FILL = {
  "fill_mode": choice("constant", "nearest", "reflect", "wrap"),
  "fill_value": number(-1e6, 1e6, "a number"),
}
_SAMPLING = _FILL | {"interpolation": choice("bilinear", "nearest")}
_ZOOM = number_or_pair(-0.99, 1)


@register(factor=number_or_pair(-1, 1), **_SAMPLING)
def random_rotation(
  keys: jax.Array,
  images: jax.Array,
  *,
  factor: float | tuple[float, float],
  fill_mode: str = "reflect",
  fill_value: float = 0.0,
  interpolation: str = "bilinear",
) -> jax.Array:
  """Rotate about the centre by a fraction of a turn drawn from `factor`: Keras' RandomRotation."""
  (turn,) = _draw_uniform(keys, factor)
  matrices = move_origin_to_centre(make_rotation(2 * math.pi * turn), *images.shape[1:3])
  return _warp_as_layer(images, matrices, fill_mode, fill_value, interpolation)


@register(height_factor=_ZOOM, width_factor=optional(_ZOOM), **_SAMPLING)
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
  """Show 1 + factor times as much of the image: Keras' RandomZoom. A negative factor zooms in.

  width_factor: None keeps the aspect ratio; a range draws the width's factor separately.
  """
  factors = (height_factor,) if width_factor is None else (height_factor, width_factor)
  scales = 1 + _draw_uniform(keys, *factors)
  matrices = move_origin_to_centre(make_matrix(xx=scales[-1], yy=scales[0]), *images.shape[1:3])
  return _warp_as_layer(images, matrices, fill_mode, fill_value, interpolation)


@register(height_factor=number_or_pair(-1, 1), width_factor=number_or_pair(-1, 1), **_SAMPLING)
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
  """Shift down and right by fractions of the height and width: Keras' RandomTranslation."""
  height, width = images.shape[1:3]
  down, right = _draw_uniform(keys, height_factor, width_factor)
  matrices = make_matrix(x=-width * right, y=-height * down)
  return _warp_as_layer(images, matrices, fill_mode, fill_value, interpolation)


@register(x_factor=number_or_pair(0, 1), y_factor=number_or_pair(0, 1), **_SAMPLING)
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
  """Shift row i by i * x_factor pixels, and column i by i * y_factor: Keras' RandomShear.

  The first pixel does not move. One random sign per image applies to both directions.
  """
  along_x, along_y, sign = _draw_uniform(keys, x_factor, y_factor, 1.0)
  sign = jnp.where(sign < 0, -1, 1)
  matrices = make_matrix(xy=sign * along_x, yx=sign * along_y)
  return _warp_as_layer(images, matrices, fill_mode, fill_value, interpolation)


@register(
  rotation=_DEGREES,
  shift=Check(lambda value: is_pair(value, 0, 1), "a pair (height, width) within [0, 1]"),
  shear=_DEGREES,
  zoom=Check(
    lambda value: is_number(value, 0, 0.99) or is_pair(value, 0.01, 100),
    "z within [0, 0.99], or a pair (lower, upper) within [0.01, 100]",
  ),
  flip=choice(True, False),
  **_FILL,
)
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
  """Rotate, shift, shear, zoom and flip in one bilinear warp: Keras' ImageDataGenerator.

  On square images the result is that of Keras' apply_transform for the same theta, tx (columns), ty
  (rows), shear, zx and zy. On other images the result is what Keras documents; Keras' code mistakes
  the centre's row for its column. Keras also draws the shift of columns from height_shift_range and
  the shift of rows from width_shift_range; for square images and equal ranges this changes nothing.

  Args:
    rotation: rotation_range, degrees in either direction.
    shift: (height_shift_range, width_shift_range), fractions of the size in either direction.
    shear: shear_range, degrees in either direction (Keras read it as radians until 2017).
    zoom: zoom_range, a pair, or z for (1 - z, 1 + z); height and width are drawn separately, and a
      factor above 1 shows more.
    flip: horizontal_flip.
    fill_mode, fill_value: fill_mode and cval, as scipy.ndimage defines them.
  """
  height, width = images.shape[1:3]
  zooms = zoom if isinstance(zoom, Sequence) else (1 - zoom, 1 + zoom)
  angle, down, right, slant, zoom_x, zoom_y, side = _draw_uniform(
    keys, math.radians(rotation), *shift, math.radians(shear), zooms, zooms, 1.0
  )
  matrices = compose(
    make_rotation(angle),
    make_matrix(x=width * right, y=height * down),
    make_matrix(xy=-jnp.sin(slant), yy=jnp.cos(slant)),
    make_matrix(xx=zoom_x, yy=zoom_y),
    make_matrix(xx=jnp.where(side < 0, -1, 1) if flip else 1),
  )
  matrices = move_origin_to_centre(matrices, height, width)
  return warp(images, matrices, fill_mode=fill_mode, fill_value=fill_value)


def _draw_uniform(keys: jax.Array, *ranges: float | Sequence[float]) -> jax.Array:
  """Return [number of ranges, batch]: one uniform draw per range and image."""
  bounds = [sorted(r) if isinstance(r, Sequence) else (-abs(r), abs(r)) for r in ranges]
  low, high = jnp.array(bounds, jnp.float32).T
  draw = jax.vmap(lambda key: jax.random.uniform(key, low.shape, minval=low, maxval=high))
  return draw(keys).T


def _warp_as_layer(
  images: jax.Array,
  matrices: jax.Array,
  fill_mode: str,
  fill_value: float,
  interpolation: str,
) -> jax.Array:
  # Keras' layers call 'constant' and 'wrap' what SciPy calls 'grid-constant' and 'grid-wrap'.
  if fill_mode in ("constant", "wrap"):
    fill_mode = f"grid-{fill_mode}"
  return warp(
    images, matrices, fill_mode=fill_mode, fill_value=fill_value, interpolation=interpolation
  )
