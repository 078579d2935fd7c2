"""Report 003's residual networks: ELU before the convolutions, and strong dropout.

A 3×3 convolution of stride 2, batch norm, ELU; one stage for each entry of `stages`, with widths
64, 128, 256, …; 2×2 average pooling, flattening, dropout, a dense layer. Convolutions have biases
and draw from He's normal distribution (truncated, as Keras' he_normal); batch norm has momentum
0.9 and epsilon 1e-3. Padding is 'same' in TensorFlow's sense, which at stride 2 pads only the right
and the bottom edge. There is no batch norm between the last block and the pooling.

The report prints layers=[2, 2, 2, 2] for ResNet-18 and names the others; their stages follow He et
al. 2016 (arXiv:1512.03385) and the listing's own 2 × sum + 2: 20 is (3, 3, 3) and 110 is
(18, 18, 18), in the widths of the listing, not the paper's 16-32-64; 50 is (3, 4, 6, 3) with
bottlenecks. Parameters at 10 classes (Keras counts the same layers so): elu_resnet18 11,189,194,
elu_resnet20 4,347,722, elu_resnet50 23,584,650, elu_resnet110 27,639,242.

With BOTTLENECK = True the listing cannot run: it hands two kernel sizes to three convolutions, and
its shortcut has a quarter of the channels that the block puts out. Mended here as in He et al.:
kernel sizes 1, 3, 1, the first of which strides, and a shortcut of 4 × width channels.

The report's text has dropout 0.5 in the blocks and 0.3 before the classifier for CIFAR-10, and adds
"sparse dropout" (its code: SpatialDropout2D) for CIFAR-100; its code, for CIFAR-100, has 0.5 for
all three, which are the defaults here.

The report's regularisers are 1e-4 on the blocks' convolutions and 1e-5 on the stem, the shortcuts
and the bottlenecks' last convolution, none on the dense layer:
loss.l2=(('(stem_conv|shortcut_conv|conv3)/kernel$', 1e-5), ('conv.?/kernel$', 1e-4)).

Two further kinds of identity block, which the report tried or wished to:

- block='sparse', ε-ResNet (Yu, Yu & Ramalingam 2018, arXiv:1804.01661): instead of x + F(x) a block
  puts out x + S(F(x)), where S(F) is 0 if every response in F lies within ±epsilon, else F. Under
  weight decay a block that stays there dies away and is a strict identity ever after. The paper
  builds S out of four ReLUs; it has no parameters. As in the authors' code blocks with a projection
  have it too, and epsilon is 2.5 for CIFAR-10. There S looks at a whole batch; here at each example
  alone, so that no example's prediction depends on its neighbours or on the number of devices. The
  authors' side supervision and learning rate schedule are left out, as in the report.
- block='highway' (Srivastava, Greff & Schmidhuber 2015, arXiv:1505.00387): T(x) F(x) + (1 - T(x)) x
  with the gate T(x) = sigmoid(conv3x3(x)), its bias negative at first, so that the network starts
  near the identity. Where the shape changes, the block is the plain one.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax import registry
from cifar_jax.errors import UserError
from models import layers, register
from models.convolution import Conv

_HE_NORMAL = nn.initializers.he_normal()


def strict_identity(response: jax.Array, epsilon: float) -> jax.Array:
  """S of ε-ResNet: 0 for each example whose every response lies within ±epsilon, else itself.

  response: [batch, height, width, channels]. No gradient reaches what is set to 0. NaN stays NaN.
  """
  largest = jnp.max(jnp.abs(response), axis=(1, 2, 3), keepdims=True)
  return jnp.where(largest <= epsilon, 0, response)


class EluBlock(nn.Module):
  """Batch norm, ELU, convolution, two times or (bottleneck) three.

  Attributes:
    projection: the shortcut is batch norm, ELU and a 1×1 convolution, and there is no dropout;
      else it is the identity, with dropout before the first batch norm and spatial dropout after
      the addition.
    kind: 'residual', 'sparse' or 'highway'; see above.
  """

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
      y = nn.elu(self.norm(name=f"norm{index}")(y))
      y = self.conv(
        features if index == 3 else self.width,
        (size, size),
        strides=self.stride if index == 1 else 1,
        name=f"conv{index}",
      )(y)
    if self.kind == "sparse":
      y = strict_identity(y, self.epsilon)

    if self.projection:
      x = nn.elu(self.norm(name="shortcut_norm")(x))
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
    stages: number of blocks in each stage; the first block of each has a projection, and strides
      by 2 in every stage but the first.
    width: channels of the stem and of the first stage; each further stage has twice as many.
    bottleneck: blocks of three convolutions that put out four times their width.
    block: the blocks' kind, 'residual', 'sparse' or 'highway'.
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
  dtype: jnp.dtype = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    conv = functools.partial(Conv, kernel_init=_HE_NORMAL, dtype=self.dtype)
    axis_name = self.axis_name if self.sync_bn else None
    norm = layers.batch_norm(train, self.dtype, axis_name, momentum=0.9)
    dropout = functools.partial(layers.Dropout, deterministic=not train, axis_name=self.axis_name)

    x = conv(self.width, (3, 3), strides=2, name="stem_conv")(images.astype(self.dtype))
    x = nn.elu(norm(name="stem_norm")(x))
    for stage, count in enumerate(self.stages, start=1):
      for index in range(1, count + 1):
        block = EluBlock(
          width=self.width * 2 ** (stage - 1),
          stride=2 if stage > 1 and index == 1 else 1,
          projection=index == 1,
          bottleneck=self.bottleneck,
          kind=self.block,
          epsilon=self.epsilon,
          gate_bias=self.gate_bias,
          conv=conv,
          norm=norm,
          dropout=functools.partial(dropout, self.block_dropout),
          spatial_dropout=functools.partial(dropout, self.spatial_dropout, broadcast_dims=(1, 2)),
          name=f"stage{stage}_block{index}",
        )
        x = block(x)
    x = nn.avg_pool(x, (2, 2), (2, 2), padding="SAME", count_include_pad=False)
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
  **common,
) -> EluResNet:
  """Report 003's networks; see EluResNet.

  Raises UserError for an unknown block, a rate outside [0, 1) or an epsilon that is not positive.
  """
  kinds = ("residual", "sparse", "highway")
  if block not in kinds:
    raise registry.unknown("model.block", "block", block, kinds)
  if not stages:
    raise UserError("model.stages: is empty; give the number of blocks of each stage")
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
