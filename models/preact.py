"""Residual networks with the activation before the convolutions.

`preact_resnet18` … `preact_resnet152` are those of He et al. 2016b (arXiv:1603.05027) in the layout
of resnet18 … resnet152. `wide_resnet`, `wrn16_8` … are those of Zagoruyko & Komodakis 2016
(arXiv:1605.07146).

Both families follow the papers, not kuangliu/pytorch-cifar, in two points. A batch norm and ReLU
follow the last block (1,024 more parameters in preact_resnet18 and 34, 4,096 in the others). The
shortcut of the network's first block starts from the activated input, like those where the shape
changes. Initialisation and batch norm are those of resnet.py; the authors of wide ResNets use He's
fan-in distribution. All models take `dropout`, the rate of WideResNet's dropout before the last
convolution of each block.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.errors import UserError
from models import layers, register


class PreActBlock(nn.Module):
  """Two 3×3 convolutions, each after batch norm and ReLU. The first one is strided.

  Attributes:
    is_first: whether the block is the first of its stage.
  """

  RECOMPUTED = True  # see models/__init__.py

  width: int
  stride: int
  is_first: bool
  conv: Callable
  norm: Callable
  dropout: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = self.norm(activation="relu", name="norm1")(x)
    shortcut = y if self.is_first else x
    if self.stride > 1 or x.shape[-1] != self.width:
      shortcut = self.conv(self.width, 1, self.stride, name="shortcut_conv")(shortcut)
    y = self.conv(self.width, 3, self.stride, name="conv1")(y)
    y = self.dropout(name="dropout")(self.norm(activation="relu", name="norm2")(y))
    return shortcut + self.conv(self.width, 3, name="conv2")(y)


class PreActBottleneck(nn.Module):
  """Convolutions 1×1, 3×3 and 1×1, each after batch norm and ReLU; attributes as PreActBlock's.

  The 3×3 convolution is strided; the last one has four times the width.
  """

  RECOMPUTED = True  # see models/__init__.py

  width: int
  stride: int
  is_first: bool
  conv: Callable
  norm: Callable
  dropout: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    features = 4 * self.width
    y = self.norm(activation="relu", name="norm1")(x)
    shortcut = y if self.is_first else x
    if self.stride > 1 or x.shape[-1] != features:
      shortcut = self.conv(features, 1, self.stride, name="shortcut_conv")(shortcut)
    y = self.conv(self.width, 1, name="conv1")(y)
    y = self.conv(self.width, 3, self.stride, name="conv2")(
      self.norm(activation="relu", name="norm2")(y)
    )
    y = self.dropout(name="dropout")(self.norm(activation="relu", name="norm3")(y))
    return shortcut + self.conv(features, 1, name="conv3")(y)


class PreActResNet(nn.Module):
  """A 3×3 convolution, one stage for each width, batch norm, ReLU, global average, dense layer.

  Attributes:
    block: the class of the blocks, PreActBlock or PreActBottleneck.
    stages: number of blocks of each stage; every stage but the first begins with stride 2.
    widths: channels of each stage (a PreActBottleneck returns four times as many).
    stem_width: channels of the first convolution.
    dropout: rate before the last convolution of each block.
  """

  num_classes: int
  block: type[nn.Module]
  stages: Sequence[int]
  widths: Sequence[int]
  stem_width: int
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    conv = functools.partial(layers.conv, dtype=self.dtype)
    axis_name = self.axis_name if self.sync_bn else None
    norm = layers.batch_norm(train, self.dtype, axis_name, momentum=0.9, epsilon=1e-5)
    dropout = functools.partial(
      layers.Dropout, self.dropout, deterministic=not train, axis_name=self.axis_name
    )

    x = conv(self.stem_width, 3, name="stem_conv")(images.astype(self.dtype))
    for name, width, stride, is_first in layers.place_blocks(self.stages, self.widths):
      x = self.block(width, stride, is_first, conv, norm, dropout, name=name)(x)
    x = norm(activation="relu", name="final_norm")(x)
    return layers.pooled_logits(x, self.num_classes)


@register("preact_resnet18", block=PreActBlock, stages=(2, 2, 2, 2))
@register("preact_resnet34", block=PreActBlock, stages=(3, 4, 6, 3))
@register("preact_resnet50", block=PreActBottleneck, stages=(3, 4, 6, 3))
@register("preact_resnet101", block=PreActBottleneck, stages=(3, 4, 23, 3))
@register("preact_resnet152", block=PreActBottleneck, stages=(3, 8, 36, 3))
def preact_resnet(
  block: type[nn.Module], stages: Sequence[int], dropout: float = 0.0, **common: Any
) -> PreActResNet:
  """Return a network of widths 64-128-256-512. Raise UserError for a rate outside [0, 1)."""
  layers.check_rate("dropout", dropout)
  return PreActResNet(
    block=block,
    stages=stages,
    widths=(64, 128, 256, 512),
    stem_width=64,
    dropout=dropout,
    **common,
  )


@register("wide_resnet")
@register("wrn16_8", depth=16, width=8)
@register("wrn28_10", depth=28, width=10)
@register("wrn40_4", depth=40, width=4)
def wide_resnet(
  depth: int = 28, width: int = 10, dropout: float = 0.0, **common: Any
) -> PreActResNet:
  """Return WRN-depth-width: widths 16-32-64 times `width`, (depth - 4) / 6 blocks in each stage.

  Raises:
    UserError: the depth is not 6n + 4, the width below 1, or the rate outside [0, 1).
  """
  if depth < 10 or depth % 6 != 4:
    raise UserError(f"model.depth: {depth} is not 6n + 4 with n >= 1; try 16, 28 or 40")
  if width < 1:
    raise UserError(f"model.width: {width} is below 1; the paper uses 1 to 12")
  layers.check_rate("dropout", dropout)
  return PreActResNet(
    block=PreActBlock,
    stages=((depth - 4) // 6,) * 3,
    widths=(16 * width, 32 * width, 64 * width),
    stem_width=16,
    dropout=dropout,
    **common,
  )
