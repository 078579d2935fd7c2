"""Layers that several model families share."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.errors import UserError
from models.convolution import Conv

# He et al. 2015 in its fan-out form, N(0, 2 / (kernel area × output channels)): what the reference
# ResNets in Torch draw every convolution from.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(features: int, size: int, stride: int = 1, *, dtype: jnp.dtype, name: str) -> nn.Conv:
  """A convolution as the ResNets have it: odd `size`, no bias, He fan-out normal weights.

  The padding is size // 2 on every side. 'SAME' would differ at stride 2, where it pads only the
  right and bottom edge and so shifts the image by half a pixel against the papers' networks.
  """
  return Conv(
    features,
    (size, size),
    (stride, stride),
    padding=size // 2,
    use_bias=False,
    kernel_init=he_fan_out,
    dtype=dtype,
    name=name,
  )


def pooled_logits(x: jax.Array, num_classes: int) -> jax.Array:
  """The ResNets' last layer: global average, then a dense layer named 'head', both in float32.

  The kernel is drawn from U(±1/√inputs), PyTorch's default for a linear layer; the bias is 0.

  Args:
    x: [batch, height, width, channels].

  Returns:
    [batch, num_classes] float32. Called inside a compact module, which then owns the parameters.
  """
  kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
  x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
  return nn.Dense(num_classes, kernel_init=kernel_init, dtype=jnp.float32, name="head")(x)


def batch_norm(
  train: bool,
  dtype: jnp.dtype,
  axis_name: str | None,
  momentum: float = 0.99,
  epsilon: float = 1e-3,
) -> Callable[..., nn.BatchNorm]:
  """Batch norm, with Keras' defaults; call it with a `name`.

  Args:
    train: normalise with the batch's statistics and move the stored ones, else use those.
    axis_name: the axis whose devices share their statistics, None for each its own.
  """
  return functools.partial(
    nn.BatchNorm,
    use_running_average=not train,
    momentum=momentum,
    epsilon=epsilon,
    dtype=dtype,
    axis_name=axis_name,
  )


def dense_logits(
  x: jax.Array, num_classes: int, kernel_init: Callable, single_logit: bool = False
) -> jax.Array:
  """The last layer of Keras' networks, a dense layer named 'head', in float32.

  With `single_logit` it has one unit, as a network for two classes with a sigmoid output has: a
  sigmoid of z is the softmax of (0, z), and so is the cross-entropy, so these are the logits.

  Args:
    x: [batch, features].

  Returns:
    [batch, num_classes] float32. Called inside a compact module, which then owns the parameters.

  Raises:
    UserError: `single_logit` with other than two classes.
  """
  if single_logit and num_classes != 2:
    raise UserError(
      f"model.single_logit: one logit tells two classes apart, the data has {num_classes}; "
      "leave it False"
    )
  units = 1 if single_logit else num_classes
  z = nn.Dense(units, kernel_init=kernel_init, dtype=jnp.float32, name="head")(x)
  return jnp.concatenate([jnp.zeros_like(z), z], axis=-1) if single_logit else z


def max_pool(x: jax.Array, window: int = 2) -> jax.Array:
  """Maximum over windows that do not overlap: Keras' MaxPooling2D(window), padding 'valid'.

  Value and gradient are those of `nn.max_pool(x, (window,) * 2, (window,) * 2)`, also among equal
  values, where the first in row order takes the whole gradient (after a ReLU in bfloat16 equal
  values are common). Only the way differs: `nn.max_pool`'s gradient is a select-and-scatter,
  which took 53 ms on two CPU cores for 128×32×32×32 floats against 1 ms here (`jnp.max` over the
  reshaped windows: 7 ms, and it splits the gradient among equal values). NaN stays NaN.

  Args:
    x: [batch, height, width, channels]; rows and columns that fill no window are left out.

  Returns:
    [batch, height // window, width // window, channels].
  """
  batch, height, width, channels = x.shape
  rows, columns = height // window, width // window
  x = x[:, : rows * window, : columns * window]
  x = x.reshape(batch, rows, window, columns, window, channels)
  places = [x[:, :, i, :, j] for i in range(window) for j in range(window)]
  return functools.reduce(lambda a, b: jnp.where((b > a) | jnp.isnan(b), b, a), places)


def check_halvings(images: jax.Array, halvings: int, field: str, remedy: str) -> None:
  """Raises UserError for `field` if images [batch, height, width, …] cannot be halved so often."""
  height, width = images.shape[1:3]
  if min(height, width) < 2**halvings:
    raise UserError(
      f"{field}: {halvings} stages halve an image of {height}x{width} pixels to nothing; {remedy}"
    )


def check_rate(argument: str, rate: float) -> None:
  """Raises UserError unless `rate` can be a dropout rate; `argument` is its name in the config."""
  if not 0 <= rate < 1:
    raise UserError(f"model.{argument}: {rate} is no dropout rate; give a number in [0, 1)")


class Dropout(nn.Module):
  """`nn.Dropout` whose mask does not depend on how many devices share the batch.

  Each example draws its mask from a key of its own, folded from the module's 'dropout' key with
  the example's row in the global batch. All devices must be given the same 'dropout' key, of
  JAX's default (threefry) kind, whose bits are the same under vmap. At initialisation it does
  nothing, so that `init` needs neither the axis nor a 'dropout' key.

  Attributes:
    rate: the probability that a value becomes 0, in [0, 1); the others grow by 1 / (1 - rate).
    broadcast_dims: axes along which one draw is shared, counted with the batch as axis 0:
      (1, 2) on images drops whole channels (Keras' SpatialDropout2D).
    deterministic: True when not training: the input is returned as it is.
    axis_name: the pmap axis the batch is divided over, None outside pmap.
  """

  rate: float
  broadcast_dims: Sequence[int] = ()
  deterministic: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.deterministic or self.rate == 0 or self.is_initializing():
      return x
    rows = jnp.arange(x.shape[0])
    if self.axis_name is not None:
      rows += lax.axis_index(self.axis_name) * x.shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), rows)
    shape = [1 if axis in self.broadcast_dims else size for axis, size in enumerate(x.shape)][1:]
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, shape))(keys)
    return jnp.where(keep, x / (1 - self.rate), 0)
