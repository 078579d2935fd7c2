"""Image augmentations: batched, jit-able, pure functions of (keys, images), chained by a spec.

A chain is written in a config as one string, which `parse` reads:

  augment = 'random_crop(padding=4) | random_flip() | cutout(size=8) | mixup(alpha=0.2)'

Images are float32 [batch, height, width, channels], already normalised by `normalize`. The zero
that crops pad with and cutout fills with is therefore the data set's mean colour when images are
standardised (as in He et al. 2016 and DeVries & Taylor 2017), black when they are only scaled to
[0, 1]. `keys` holds one typed PRNG key (threefry, JAX's default) per image: what happens to an
image depends on its key alone, not on the batch or the device it sits in.

To add an augmentation, write one function below: `@_register(argument=check, ...)` over
`name(keys, images, *, argument=default) -> images`; with `by_epoch=True` over
`name(example_keys, epoch, images, *, argument=default) -> images`, where the key of an image is the
same in every epoch; or with `mixes=True` over
`name(key, images, labels, *, argument, axis_name=None) -> (images, labels)`.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.augment import affine


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
  """uint8 images [..., channels] to float32: (images / 255 - mean) / std.

  mean, std: one number per channel in [0, 1] units; 0 and 1 scale to [0, 1] and no more.
  """
  return (images.astype(jnp.float32) / 255 - jnp.float32(mean)) / jnp.float32(std)


# What an argument may be, checked when a spec is parsed.


class Check(NamedTuple):
  accepts: Callable[[Any], bool]
  wording: str


def _in(value: Any, low: float, high: float) -> bool:
  return type(value) in (int, float) and low <= value <= high


def _pair_in(value: Any, low: float, high: float) -> bool:
  return (
    isinstance(value, tuple | list) and len(value) == 2 and all(_in(v, low, high) for v in value)
  )


def _whole(low: int) -> Check:
  return Check(lambda value: type(value) is int and value >= low, f"a whole number from {low}")


def _number(low: float, high: float, wording: str) -> Check:
  return Check(lambda value: _in(value, low, high), wording)


def _range(low: float, high: float) -> Check:
  return Check(
    lambda value: _in(value, low, high) or _pair_in(value, low, high),
    f"a number or a pair (lower, upper) within [{low}, {high}]",
  )


def _choice(*choices: str | bool) -> Check:
  return Check(lambda value: value in choices, " or ".join(map(repr, choices)))


class Transform(NamedTuple):
  function: Callable
  checks: dict[str, Check]
  mixes: bool
  by_epoch: bool

  def parameters(self) -> dict[str, inspect.Parameter]:
    """The arguments that a spec may give, in the order in which it may give them."""
    parameters = inspect.signature(self.function).parameters
    return {name: parameters[name] for name in parameters if name in self.checks}


TRANSFORMS: dict[str, Transform] = {}


def _register(
  mixes: bool = False, by_epoch: bool = False, **checks: Check
) -> Callable[[Callable], Callable]:
  def register(function: Callable) -> Callable:
    TRANSFORMS[function.__name__] = Transform(function, checks, mixes, by_epoch)
    return function

  return register


# Flips, crops and holes.


@_register()
def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors left and right with probability 1/2."""
  flip = jax.vmap(jax.random.bernoulli)(keys)
  return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


@_register(by_epoch=True)
def alternating_flip(example_keys: jax.Array, epoch: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors left and right in every other epoch: a half of the examples in even ones, by a draw.

  So two epochs on end show both sides of every image (Jordan 2024, arXiv:2404.00498).

  example_keys: [batch], of the examples; epoch: [] int32, from 0.
  """
  first = jax.vmap(jax.random.bernoulli)(example_keys)
  flip = first ^ (epoch % 2 == 1)
  return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


@_register(padding=_whole(0), mode=_choice("constant", "reflect"))
def random_crop(
  keys: jax.Array, images: jax.Array, *, padding: int = 4, mode: str = "constant"
) -> jax.Array:
  """Pads every side by `padding` pixels and cuts the original size out at a uniformly drawn place.

  mode: 'constant' pads with zeros (He et al. 2016, section 4.2); 'reflect' mirrors about the border
  pixel, which is not repeated (numpy.pad's 'reflect': c b | a b c d | c b).
  """
  offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(keys)
  padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)
  return jax.vmap(lambda image, offset: lax.dynamic_slice(image, (*offset, 0), images.shape[1:]))(
    padded, offsets
  )


@_register(size=_whole(1), inside=_choice(True, False))
def cutout(keys: jax.Array, images: jax.Array, *, size: int = 8, inside: bool = False) -> jax.Array:
  """Sets a square to zero (DeVries & Taylor 2017).

  size: the square's side in pixels (the paper: 16 for CIFAR-10, 8 for CIFAR-100). Its centre is any
  pixel, so that the border may cut it down to a quarter of size × size; or with
  inside: only such that the border does not.
  """
  height, width = images.shape[1:3]
  low, high = jnp.zeros(2, jnp.int32), jnp.array([height, width])
  if inside:
    low, high = low + size // 2, jnp.maximum(high - size, 0) + size // 2 + 1
  centres = jax.vmap(lambda key: jax.random.randint(key, (2,), low, high))(keys)
  hole = jax.vmap(lambda centre: _box(centre, (size, size), (height, width)))(centres)
  return jnp.where(hole[..., None], 0, images)


def _box(centre: jax.Array, sides: Sequence, shape: tuple[int, int]) -> jax.Array:
  """bool [height, width]: true in a box of sides (rows, columns), clipped at the border."""
  first = [middle - side // 2 for middle, side in zip(centre, sides, strict=True)]
  row, column = jnp.arange(shape[0])[:, None], jnp.arange(shape[1])
  rows = (row >= first[0]) & (row < first[0] + sides[0])
  return rows & (column >= first[1]) & (column < first[1] + sides[1])


# Affine warps.

_ALPHA = _number(1e-6, 1e6, "a number above 0")
_DEGREES = _number(0, 360, "an angle in degrees from 0 to 360")
_FILL = {
  "fill_mode": _choice("constant", "nearest", "reflect", "wrap"),
  "fill_value": _number(-1e6, 1e6, "a number"),
}
_SAMPLING = _FILL | {"interpolation": _choice("bilinear", "nearest")}
_ZOOM = _range(-0.99, 1)

_register(factor=_range(-1, 1), **_SAMPLING)(affine.random_rotation)
_register(
  height_factor=_ZOOM,
  width_factor=Check(
    lambda value: value is None or _ZOOM.accepts(value), f"None or {_ZOOM.wording}"
  ),
  **_SAMPLING,
)(affine.random_zoom)
_register(height_factor=_range(-1, 1), width_factor=_range(-1, 1), **_SAMPLING)(
  affine.random_translation
)
_register(x_factor=_range(0, 1), y_factor=_range(0, 1), **_SAMPLING)(affine.random_shear)
_register(
  rotation=_DEGREES,
  shift=Check(lambda value: _pair_in(value, 0, 1), "a pair (height, width) within [0, 1]"),
  shear=_DEGREES,
  zoom=Check(
    lambda value: _in(value, 0, 0.99) or _pair_in(value, 0.01, 100),
    "z within [0, 0.99], or a pair (lower, upper) within [0.01, 100]",
  ),
  flip=_choice(True, False),
  **_FILL,
)(affine.random_affine)


# Mixing images with each other.


def _partners(
  key: jax.Array, images: jax.Array, labels: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
  """The images and labels that this device's rows meet: the global batch, permuted."""
  rows = jnp.arange(len(images))
  if axis_name is not None:
    rows += lax.axis_index(axis_name) * len(images)
    images, labels = lax.all_gather((images, labels), axis_name, tiled=True)
  partners = jax.random.permutation(key, len(images))[rows]
  return jnp.take(images, partners, axis=0), jnp.take(labels, partners, axis=0)


@_register(mixes=True, alpha=_ALPHA)
def mixup(
  key: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  *,
  alpha: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Blends images and labels with a partner's by one λ ~ Beta(alpha, alpha) (Zhang et al. 2018).

  key: one for the global batch, the same on every device. labels: one-hot or soft, float32 [batch,
  classes]. axis_name: the pmap axis that the global batch is spread over, None outside pmap.
  """
  lambda_key, partner_key = jax.random.split(key)
  lam = jax.random.beta(lambda_key, alpha, alpha)
  other_images, other_labels = _partners(partner_key, images, labels, axis_name)
  return lam * images + (1 - lam) * other_images, lam * labels + (1 - lam) * other_labels


@_register(mixes=True, alpha=_ALPHA)
def cutmix(
  key: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  *,
  alpha: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Pastes a box of a partner into every image and mixes labels by area (Yun et al. 2019).

  The box covers 1 - λ of the image, λ ~ Beta(alpha, alpha), until the border clips it; labels go by
  the pixels that are left. Box and λ are the whole batch's; arguments as for mixup.
  """
  lambda_key, centre_key, partner_key = jax.random.split(key, 3)
  height, width = images.shape[1:3]
  side = jnp.sqrt(1 - jax.random.beta(lambda_key, alpha, alpha))
  sides = [(side * length).astype(jnp.int32) for length in (height, width)]
  centre = jax.random.randint(centre_key, (2,), 0, jnp.array([height, width]))
  box = _box(centre, sides, (height, width))
  lam = 1 - jnp.mean(box, dtype=jnp.float32)
  other_images, other_labels = _partners(partner_key, images, labels, axis_name)
  return (
    jnp.where(box[..., None], other_images, images),
    lam * labels + (1 - lam) * other_labels,
  )
