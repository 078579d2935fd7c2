"""Report 003's residual networks: ELU before the convolutions, and strong dropout.

A network is a 3×3 convolution of stride 2, batch norm and ELU; one stage for each entry of
`stages`, with widths 64, 128, 256, …; then 2×2 average pooling, flattening, dropout and a dense
layer. Convolutions have biases, and kernels from He's truncated normal distribution (he_normal).
Batch norm has momentum 0.9 and epsilon 1e-3. Padding is TensorFlow's 'same', which at stride 2 pads
only the right and the bottom edge. No batch norm stands between the last block and the pooling.

The report prints layers=[2, 2, 2, 2] for ResNet-18 and only names its other networks. Their stages
here follow He et al. 2016 (arXiv:1512.03385) and the listing's count of layers, 2 × sum + 2: 20 is
(3, 3, 3) and 110 is (18, 18, 18), in the listing's widths and not the paper's 16-32-64; 50 is
(3, 4, 6, 3) with bottlenecks. Parameters at 10 classes, as Keras counts them in the same layers:
elu_resnet18 11,189,194, elu_resnet20 4,347,722, elu_resnet50 23,584,650, elu_resnet110 27,639,242.

With BOTTLENECK = True the listing cannot run: it gives two kernel sizes for three convolutions, and
its shortcut has a quarter of the channels of the block's output. The bottlenecks here are those of
He et al.: kernel sizes 1, 3 and 1, the first convolution strided, and a shortcut of 4 × width
channels.

For CIFAR-10 the report's text has dropout 0.5 in the blocks and 0.3 before the classifier. For
CIFAR-100 it adds "sparse dropout", which is SpatialDropout2D in its code. The code, for CIFAR-100,
has 0.5 in all three places; these are the defaults here.

The report's penalties are 1e-4 on the convolutions of the blocks and 1e-5 on the stem, the
shortcuts and the last convolution of a bottleneck; the dense layer has none. As a config:
loss.l2=(('(stem_conv|shortcut_conv|conv3)/kernel$', 1e-5), ('conv.?/kernel$', 1e-4)).

`block` offers two further kinds of identity block. The report tried the first and wished to try the
second:

- 'sparse' is ε-ResNet (Yu, Yu & Ramalingam 2018, arXiv:1804.01661). A block returns x + S(F(x))
  instead of x + F(x), where S(F) is 0 if every response in F lies within ±epsilon, else F. Under
  weight decay a block whose S stays 0 fades and remains a strict identity. The paper builds S from
  four ReLUs; S has no parameters. As in the authors' code, blocks with a projection have S too, and
  epsilon is 2.5 for CIFAR-10. Their S looks at a whole batch. The S here looks at each example
  alone, so no prediction depends on the other examples or on the number of devices. The authors'
  side supervision, learning-rate schedule and falling weight decay are left out, as in the report,
  and so is their epsilon of 0 for the first 150 epochs.
- 'highway' (Srivastava, Greff & Schmidhuber 2015, arXiv:1505.00387) returns T(x) F(x) +
  (1 - T(x)) x, with the gate T(x) = sigmoid(conv3x3(x)). The gate's bias starts negative, so the
  network starts near the identity. Where the shape changes, the block is a plain one.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import avg_pool  # by name: jax2onnx replaces nn.avg_pool, with fewer arguments

from cifar_jax import registry
from cifar_jax.errors import UserError
from models import layers, register
from models.convolution import Conv

_HE_NORMAL = nn.initializers.he_normal()


def strict_identity(response: jax.Array, epsilon: float) -> jax.Array:
  """Return S of ε-ResNet: each example's response, or 0 if all of it lies within ±epsilon.

  No gradient reaches a response that becomes 0. NaN stays NaN.

  Args:
    response: [batch, height, width, channels].
  """
  largest = jnp.max(jnp.abs(response), axis=(1, 2, 3), keepdims=True)
  return jnp.where(largest <= epsilon, 0, response)


class EluBlock(nn.Module):
  """Batch norm, ELU and a convolution, two times or (in a bottleneck) three times.

  Attributes:
    projection: the shortcut is batch norm, ELU and a 1×1 convolution, and the block has no dropout.
      Otherwise the shortcut is the identity, with dropout before the first batch norm and spatial
      dropout after the addition.
    kind: 'residual', 'sparse' or 'highway', as described at the top of this file.
    epsilon: threshold of kind 'sparse'.
    gate_bias: initial bias of the gate of kind 'highway'.
  """

  RECOMPUTED = True  # see models/__init__.py

  width: int
  stride: int
  projection: bool
  bottleneck: bool
  kind: str
  epsilon: float
  gate_bias: float
  conv: Callable
  norm: Callable
  dropout: Callable
  spatial_dropout: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    sizes = (1, 3, 1) if self.bottleneck else (3, 3)
    features = 4 * self.width if self.bottleneck else self.width
    y = x if self.projection else self.dropout(name="dropout")(x)
    for index, size in enumerate(sizes, start=1):
      y = self.norm(activation="elu", name=f"norm{index}")(y)
      y = self.conv(
        features if index == 3 else self.width,
        (size, size),
        strides=self.stride if index == 1 else 1,
        name=f"conv{index}",
      )(y)
    if self.kind == "sparse":
      y = strict_identity(y, self.epsilon)

    if self.projection:
      x = self.norm(activation="elu", name="shortcut_norm")(x)
      return y + self.conv(features, (1, 1), strides=self.stride, name="shortcut_conv")(x)
    if self.kind == "highway":
      bias_init = nn.initializers.constant(self.gate_bias)
      gate = nn.sigmoid(self.conv(features, (3, 3), bias_init=bias_init, name="gate_conv")(x))
      y = gate * y + (1 - gate) * x
    else:
      y = y + x
    return self.spatial_dropout(name="spatial_dropout")(y)


class EluResNet(nn.Module):
  """The network described at the top of this file.

  Attributes:
    stages: number of blocks of each stage. The first block of a stage has a projection, and stride
      2 in every stage but the first.
    width: channels of the stem and of the first stage; each further stage has twice as many.
    bottleneck: use blocks of three convolutions that return four times their width.
    block: the kind of the blocks, 'residual', 'sparse' or 'highway'.
    block_dropout, spatial_dropout: rates before and after a block with an identity shortcut; the
      latter drops whole channels.
    head_dropout: rate before the dense layer.
    epsilon: threshold of block='sparse'.
    gate_bias: initial bias of the gates of block='highway'.
  """

  num_classes: int
  stages: Sequence[int]
  width: int = 64
  bottleneck: bool = False
  block: str = "residual"
  block_dropout: float = 0.5
  spatial_dropout: float = 0.5
  head_dropout: float = 0.5
  epsilon: float = 2.5
  gate_bias: float = -2.0
  dtype: jax.typing.DTypeLike = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    conv = functools.partial(Conv, kernel_init=_HE_NORMAL, dtype=self.dtype)
    axis_name = self.axis_name if self.sync_bn else None
    norm = layers.batch_norm(train, self.dtype, axis_name, momentum=0.9)
    dropout = functools.partial(layers.Dropout, deterministic=not train, axis_name=self.axis_name)
    make_block = functools.partial(
      EluBlock,
      bottleneck=self.bottleneck,
      kind=self.block,
      epsilon=self.epsilon,
      gate_bias=self.gate_bias,
      conv=conv,
      norm=norm,
      dropout=functools.partial(dropout, self.block_dropout),
      spatial_dropout=functools.partial(dropout, self.spatial_dropout, broadcast_dims=(1, 2)),
    )

    x = conv(self.width, (3, 3), strides=2, name="stem_conv")(images.astype(self.dtype))
    x = norm(activation="elu", name="stem_norm")(x)
    widths = [self.width * 2**stage for stage in range(len(self.stages))]
    for name, width, stride, is_first in layers.place_blocks(self.stages, widths):
      x = make_block(width=width, stride=stride, projection=is_first, name=name)(x)
    x = avg_pool(x, (2, 2), (2, 2), padding="SAME", count_include_pad=False)
    x = x.reshape(x.shape[0], -1).astype(self.dtype)  # avg_pool divides in float32
    x = dropout(self.head_dropout)(x)
    return layers.dense_logits(x, self.num_classes, _HE_NORMAL)


@register("elu_resnet")
@register("elu_resnet18", stages=(2, 2, 2, 2), bottleneck=False)
@register("elu_resnet20", stages=(3, 3, 3), bottleneck=False)
@register("elu_resnet50", stages=(3, 4, 6, 3), bottleneck=True)
@register("elu_resnet110", stages=(18, 18, 18), bottleneck=False)
def elu_resnet(
  stages: Sequence[int] = (2, 2, 2, 2),
  bottleneck: bool = False,
  block: str = "residual",
  block_dropout: float = 0.5,
  spatial_dropout: float = 0.5,
  head_dropout: float = 0.5,
  epsilon: float = 2.5,
  gate_bias: float = -2.0,
  **common: Any,
) -> EluResNet:
  """Return one of report 003's networks; see EluResNet for the arguments.

  Raises:
    UserError: the block is unknown, `stages` empty, a rate outside [0, 1) or epsilon not positive.
  """
  kinds = ("residual", "sparse", "highway")
  if block not in kinds:
    raise registry.unknown("model.block", "block", block, kinds)
  if not stages:
    raise UserError("model.stages: the tuple is empty; give the number of blocks of each stage")
  layers.check_rate("block_dropout", block_dropout)
  layers.check_rate("spatial_dropout", spatial_dropout)
  layers.check_rate("head_dropout", head_dropout)
  registry.check_number("model.epsilon", epsilon, "a number > 0", lambda x: x > 0)
  registry.check_number("model.gate_bias", gate_bias, "a number")
  return EluResNet(
    stages=stages,
    bottleneck=bottleneck,
    block=block,
    block_dropout=block_dropout,
    spatial_dropout=spatial_dropout,
    head_dropout=head_dropout,
    epsilon=epsilon,
    gate_bias=gate_bias,
    **common,
  )
