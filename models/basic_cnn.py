"""Report 001's convolutional networks, with Keras' initialisers and batch norm.

A stage is a 3×3 convolution, ReLU, 2×2 pooling and batch norm, in this order. `basic_cnn` is three
stages and dense layers. Its defaults are the network for CIFAR-10 (task 2). The network for photos
of 150×150 pixels (task 1) has dense=(512,), widths of 32 or 64, and single_logit=True.
`inception_cnn` and `residual_cnn` are the other two networks of task 2. No network has dropout or a
regulariser.

The report does not state everything. Chosen here:

- Kernel size: 3×3, as printed for the residual network.
- Padding of the convolutions: an argument. The report prints 'same' wherever it uses it, in the
  residual network and inside the inception block. It prints nothing for the stages of the other two
  networks, so there Keras' default, 'valid', is the likelier. The configs have 'valid' there; with
  it a run comes close to the report's figures (report001_basic_cnn_128).
- Widths inside the inception block: the stage's, for all six convolutions. The report takes the
  hidden layer sizes from its grid search, which chose 256, and names no other size.
- Learning rate of the inception and residual networks: that of the basic CNN, 1e-5.
- Pooling of the inception block: stride 1 and padding 'same'. Otherwise the four parts have
  different sizes and cannot be concatenated.

The report's listing of the residual network lost its underscores and parts of some lines. This
reading agrees with the text ("two residual blocks"), and every shape fits:
`in1 -> out1 = norm(pool(relu(conv(in1))))`, `in2 = out1 + conv1x1(in1, stride 2)`, and the same
from in2 to in3. In the damaged listing, `residual_2 = input_` has no strided convolution, but such
an input cannot be added to an output of half its size. The legible part of another line contradicts
this reading: the second pooling takes `output___1`, not `output___2`, which drops the second
convolution from the network. `residual_cnn_as_printed` follows that line, but has the strided
convolution.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import max_pool  # by name: jax2onnx replaces nn.max_pool, with fewer arguments

from cifar_jax import registry
from cifar_jax.errors import UserError
from models import layers, register
from models.convolution import Conv


class Inception(nn.Module):
  """Four concatenated paths: 1×1; 1×1 and 3×3; 1×1 and 5×5; pooling and 1×1. ReLU follows each.

  Attributes:
    width: channels of each convolution; the block returns four times as many.
  """

  width: int
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    glorot = nn.initializers.glorot_uniform()

    def conv(x: jax.Array, size: int, name: str) -> jax.Array:
      layer = Conv(self.width, (size, size), kernel_init=glorot, dtype=self.dtype, name=name)
      return nn.relu(layer(x))

    parts = [
      conv(x, 1, "conv1x1"),
      conv(conv(x, 1, "conv3x3_reduce"), 3, "conv3x3"),
      conv(conv(x, 1, "conv5x5_reduce"), 5, "conv5x5"),
      conv(max_pool(x, (2, 2), padding="SAME"), 1, "conv_pool"),
    ]
    return jnp.concatenate(parts, axis=-1)


class BasicCNN(nn.Module):
  """Stages of 3×3 convolution, ReLU, pooling and batch norm; then dense layers.

  Attributes:
    widths: channels of each stage.
    dense: units of each hidden dense layer.
    single_logit: a head of one unit, for two classes; see layers.dense_logits.
    padding: of the 3×3 convolutions: 'same', or 'valid' for none.
    kind: 'plain'; 'inception' has an inception block after the second stage; 'residual' has a
      strided 1×1 convolution around each stage but the last; 'residual_as_printed' is 'residual'
      without the second stage's convolution.
  """

  num_classes: int
  widths: Sequence[int]
  dense: Sequence[int] = ()
  single_logit: bool = False
  padding: str = "same"
  kind: str = "plain"
  dtype: jax.typing.DTypeLike = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    glorot = nn.initializers.glorot_uniform()
    conv = functools.partial(Conv, kernel_init=glorot, dtype=self.dtype)
    norm = layers.batch_norm(train, self.dtype, self.axis_name if self.sync_bn else None)
    is_residual = self.kind.startswith("residual")

    remedy = "give fewer widths or larger images"
    layers.check_halvings(images, len(self.widths), "model.widths", remedy)
    if self.padding == "valid":
      _check_valid(images, len(self.widths))
    divisor = 2 ** (len(self.widths) - 1)
    if is_residual and (images.shape[1] % divisor or images.shape[2] % divisor):
      raise UserError(
        f"model.name: the residual blocks do not fit images of {images.shape[1]}x"
        f"{images.shape[2]} pixels; height and width must be multiples of {divisor}"
      )

    inputs = outputs = images.astype(self.dtype)  # of the next and of the last stage
    for stage, width in enumerate(self.widths, start=1):
      if self.kind == "residual_as_printed" and stage == 2:
        outputs = layers.max_pool(outputs)  # those of the first stage, without its shortcut
      else:
        conv3x3 = conv(width, (3, 3), padding=self.padding.upper(), name=f"conv{stage}")
        outputs = layers.relu_max_pool(conv3x3(inputs))
      outputs = norm(name=f"norm{stage}")(outputs)
      if self.kind == "inception" and stage == 2:
        outputs = Inception(width, self.dtype, name="inception")(outputs)
      if is_residual and stage < len(self.widths):
        shortcut = conv(width, (1, 1), strides=2, name=f"shortcut{stage}")
        inputs = outputs + shortcut(inputs)
      else:
        inputs = outputs
    x = outputs.reshape(outputs.shape[0], -1)
    for index, units in enumerate(self.dense, start=1):
      dense = layers.Dense(units, kernel_init=glorot, dtype=self.dtype, name=f"dense{index}")
      x = nn.relu(dense(x))
    return layers.dense_logits(x, self.num_classes, glorot, self.single_logit)


def _check_valid(images: jax.Array, stages: int) -> None:
  """Raise UserError if `stages` stages without padding leave nothing of images [batch, h, w, …]."""
  height, width = images.shape[1:3]
  side = min(height, width)
  for _ in range(stages):
    side = (side - 2) // 2
  if side < 1:
    raise UserError(
      f"model.padding: {stages} stages without padding leave nothing of an image of "
      f"{height}x{width} pixels; set it to 'same', or give fewer widths or larger images"
    )


@register("basic_cnn")
def basic_cnn(
  widths: Sequence[int] = (256, 256, 256),
  dense: Sequence[int] = (),
  single_logit: bool = False,
  padding: str = "same",
  **common: Any,
) -> BasicCNN:
  """Return report 001's basic network; the defaults are those of task 2.

  Raises:
    UserError: the padding is neither 'same' nor 'valid'.
  """
  _check_padding(padding, "same", "valid")
  return BasicCNN(widths=widths, dense=dense, single_logit=single_logit, padding=padding, **common)


@register("inception_cnn", kind="inception")
@register("residual_cnn", kind="residual")
@register("residual_cnn_as_printed", kind="residual_as_printed")
def cnn_with_blocks(
  kind: str, widths: Sequence[int] = (256, 256, 256), padding: str = "same", **common: Any
) -> BasicCNN:
  """Return report 001's network of task 2 with an inception block or with residual blocks.

  Raises:
    UserError: there are fewer than two widths; or the first two differ in
      `residual_cnn_as_printed`, whose second stage keeps the channels of the first; or the padding
      is 'valid' in a residual network, whose shortcuts fit outputs of 'same' only.
  """
  _check_padding(padding, "same", *(["valid"] if kind == "inception" else []))
  if len(widths) < 2:
    raise UserError(f"model.widths: {tuple(widths)} is a single stage; give at least two widths")
  if kind == "residual_as_printed" and widths[0] != widths[1]:
    raise UserError(
      f"model.widths: {tuple(widths)} begins with two different widths; give equal ones"
    )
  return BasicCNN(kind=kind, widths=widths, padding=padding, **common)


def _check_padding(padding: str, *known: str) -> None:
  if padding not in known:
    raise registry.unknown("model.padding", "padding", padding, known)
