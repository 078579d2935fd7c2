"""Layers that several model families share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.errors import UserError
from cifar_jax.kernels import dropout, pooling
from cifar_jax.training import rng
from models.convolution import Conv, dot
from models.normalization import BatchNorm

# He et al. 2015 in its fan-out form, N(0, 2 / (kernel area × output channels)). The reference
# ResNets in Torch initialise every convolution with it.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Dense(nn.Dense):
  """`nn.Dense` without the rounding of float32 operands that is the default on accelerators."""

  precision: Any = lax.Precision.HIGHEST
  dot_general: Any = dot


class BlockPlace(NamedTuple):
  """The place of a block in a residual network.

  Attributes:
    name: of the block's module, such as 'stage2_block1'.
    width: channels of the block's stage.
    stride: 2 for the first block of every stage but the first, else 1.
    is_first: whether the block is the first of its stage.
  """

  name: str
  width: int
  stride: int
  is_first: bool


def place_blocks(stages: Sequence[int], widths: Sequence[int]) -> list[BlockPlace]:
  """Return the places of all blocks, in order.

  Args:
    stages: the number of blocks of each stage.
    widths: the channels of each stage.
  """
  return [
    BlockPlace(
      name=f"stage{stage}_block{index}",
      width=width,
      stride=2 if stage > 1 and index == 1 else 1,
      is_first=index == 1,
    )
    for stage, (num_blocks, width) in enumerate(zip(stages, widths, strict=True), start=1)
    for index in range(1, num_blocks + 1)
  ]


def conv(
  features: int, size: int, stride: int = 1, *, dtype: jax.typing.DTypeLike, name: str
) -> nn.Conv:
  """Return a convolution of the ResNets: odd `size`, no bias, He fan-out normal weights.

  The padding is size // 2 on every side. At stride 2, 'SAME' would pad only the right and bottom
  edges, and so shift the image by half a pixel relative to the papers' networks.
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
  """Return the logits of a ResNet: the global average, then a dense layer 'head', in float32.

  The kernel is drawn from U(±1/√inputs), PyTorch's default for a linear layer. The bias starts
  at 0. Call this inside a compact module, which then holds the parameters.

  Args:
    x: [batch, height, width, channels].

  Returns:
    [batch, num_classes] float32.
  """
  kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
  x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
  return Dense(num_classes, kernel_init=kernel_init, dtype=jnp.float32, name="head")(x)


def batch_norm(
  train: bool,
  dtype: jax.typing.DTypeLike,
  axis_name: str | None,
  momentum: float = 0.99,
  epsilon: float = 1e-3,
) -> Callable[..., BatchNorm]:
  """Return a factory of batch norms, which takes a `name`; momentum and epsilon default to Keras'.

  Args:
    train: normalise with the batch's statistics and update the moving ones; otherwise normalise
      with the moving ones.
    axis_name: the axis whose devices share their statistics; None keeps each device's separate.
  """
  return functools.partial(
    BatchNorm,
    use_running_average=not train,
    momentum=momentum,
    epsilon=epsilon,
    dtype=dtype,
    axis_name=axis_name,
  )


def dense_logits(
  x: jax.Array,
  num_classes: int,
  kernel_init: nn.initializers.Initializer,
  single_logit: bool = False,
) -> jax.Array:
  """Return the logits of a Keras network: a dense layer 'head', in float32.

  With `single_logit` the layer has one unit, as Keras networks with a sigmoid output have. The
  sigmoid of z is the softmax of (0, z), with the same cross-entropy, so the logits are (0, z).
  Call this inside a compact module, which then holds the parameters.

  Args:
    x: [batch, features].

  Returns:
    [batch, num_classes] float32.

  Raises:
    UserError: `single_logit` is set, but the number of classes is not two.
  """
  if single_logit and num_classes != 2:
    raise UserError(
      f"model.single_logit: one logit needs two classes, but the dataset has {num_classes}; "
      "leave it False"
    )
  units = 1 if single_logit else num_classes
  z = Dense(units, kernel_init=kernel_init, dtype=jnp.float32, name="head")(x)
  return jnp.concatenate([jnp.zeros_like(z), z], axis=-1) if single_logit else z


def max_pool(x: jax.Array, window: int = 2) -> jax.Array:
  """Return the maxima of windows that do not overlap: Keras' MaxPooling2D(window).

  Value and gradient equal those of `nn.max_pool(x, (window,) * 2, (window,) * 2)`, even where a
  window holds equal values, which is common after a ReLU in bfloat16: the first value in row order
  gets the whole gradient. NaN stays NaN. The gradient of `nn.max_pool` itself is a
  select-and-scatter, which is slow on CPU; docs/measurements.md has the times.

  Args:
    x: [batch, height, width, channels]; rows and columns that fill no window are ignored.

  Returns:
    [batch, height // window, width // window, channels].
  """
  return pooling.max_pool(x, window)


def relu_max_pool(x: jax.Array, window: int = 2) -> jax.Array:
  """Return `max_pool(relu(x), window)`, with its gradient.

  The maximum is taken first, which leaves the ReLU fewer elements. Value and gradient have the same
  bits: where a maximum is positive, a ReLU does not change it, and elsewhere both are 0.
  """
  return nn.relu(max_pool(x, window))


def check_halvings(images: jax.Array, halvings: int, field: str, remedy: str) -> None:
  """Raise UserError for `field` if `halvings` stages leave nothing of images [batch, h, w, …]."""
  height, width = images.shape[1:3]
  if min(height, width) < 2**halvings:
    raise UserError(
      f"{field}: {halvings} stages halve an image of {height}x{width} pixels to nothing; {remedy}"
    )


def check_rate(argument: str, rate: float) -> None:
  """Raise UserError for `config.model.<argument>` unless `rate` is a dropout rate."""
  if not 0 <= rate < 1:
    raise UserError(f"model.{argument}: {rate} is not a dropout rate; give a number in [0, 1)")


class Dropout(nn.Module):
  """`nn.Dropout` whose mask does not depend on the number of devices that share the batch.

  Each example draws its mask from a separate key: the module's 'dropout' key, with the example's
  row in the global batch folded in. All devices must receive the same 'dropout' key, of JAX's
  default kind (threefry), whose bits are the same under vmap. The layer does nothing at
  initialisation, so `init` needs neither the axis nor a 'dropout' key.

  Attributes:
    rate: the probability that a value becomes 0, in [0, 1). The rest is scaled by 1 / (1 - rate).
    broadcast_dims: axes along which one draw is shared, where the batch is axis 0: (1, 2) drops
      whole channels of images (Keras' SpatialDropout2D).
    deterministic: True when not training; the layer then returns its input.
    axis_name: the pmap axis over which the batch is divided, None outside pmap.
  """

  rate: float
  broadcast_dims: Sequence[int] = ()
  deterministic: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.deterministic or self.rate == 0 or self.is_initializing():
      return x
    rows = rng.row_numbers(x.shape[0], self.axis_name)
    keys = jax.random.key_data(rng.number_keys(self.make_rng("dropout"), rows))
    if not self.broadcast_dims:
      return dropout.dropout(x, keys, self.rate)
    shape = [1 if axis in self.broadcast_dims else size for axis, size in enumerate(x.shape)]
    is_kept = dropout.dropout(jnp.ones(shape), keys, self.rate) > 0
    return jnp.where(is_kept, x / jnp.float32(1 - self.rate), 0).astype(x.dtype)
