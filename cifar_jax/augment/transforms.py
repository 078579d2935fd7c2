"""Image augmentations: batched, jit-able, pure functions of (keys, images).

Images are float32 [batch, height, width, channels], already normalised by `normalize`. Crops pad
with zero and cutout fills with zero. Zero is the dataset's mean colour when images are
standardised, and black when they are only scaled to [0, 1]. DeVries & Taylor 2017 fill holes with
the mean colour too, but pad crops with black, like most PyTorch code, which crops before it
normalises.

`keys` holds one typed PRNG key (threefry, JAX's default) per image. An image's key alone decides
what happens to it; its batch and its device have no influence.

To add an augmentation, write a function here with `@register(argument=check, ...)` and the
signature `name(keys, images, *, argument=default) -> images`. Three other kinds exist:

- `@register_by_epoch(...)` on `name(example_keys, epoch, images, *, argument=default) -> images`,
  where an example's key is the same in every epoch;
- `@register_by_batch(...)` on `name(key, images, *, argument=default) -> images`, where the key
  belongs to the global batch and is the same on every device;
- `@register_mixing(...)` on
  `name(key, images, labels, *, argument, axis_name=None) -> (images, labels)`.

`chain` applies them in the order that a config gives. Rotation, zoom, shift and shear are in
`affine`.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cifar_jax.augment.registration import (
  choice,
  number,
  register,
  register_by_batch,
  register_by_epoch,
  register_mixing,
  whole_number,
)


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
  """Return uint8 images [..., channels] as float32: (images / 255 - mean) / std.

  mean, std: one number per channel in [0, 1] units; 0 and 1 only scale the images to [0, 1]. A
    channel whose std is 0 is constant and becomes 0.
  """
  scale = np.where(np.equal(std, 0), 1.0, std)
  return (images.astype(jnp.float32) / 255 - jnp.float32(mean)) / jnp.float32(scale)


# Flips, crops and holes.

_MOST_PIXELS = 10_000  # far more than an image has; sums of larger numbers may not fit into int32
_PADDING = whole_number(0, _MOST_PIXELS)


@register()
def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Mirror each image left to right with probability 1/2."""
  return _mirror(jax.vmap(jax.random.bernoulli)(keys), images)


@register_by_epoch()
def alternating_flip(
  example_keys: jax.Array, epoch: jax.Array | int, images: jax.Array
) -> jax.Array:
  """Mirror each image left to right in every other epoch (Jordan 2024, arXiv:2404.00498).

  A draw decides for each example whether these are the even or the odd epochs. Two consecutive
  epochs therefore show every image in both orientations.

  example_keys: [batch], the keys of the examples. epoch: int32 of shape [], from 0.
  """
  in_even_epochs = jax.vmap(jax.random.bernoulli)(example_keys)
  return _mirror(in_even_epochs ^ (epoch % 2 == 1), images)


def _mirror(chosen: jax.Array, images: jax.Array) -> jax.Array:
  """Return the images, mirrored left to right where `chosen` (bool [batch]) is true."""
  return jnp.where(chosen[:, None, None, None], images[:, :, ::-1], images)


@register(padding=_PADDING, mode=choice("constant", "reflect"))
def random_crop(
  keys: jax.Array, images: jax.Array, *, padding: int = 4, mode: str = "constant"
) -> jax.Array:
  """Pad every side by `padding` pixels and crop to the original size at a uniformly drawn place.

  mode: 'constant' pads with zeros (He et al. 2016, section 4.2). 'reflect' mirrors at the border
  pixel without repeating it (numpy.pad's 'reflect': c b | a b c d | c b).
  """
  offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(keys)
  padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)
  return jax.vmap(lambda image, offset: lax.dynamic_slice(image, (*offset, 0), images.shape[1:]))(
    padded, offsets
  )


@register_by_batch(padding=_PADDING)
def batch_crop(key: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
  """Crop like `random_crop`, but all images of a batch at the same place.

  This is ZeroPadding2D(padding) and RandomCrop in Keras 2.6 (TensorFlow 2.6) during training.
  """
  offset = jax.random.randint(key, (2,), 0, 2 * padding + 1)
  padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  return lax.dynamic_slice(padded, (0, *offset, 0), images.shape)


@register(padding=_PADDING)
def pad_and_resize(keys: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
  """Pad every side by `padding` zeros and shrink the result to the original size. Draws nothing.

  This is ZeroPadding2D(padding) and RandomCrop in Keras 2.6 (TensorFlow 2.6) at inference, for
  square images: a bilinear `tf.image.resize` with half-pixel centres and no antialiasing.
  """
  del keys
  padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  return jax.image.resize(padded, images.shape, "linear", antialias=False)


@register(size=whole_number(1, _MOST_PIXELS), inside=choice(True, False))
def cutout(keys: jax.Array, images: jax.Array, *, size: int = 8, inside: bool = False) -> jax.Array:
  """Set a square of each image to zero (DeVries & Taylor 2017).

  size: the square's side in pixels (in the paper 16 for CIFAR-10 and 8 for CIFAR-100).
  inside: draw the centre only where the whole square fits. Otherwise the centre is any pixel, and
    the border may clip the square to a quarter of its area.
  """
  height, width = images.shape[1:3]
  low, high = jnp.zeros(2, jnp.int32), jnp.array([height, width])
  if inside:
    low, high = low + size // 2, jnp.maximum(high - size, 0) + size // 2 + 1
  centres = jax.vmap(lambda key: jax.random.randint(key, (2,), low, high))(keys)
  hole = jax.vmap(lambda centre: _make_box(centre, (size, size), (height, width)))(centres)
  return jnp.where(hole[..., None], 0, images)


def _make_box(
  centre: jax.Array, sides: Sequence[jax.Array | int], shape: tuple[int, int]
) -> jax.Array:
  """Return bool [height, width], true in a box of `sides` (rows, columns) clipped to the image."""
  top, left = (middle - side // 2 for middle, side in zip(centre, sides, strict=True))
  row, column = jnp.arange(shape[0])[:, None], jnp.arange(shape[1])
  in_rows = (row >= top) & (row < top + sides[0])
  return in_rows & (column >= left) & (column < left + sides[1])


# Mixing images with each other.

Examples: TypeAlias = tuple[jax.Array, jax.Array]  # images and labels

_ALPHA = number(1e-6, 1e6, "a number above 0")


@register_mixing(alpha=_ALPHA)
def mixup(
  key: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  *,
  alpha: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Blend each image and label with a partner's by one λ ~ Beta(alpha, alpha) (Zhang et al. 2018).

  Args:
    key: one key for the global batch, the same on every device.
    images: this device's images.
    labels: one-hot or soft, float32 [batch, classes].
    alpha: > 0.
    axis_name: the pmap axis that the global batch is spread over; None outside pmap.
  """
  lambda_key, partner_key = jax.random.split(key)
  lam = jax.random.beta(lambda_key, alpha, alpha)
  partner_images, partner_labels = _choose_partners(partner_key, images, labels, axis_name)
  return lam * images + (1 - lam) * partner_images, lam * labels + (1 - lam) * partner_labels


@register_mixing(alpha=_ALPHA)
def cutmix(
  key: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  *,
  alpha: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Paste a box of a partner into every image and mix labels by area (Yun et al. 2019).

  The box covers 1 - λ of the image, λ ~ Beta(alpha, alpha), less what the border clips. The labels'
  weights are their shares of the pixels. The whole batch shares one box. The arguments are those of
  `mixup`.
  """
  lambda_key, centre_key, partner_key = jax.random.split(key, 3)
  height, width = images.shape[1:3]
  side = jnp.sqrt(1 - jax.random.beta(lambda_key, alpha, alpha))
  sides = [(side * length).astype(jnp.int32) for length in (height, width)]
  centre = jax.random.randint(centre_key, (2,), 0, jnp.array([height, width]))
  box = _make_box(centre, sides, (height, width))
  lam = 1 - jnp.mean(box, dtype=jnp.float32)
  partner_images, partner_labels = _choose_partners(partner_key, images, labels, axis_name)
  return (
    jnp.where(box[..., None], partner_images, images),
    lam * labels + (1 - lam) * partner_labels,
  )


def _choose_partners(
  key: jax.Array, images: jax.Array, labels: jax.Array, axis_name: str | None
) -> Examples:
  """Return a partner for each of this device's examples, from a permutation of the global batch."""
  size = len(images)
  if axis_name is None:
    partners = jax.random.permutation(key, size)
    return jnp.take(images, partners, axis=0), jnp.take(labels, partners, axis=0)
  row_numbers = lax.axis_index(axis_name) * size + jnp.arange(size)
  partners = jax.random.permutation(key, size * lax.axis_size(axis_name))[row_numbers]
  return _take_from_devices((images, labels), partners, axis_name)


def _take_from_devices(examples: Examples, row_numbers: jax.Array, axis_name: str) -> Examples:
  """Return the examples in these rows of the global batch, as many as each device holds.

  The devices pass their examples round in a ring: one device may lack memory for the global batch.
  """
  size, num_devices = len(row_numbers), lax.axis_size(axis_name)
  device = lax.axis_index(axis_name)
  ring = [(i, (i - 1) % num_devices) for i in range(num_devices)]

  def take_visiting(
    distance: jax.Array, carry: tuple[Examples, Examples]
  ) -> tuple[Examples, Examples]:
    """Take the requested examples among the visiting ones, which belong to device + distance."""
    taken, visiting = carry
    first_row = (device + distance) % num_devices * size
    offsets = row_numbers - first_row
    is_visiting = (offsets >= 0) & (offsets < size)

    def update(before: jax.Array, visitors: jax.Array) -> jax.Array:
      mask = jnp.expand_dims(is_visiting, range(1, before.ndim))
      return jnp.where(mask, jnp.take(visitors, offsets.clip(0, size - 1), axis=0), before)

    taken = jax.tree.map(update, taken, visiting)
    return taken, lax.ppermute(visiting, axis_name, ring)

  # The first `examples` only give the shapes: every row is replaced.
  taken, _ = lax.fori_loop(0, num_devices, take_visiting, (examples, examples))
  return taken
