"""Report 000's residual network: blocks of a pointwise (1×1) and a 3×3 convolution.

`pointwise_resnet` has 10,489,674 parameters at 10 classes, 10,476,106 of them trainable, as the
report prints. Every convolution has a bias, although batch norm follows. Kernels are drawn from
He's truncated normal distribution (Keras' he_normal). The report gives all kernels the seed 42, so
its kernels of one shape start equal; this is not repeated here. Batch norm has Keras' defaults.

The report regularises every kernel, including the dense layer's: loss.l2=(('kernel$', 5e-4),).

The report's network ends in a softmax. Its first run gives these probabilities to a loss with
from_logits=True. Keras on TensorFlow detects this, warns and takes the logits from before the
softmax, so both of the report's runs minimise the ordinary cross-entropy.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import layers, register
from models.convolution import Conv

_HE_NORMAL = nn.initializers.he_normal()


class PointwiseBlock(nn.Module):
  """A strided 1×1 convolution, then a 3×3 convolution, and a shortcut.

  Attributes:
    projection: the shortcut is a 1×1 convolution with batch norm, not the identity.
  """

  RECOMPUTED = True  # see models/__init__.py

  width: int
  stride: int
  projection: bool
  conv: Callable
  norm: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = self.conv(self.width, (1, 1), strides=self.stride, name="conv1")(x)
    y = self.norm(activation="relu", name="norm1")(y)
    y = self.conv(self.width, (3, 3), name="conv2")(y)
    if self.projection:
      x = self.conv(self.width, (1, 1), strides=self.stride, name="shortcut_conv")(x)
      x = self.norm(name="shortcut_norm")(x)
    return self.norm(activation="relu", name="norm2")(y, x)


class PointwiseResNet(nn.Module):
  """A 3×3 convolution, one stage for each width, the global average, dropout, a dense layer.

  Attributes:
    widths: channels of each stage; every stage but the first begins with stride 2.
    blocks: number of blocks of each stage; the first block's shortcut is a projection.
    dropout: rate on the global average.
  """

  num_classes: int
  widths: Sequence[int] = (64, 128, 256, 512)
  blocks: int = 3
  dropout: float = 0.3
  dtype: jax.typing.DTypeLike = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    conv = functools.partial(Conv, kernel_init=_HE_NORMAL, dtype=self.dtype)
    norm = layers.batch_norm(train, self.dtype, self.axis_name if self.sync_bn else None)
    x = conv(self.widths[0], (3, 3), name="stem_conv")(images.astype(self.dtype))
    x = norm(activation="relu", name="stem_norm")(x)
    stages = [self.blocks] * len(self.widths)
    for name, width, stride, is_first in layers.place_blocks(stages, self.widths):
      x = PointwiseBlock(width, stride, is_first, conv, norm, name=name)(x)
    x = jnp.mean(x, axis=(1, 2))
    x = layers.Dropout(self.dropout, deterministic=not train, axis_name=self.axis_name)(x)
    return layers.dense_logits(x, self.num_classes, _HE_NORMAL)


@register("pointwise_resnet")
def pointwise_resnet(dropout: float = 0.3, **common: Any) -> PointwiseResNet:
  """Return report 000's network. Raise UserError for a rate outside [0, 1)."""
  layers.check_rate("dropout", dropout)
  return PointwiseResNet(dropout=dropout, **common)
