"""Networks in LeNet's style: stages of two convolutions and pooling, then one dense layer.

`lenet2` is report 002's models 1 and 2, `lenet3` its model 3. `two_block_cnn` is report 004's
models a and b, `two_block_cnn_bn` its model c. Initialisers and batch norm are Keras' defaults.

Parameters at 32×32 pixels and 10 classes, as the reports print them: lenet2 2,233,898; lenet3
1,668,906; two_block_cnn 2,168,362. Report 004 prints no number for model c. Keras counts 2,170,474,
of which 1,408 are moving statistics.

Report 002 regularises the kernels of all convolutions, but not those of the dense layers:
loss.l2=(('conv.*kernel$', 1e-4),), with 5e-4 for its final model. Report 004 has no regulariser.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.errors import UserError
from models import layers, register
from models.convolution import Conv


class LeNet(nn.Module):
  """Stages of two convolutions with ReLU, pooling and dropout; then a dense layer and dropout.

  Attributes:
    widths: channels of each stage.
    second_sizes: kernel size of each stage's second convolution; that of the first is 3.
    conv_dropout: rate after each pooling.
    dense_dropout: rate after the hidden dense layer.
    batch_norm: put batch norm before each ReLU; the layer before a batch norm has no bias.
    dense: units of the hidden dense layer.
    linear_convs: numbers, counted from 1, of the convolutions that no ReLU follows; only without
      batch norm.
  """

  num_classes: int
  widths: Sequence[int]
  second_sizes: Sequence[int]
  conv_dropout: float
  dense_dropout: float
  batch_norm: bool = False
  dense: int = 512
  linear_convs: Sequence[int] = ()
  dtype: jax.typing.DTypeLike = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    glorot = nn.initializers.glorot_uniform()
    norm = layers.batch_norm(train, self.dtype, self.axis_name if self.sync_bn else None)
    dropout = functools.partial(layers.Dropout, deterministic=not train, axis_name=self.axis_name)
    options: dict[str, Any] = {
      "kernel_init": glorot,
      "use_bias": not self.batch_norm,
      "dtype": self.dtype,
    }

    def relu(x: jax.Array, conv_number: int) -> jax.Array:
      return x if conv_number in self.linear_convs else nn.relu(x)

    layers.check_halvings(images, len(self.widths), "model.name", "use larger images")
    x = images.astype(self.dtype)
    stages = zip(self.widths, self.second_sizes, strict=True)
    for stage, (width, second_size) in enumerate(stages, start=1):
      x = Conv(width, (3, 3), **options, name=f"stage{stage}_conv1")(x)
      if self.batch_norm:
        x = norm(activation="relu", name=f"stage{stage}_norm1")(x)
      else:
        x = relu(x, 2 * stage - 1)
      x = Conv(width, (second_size,) * 2, **options, name=f"stage{stage}_conv2")(x)
      if self.batch_norm:
        x = layers.max_pool(norm(activation="relu", name=f"stage{stage}_norm2")(x))
      else:  # the cheaper order, with the same bits; see layers.relu_max_pool
        x = relu(layers.max_pool(x), 2 * stage)
      x = dropout(self.conv_dropout)(x)
    x = x.reshape(x.shape[0], -1)
    x = layers.Dense(self.dense, **options, name="dense1")(x)
    x = norm(activation="relu", name="dense1_norm")(x) if self.batch_norm else nn.relu(x)
    x = dropout(self.dense_dropout)(x)
    return layers.dense_logits(x, self.num_classes, glorot)


@register("lenet2", widths=(32, 64), second_sizes=(3, 5))
@register("lenet3", widths=(32, 64, 128), second_sizes=(3, 5, 5))
def lenet(
  widths: Sequence[int],
  second_sizes: Sequence[int],
  conv_dropout: float = 0.25,
  dense_dropout: float = 0.4,
  linear_convs: Sequence[int] = (),
  **common: Any,
) -> LeNet:
  """Return one of report 002's networks; in its runs without dropout both rates are 0.

  Raises:
    UserError: a rate is outside [0, 1), or `linear_convs` has a number without a convolution.
  """
  layers.check_rate("conv_dropout", conv_dropout)
  layers.check_rate("dense_dropout", dense_dropout)
  if not set(linear_convs) <= set(range(1, 2 * len(widths) + 1)):
    raise UserError(
      f"model.linear_convs: {tuple(linear_convs)} are not numbers of convolutions; give numbers "
      f"from 1 to {2 * len(widths)}"
    )
  return LeNet(
    widths=widths,
    second_sizes=second_sizes,
    conv_dropout=conv_dropout,
    dense_dropout=dense_dropout,
    linear_convs=tuple(linear_convs),
    **common,
  )


@register("two_block_cnn", batch_norm=False)
@register("two_block_cnn_bn", batch_norm=True)
def two_block_cnn(batch_norm: bool, dropout: float = 0.5, **common: Any) -> LeNet:
  """Return one of report 004's networks; `dropout` follows the hidden dense layer.

  Raises:
    UserError: the rate is outside [0, 1).
  """
  layers.check_rate("dropout", dropout)
  return LeNet(
    widths=(32, 64),
    second_sizes=(3, 3),
    conv_dropout=0.0,
    dense_dropout=dropout,
    batch_norm=batch_norm,
    **common,
  )
