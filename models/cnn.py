"""Plain convolutional networks with Keras' defaults.

Kernels are drawn from Glorot's uniform distribution, and biases start at 0. Batch norm has epsilon
1e-3 and momentum 0.99. Max pooling is 2×2.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import layers, register
from models.convolution import Conv


class SimpleCNN(nn.Module):
  """Stages of two convolutions, each with ReLU and batch norm, and pooling; then dense layers.

  Convolutions are 3×3.

  Attributes:
    widths: channels of each stage.
    dense: units of each hidden dense layer.
    dropout: rate on the output of the last stage.
  """

  num_classes: int
  widths: Sequence[int] = (32, 64, 128)
  dense: Sequence[int] = (256, 128)
  dropout: float = 0.3
  dtype: jax.typing.DTypeLike = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    glorot = nn.initializers.glorot_uniform()
    conv = functools.partial(Conv, kernel_size=(3, 3), kernel_init=glorot, dtype=self.dtype)
    norm = layers.batch_norm(train, self.dtype, self.axis_name if self.sync_bn else None)

    remedy = "give fewer widths or larger images"
    layers.check_halvings(images, len(self.widths), "model.widths", remedy)
    x = images.astype(self.dtype)
    for stage, width in enumerate(self.widths, start=1):
      for index in (1, 2):
        x = conv(width, name=f"stage{stage}_conv{index}")(x)
        x = norm(activation="relu_before", name=f"stage{stage}_norm{index}")(x)
      x = layers.max_pool(x)
    x = layers.Dropout(self.dropout, deterministic=not train, axis_name=self.axis_name)(x)
    x = x.reshape(x.shape[0], -1)
    for index, units in enumerate(self.dense, start=1):
      dense = layers.Dense(units, kernel_init=glorot, dtype=self.dtype, name=f"dense{index}")
      x = nn.relu(dense(x))
    return layers.dense_logits(x, self.num_classes, glorot)


@register("simple_cnn")
def simple_cnn(
  widths: Sequence[int] = (32, 64, 128),
  dense: Sequence[int] = (256, 128),
  dropout: float = 0.3,
  **common: Any,
) -> SimpleCNN:
  """Return report 000's simple CNN: 847,530 parameters at 10 classes, 846,634 of them trainable.

  Raises:
    UserError: the rate is outside [0, 1).
  """
  layers.check_rate("dropout", dropout)
  return SimpleCNN(widths=widths, dense=dense, dropout=dropout, **common)
