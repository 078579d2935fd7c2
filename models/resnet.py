"""Residual networks with the activation after the addition (He et al. 2016a, arXiv:1512.03385).

`resnet18` … `resnet152` are the paper's ImageNet networks (table 1) with a stem for small images,
as in kuangliu/pytorch-cifar. `resnet20` … `resnet110` are the paper's CIFAR-10 networks (section
4.2). Convolutions are drawn from He's fan-out normal distribution, as in the reference code in
Torch; kuangliu's use PyTorch's default, U(±1/√fan-in). Batch norm has PyTorch's defaults: epsilon
1e-5, and momentum 0.1 (the weight of the new statistics; Flax's 0.9 is the weight of the old). The
moving variance is the biased one, not PyTorch's unbiased.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import max_pool  # by name: jax2onnx replaces nn.max_pool, with fewer arguments

from cifar_jax.errors import UserError
from models import layers, register


def _shortcut(
  x: jax.Array, features: int, stride: int, kind: str, conv: Callable, norm: Callable
) -> jax.Array:
  """Return the shortcut of a block: `x` where its shape fits, else option A or B of the paper."""
  missing = features - x.shape[-1]
  if stride == 1 and missing == 0:
    return x
  if kind == "A":
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))
  x = conv(features, 1, stride, name="shortcut_conv")(x)
  return norm(name="shortcut_norm")(x)


class BasicBlock(nn.Module):
  """Two 3×3 convolutions, the first of them strided.

  Attributes:
    shortcut: 'A' or 'B', as in ResNet.
    last_scale: the initialiser of the last batch norm's scale.
  """

  RECOMPUTED = True  # see models/__init__.py

  width: int
  stride: int
  shortcut: str
  last_scale: nn.initializers.Initializer
  conv: Callable
  norm: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = self.conv(self.width, 3, self.stride, name="conv1")(x)
    y = self.norm(activation="relu", name="norm1")(y)
    y = self.conv(self.width, 3, name="conv2")(y)
    x = _shortcut(x, self.width, self.stride, self.shortcut, self.conv, self.norm)
    return self.norm(activation="relu", scale_init=self.last_scale, name="norm2")(y, x)


class Bottleneck(nn.Module):
  """Convolutions 1×1, 3×3 and 1×1, the last with four times the width; attributes as BasicBlock's.

  The 3×3 convolution is strided, as in Torch's and PyTorch's ResNets.
  """

  RECOMPUTED = True  # see models/__init__.py

  width: int
  stride: int
  shortcut: str
  last_scale: nn.initializers.Initializer
  conv: Callable
  norm: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    features = 4 * self.width
    y = self.conv(self.width, 1, name="conv1")(x)
    y = self.norm(activation="relu", name="norm1")(y)
    y = self.conv(self.width, 3, self.stride, name="conv2")(y)
    y = self.norm(activation="relu", name="norm2")(y)
    y = self.conv(features, 1, name="conv3")(y)
    x = _shortcut(x, features, self.stride, self.shortcut, self.conv, self.norm)
    return self.norm(activation="relu", scale_init=self.last_scale, name="norm3")(y, x)


class ResNet(nn.Module):
  """A stem, one stage for each width, the global average and a dense layer.

  Attributes:
    block: the class of the blocks, BasicBlock or Bottleneck.
    stages: number of blocks of each stage; every stage but the first begins with stride 2.
    widths: channels of each stage (a Bottleneck returns four times as many).
    stem: 'cifar', a 3×3 convolution; or 'imagenet', 7×7 with stride 2, then 3×3 max pooling.
    shortcut: the kind of shortcut where the shape changes: 'A' subsamples and appends zero channels
      (no parameters); 'B' is a 1×1 convolution with batch norm.
    zero_init_residual: start the last batch norm of each block at scale 0, so that each block
      starts as its shortcut alone (Goyal et al. 2017, arXiv:1706.02677).
  """

  num_classes: int
  block: type[nn.Module]
  stages: Sequence[int]
  widths: Sequence[int] = (64, 128, 256, 512)
  stem: str = "cifar"
  shortcut: str = "B"
  zero_init_residual: bool = False
  dtype: jax.typing.DTypeLike = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    conv = functools.partial(layers.conv, dtype=self.dtype)
    axis_name = self.axis_name if self.sync_bn else None
    norm = layers.batch_norm(train, self.dtype, axis_name, momentum=0.9, epsilon=1e-5)
    last_scale = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones

    x = images.astype(self.dtype)
    if self.stem == "imagenet":
      x = conv(self.widths[0], 7, 2, name="stem_conv")(x)
    else:
      x = conv(self.widths[0], 3, name="stem_conv")(x)
    x = norm(activation="relu", name="stem_norm")(x)
    if self.stem == "imagenet":
      x = max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for name, width, stride, _ in layers.place_blocks(self.stages, self.widths):
      x = self.block(width, stride, self.shortcut, last_scale, conv, norm, name=name)(x)
    return layers.pooled_logits(x, self.num_classes)


@register("resnet18", block=BasicBlock, stages=(2, 2, 2, 2))
@register("resnet34", block=BasicBlock, stages=(3, 4, 6, 3))
@register("resnet50", block=Bottleneck, stages=(3, 4, 6, 3))
@register("resnet101", block=Bottleneck, stages=(3, 4, 23, 3))
@register("resnet152", block=Bottleneck, stages=(3, 8, 36, 3))
def resnet(
  block: type[nn.Module],
  stages: Sequence[int],
  stem: str = "cifar",
  zero_init_residual: bool = False,
  **common: Any,
) -> ResNet:
  """Return a ResNet of widths 64-128-256-512. Raise UserError for an unknown stem."""
  if stem not in ("cifar", "imagenet"):
    raise UserError(f"model.stem: {stem!r} is neither 'cifar' nor 'imagenet'; choose one of them")
  return ResNet(
    block=block, stages=stages, stem=stem, zero_init_residual=zero_init_residual, **common
  )


@register("resnet20", stages=(3, 3, 3))
@register("resnet32", stages=(5, 5, 5))
@register("resnet44", stages=(7, 7, 7))
@register("resnet56", stages=(9, 9, 9))
@register("resnet110", stages=(18, 18, 18))
def cifar_resnet(
  stages: Sequence[int], shortcut: str = "A", zero_init_residual: bool = False, **common: Any
) -> ResNet:
  """Return a ResNet of 6n + 2 layers, widths 16-32-64. Raise UserError for an unknown shortcut."""
  if shortcut not in ("A", "B"):
    raise UserError(
      f"model.shortcut: {shortcut!r} is neither 'A' (zero channels) nor 'B' (projection); choose "
      "one of them"
    )
  return ResNet(
    block=BasicBlock,
    stages=stages,
    widths=(16, 32, 64),
    shortcut=shortcut,
    zero_init_residual=zero_init_residual,
    **common,
  )
