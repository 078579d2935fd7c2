"""VGG networks (Simonyan & Zisserman 2015, arXiv:1409.1556) with small dense layers.

`vgg16` is report 001's network: the convolutions of VGG-16, with the names and shapes of Keras'
applications.VGG16(include_top=False), then new dense layers. pretrained.py loads weights trained on
ImageNet. All parameters of the convolutions lie below 'base', so optimizer.freeze=('^base/',)
freezes them. The report has no dropout and no regulariser. Keras counts 14,714,688 parameters in
the base, and 18,910,017 with a hidden layer of 512 units and a single logit at 150×150 pixels.

`vgg19_cifar` stands for report 003's "VGG-19 architecture [...] with some modifications in the
depth of the model to be suitable for CIFAR-10". The report says no more than this: the loss spiked
and the accuracy fell (the report blames vanishing gradients), a step schedule helped, and the test
accuracy reached 70 %. Chosen here: the paper's 16 convolutions, unchanged and without batch norm;
its two hidden dense layers with dropout 0.5, with 512 units instead of 4,096, because at 32×32
pixels they see a single position of 512 channels; He's normal initialisation, as in the report's
other network; no regulariser. This network has 20,554,826 parameters at 10 classes.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import layers, register
from models.convolution import Conv

VGG16_STAGES = (2, 2, 3, 3, 3)
VGG19_STAGES = (2, 2, 4, 4, 4)
_GLOROT_UNIFORM = nn.initializers.glorot_uniform()
_HE_NORMAL = nn.initializers.he_normal()


class VGGBase(nn.Module):
  """Stages of 3×3 convolutions with ReLU, each stage followed by pooling.

  Attributes:
    stages: number of convolutions of each stage.
    widths: channels of each stage.
  """

  stages: Sequence[int]
  widths: Sequence[int] = (64, 128, 256, 512, 512)
  kernel_init: nn.initializers.Initializer = _GLOROT_UNIFORM
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Return features [batch, h // 2**stages, w // 2**stages, widths[-1]] of [batch, h, w, c]."""
    layers.check_halvings(images, len(self.stages), "model.name", "use larger images")
    x = images.astype(self.dtype)
    for stage, (count, width) in enumerate(zip(self.stages, self.widths, strict=True), start=1):
      for index in range(1, count + 1):
        name = f"block{stage}_conv{index}"
        conv = Conv(width, (3, 3), kernel_init=self.kernel_init, dtype=self.dtype, name=name)
        x = conv(x)
        x = nn.relu(x) if index < count else layers.relu_max_pool(x)
    return x


class VGG(nn.Module):
  """A VGGBase named 'base', hidden dense layers with ReLU and dropout, and the logits.

  Attributes:
    stages, widths, kernel_init: as in VGGBase; the dense layers use `kernel_init` too.
    dense: units of each hidden dense layer.
    dropout: rate after each of them.
    single_logit: a head of one unit, for two classes; see layers.dense_logits.
    from_features: the argument `images` holds the base's output, and the network has no base:
      model.clone(from_features=True) trains the dense layers on precomputed features.
    sync_bn: has no effect, because the network has no batch norm.
  """

  num_classes: int
  stages: Sequence[int]
  widths: Sequence[int] = (64, 128, 256, 512, 512)
  dense: Sequence[int] = (512,)
  dropout: float = 0.0
  kernel_init: nn.initializers.Initializer = _GLOROT_UNIFORM
  single_logit: bool = False
  from_features: bool = False
  dtype: jax.typing.DTypeLike = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    x = images.astype(self.dtype)
    if not self.from_features:
      x = VGGBase(self.stages, self.widths, self.kernel_init, self.dtype, name="base")(x)
    x = x.reshape(x.shape[0], -1)
    for index, units in enumerate(self.dense, start=1):
      dense = layers.Dense(
        units, kernel_init=self.kernel_init, dtype=self.dtype, name=f"dense{index}"
      )
      x = nn.relu(dense(x))
      x = layers.Dropout(self.dropout, deterministic=not train, axis_name=self.axis_name)(x)
    return layers.dense_logits(x, self.num_classes, self.kernel_init, self.single_logit)


@register("vgg16")
def vgg16(dense: Sequence[int] = (512,), single_logit: bool = False, **common: Any) -> VGG:
  """Return report 001's network, for images of at least 32×32 pixels."""
  return VGG(stages=VGG16_STAGES, dense=dense, single_logit=single_logit, **common)


@register("vgg19_cifar")
def vgg19_cifar(dropout: float = 0.5, **common: Any) -> VGG:
  """Return report 003's first network. Raise UserError for a rate outside [0, 1)."""
  layers.check_rate("dropout", dropout)
  return VGG(
    stages=VGG19_STAGES, dense=(512, 512), dropout=dropout, kernel_init=_HE_NORMAL, **common
  )
