"""`config.eval_transform`: the transform of images before a network evaluates them.

The field is a chain like `config.augment`, for networks that were not evaluated on unchanged
images: 'pad_and_resize(padding=4)' is what Keras 2.6's RandomCrop does at inference. Random
transforms are possible too, as in a generator that also augments validation photos. An image's
draws then depend on its pixels alone, so the transformed image is the same in every evaluation, on
any device, and in an exported network.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax import errors
from cifar_jax.augment import chain
from cifar_jax.augment.registration import TRANSFORMS
from cifar_jax.types import Array

# transform(pixels, images) -> images. The pixels, [n, height, width, channels] from 0 to 255,
# decide the draws. The images, of the same shape but float32 and normalised, are transformed.
EvalTransform: TypeAlias = Callable[[Array, jax.Array], jax.Array]


def parse(spec: str) -> EvalTransform:
  """Return the transform that `config.eval_transform` describes; '' leaves the images unchanged.

  Raises:
    UserError: the spec is not a chain, or a transform needs labels, an epoch or a batch.
  """
  try:
    parsed = chain.parse(spec)
  except errors.UserError as error:
    raise errors.UserError(f"eval_transform{str(error).removeprefix('augment')}") from None
  for call in parsed.calls:
    kind = TRANSFORMS[call.name]
    if kind.mixes or kind.by_epoch or kind.by_batch:
      raise errors.UserError(
        f"eval_transform: {call.name} needs the labels, the epoch or the batch; use transforms of "
        "single images"
      )

  def transform(pixels: Array, images: jax.Array) -> jax.Array:
    if not parsed.calls:
      return images
    keys = _keys_of(jnp.asarray(pixels))
    labels = jnp.zeros(images.shape[0])  # unused; an exported batch has no len()
    return parsed(keys, keys[0], images, labels, example_keys=keys, epoch=0)[0]

  return transform


def _keys_of(pixels: jax.Array) -> jax.Array:
  """Return a key for each image [n, height, width, channels] that depends on its pixels alone."""
  values = jnp.clip(pixels, 0, 255).astype(jnp.uint32).reshape(pixels.shape[0], -1)
  factors = np.random.RandomState(0).randint(0, 2**32, values.shape[1:], dtype=np.uint32)
  sums = jnp.sum(values * factors, axis=1, dtype=jnp.uint32)  # exact modulo 2 ** 32, in any order
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), sums)
