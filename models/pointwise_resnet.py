"""Report 000's residual network: blocks of a pointwise (1×1) and a 3×3 convolution.

`pointwise_resnet` has 10,489,674 parameters at 10 classes, 10,476,106 of them trainable, as the
report prints. Every convolution has a bias, although batch norm follows. Kernels draw from He's
normal distribution, truncated, as Keras' he_normal does; the report gives all of them the seed 42,
so that its kernels of one shape begin alike, which is not imitated here. Batch norm is Keras'.

The report's regulariser, on every kernel, that of the dense layer included, is
loss.l2=(('kernel$', 5e-4),).

The network ends in a softmax whose probabilities the report's first run gives to a loss with
from_logits=True. Keras on TensorFlow notices, warns and takes the logits from before the softmax,
so both runs minimised the ordinary cross-entropy.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import layers, register
from models.convolution import Conv

_HE_NORMAL = nn.initializers.he_normal()


class PointwiseBlock(nn.Module):
  """1×1 (which strides), then 3×3; round them the identity or, if `projection`, a 1×1."""

  width: int
  stride: int
  projection: bool
  conv: Callable
  norm: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = self.conv(self.width, (1, 1), strides=self.stride, name="conv1")(x)
    y = nn.relu(self.norm(name="norm1")(y))
    y = self.conv(self.width, (3, 3), name="conv2")(y)
    y = self.norm(name="norm2")(y)
    if self.projection:
      x = self.conv(self.width, (1, 1), strides=self.stride, name="shortcut_conv")(x)
      x = self.norm(name="shortcut_norm")(x)
    return nn.relu(x + y)


class PointwiseResNet(nn.Module):
  """A 3×3 convolution, one stage for each width, the global average, dropout, a dense layer.

  Attributes:
    widths: channels of each stage; every stage but the first begins with stride 2.
    blocks: number of blocks in each stage; the first one's shortcut is a projection.
    dropout: rate on the global average.
  """

  num_classes: int
  widths: Sequence[int] = (64, 128, 256, 512)
  blocks: int = 3
  dropout: float = 0.3
  dtype: jnp.dtype = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    conv = functools.partial(Conv, kernel_init=_HE_NORMAL, dtype=self.dtype)
    norm = layers.batch_norm(train, self.dtype, self.axis_name if self.sync_bn else None)
    x = conv(self.widths[0], (3, 3), name="stem_conv")(images.astype(self.dtype))
    x = nn.relu(norm(name="stem_norm")(x))
    for stage, width in enumerate(self.widths, start=1):
      for index in range(1, self.blocks + 1):
        stride = 2 if stage > 1 and index == 1 else 1
        name = f"stage{stage}_block{index}"
        x = PointwiseBlock(width, stride, index == 1, conv, norm, name=name)(x)
    x = jnp.mean(x, axis=(1, 2))
    x = layers.Dropout(self.dropout, deterministic=not train, axis_name=self.axis_name)(x)
    return layers.dense_logits(x, self.num_classes, _HE_NORMAL)


@register("pointwise_resnet")
def pointwise_resnet(dropout: float = 0.3, **common) -> PointwiseResNet:
  """Report 000's network. Raises UserError for a rate outside [0, 1)."""
  layers.check_rate("dropout", dropout)
  return PointwiseResNet(dropout=dropout, **common)
