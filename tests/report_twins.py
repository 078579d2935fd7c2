"""The reports' networks built from Keras layers, as their listings have them.

A layer has the name of the Flax module, with '.' for the nesting. Every function takes the side of
an image in pixels. The networks return logits, where those of the reports end in a softmax or a
sigmoid. `mark` replaces dropout: it is not random, so a test can compare its places and rates too.
"""

import functools

import flax.linen as nn
import keras
import numpy as np
from keras import layers


def mark(x, rate, spatial):
  """Multiply all values by factors that depend on their place (spatial: on their channel)."""
  shape = x.shape[-1:] if spatial else x.shape[1:]
  places = np.arange(np.prod(shape)).reshape(shape)
  return x * (1 + rate * np.cos(places)).astype(np.float32)


class FlaxMark(nn.Module):
  """Stands in for models.layers.Dropout."""

  rate: float
  broadcast_dims: tuple = ()
  deterministic: bool = False
  axis_name: str | None = None

  def __call__(self, x):
    assert self.broadcast_dims in ((), (1, 2))
    return x if self.deterministic else mark(x, self.rate, bool(self.broadcast_dims))


class Dropout(layers.Layer):
  """Stands in for keras.layers.Dropout and SpatialDropout2D."""

  def __init__(self, rate, spatial=False):
    super().__init__()
    self.rate, self.spatial = rate, spatial

  def call(self, x, training=False):
    return mark(x, self.rate, self.spatial) if training else x


class SparseGate(layers.Layer):
  """ε-ResNet's four ReLUs, for each example: 0 if all responses lie within ±epsilon, else 1."""

  def __init__(self, epsilon):
    super().__init__()
    self.epsilon = epsilon

  def call(self, x):
    large, relu = 1e6, keras.ops.relu
    beyond = relu(x - self.epsilon) + relu(-x - self.epsilon)
    largest = keras.ops.max(beyond, axis=(1, 2, 3), keepdims=True)
    return x * relu(1 - large * relu(1 - large * largest))


# Tests copy weights into these layers. Drawing random ones takes seconds.
Conv2D = functools.partial(layers.Conv2D, kernel_initializer="zeros", padding="same")
Dense = functools.partial(layers.Dense, kernel_initializer="zeros")
BatchNormalization = layers.BatchNormalization
MaxPooling2D = functools.partial(layers.MaxPooling2D, (2, 2))


def l2(coefficient):
  return keras.regularizers.L2(coefficient)


def pointwise_resnet(side, widths=(64, 128, 256, 512), blocks=3, dropout=0.3):
  """Build the network of report 000, figures 16 to 18."""
  conv = functools.partial(Conv2D, kernel_regularizer=l2(5e-4))

  def norm(name):
    return BatchNormalization(axis=3, name=name)

  relu = layers.Activation("relu")
  inputs = keras.Input((side, side, 3))
  x = relu(norm("stem_norm")(conv(widths[0], (3, 3), name="stem_conv")(inputs)))
  for stage, width in enumerate(widths, start=1):
    for index in range(1, blocks + 1):
      name = f"stage{stage}_block{index}."
      stride = 2 if stage > 1 and index == 1 else 1
      shortcut = x
      x = conv(width, (1, 1), strides=stride, padding="valid", name=name + "conv1")(x)
      x = relu(norm(name + "norm1")(x))
      x = norm(name + "norm2")(conv(width, (3, 3), name=name + "conv2")(x))
      if index == 1:
        projection = conv(
          width, (1, 1), strides=stride, padding="valid", name=name + "shortcut_conv"
        )
        shortcut = norm(name + "shortcut_norm")(projection(shortcut))
      x = relu(layers.Add()([x, shortcut]))
  x = Dropout(dropout)(layers.GlobalAveragePooling2D()(x))
  return keras.Model(inputs, Dense(10, kernel_regularizer=l2(5e-4), name="head")(x))


def _conv_pool_norm(x, width, stage, padding="same"):
  x = Conv2D(width, (3, 3), activation="relu", padding=padding, name=f"conv{stage}")(x)
  return BatchNormalization(name=f"norm{stage}")(MaxPooling2D()(x))


def basic_cnn(side, widths=(256, 256, 256), dense=(), units=10, inception=False, padding="same"):
  """Build report 001's network of both tasks, if asked with the inception block of task 2."""
  inputs = x = keras.Input((side, side, 3))
  for stage, width in enumerate(widths, start=1):
    x = _conv_pool_norm(x, width, stage, padding)
    if inception and stage == 2:
      conv = functools.partial(Conv2D, width, activation="relu")
      a = conv((1, 1), name="inception.conv1x1")(x)
      b = conv((3, 3), name="inception.conv3x3")(conv((1, 1), name="inception.conv3x3_reduce")(x))
      c = conv((5, 5), name="inception.conv5x5")(conv((1, 1), name="inception.conv5x5_reduce")(x))
      pooled = MaxPooling2D(strides=1, padding="same")(x)
      d = conv((1, 1), name="inception.conv_pool")(pooled)
      x = layers.Concatenate()([a, b, c, d])
  x = layers.Flatten()(x)
  for index, hidden in enumerate(dense, start=1):
    x = Dense(hidden, activation="relu", name=f"dense{index}")(x)
  return keras.Model(inputs, Dense(units, name="head")(x))


def residual_cnn(side, widths=(256, 256, 256), as_printed=False):
  """Build report 001's network of task 2, line by line."""
  input_1 = keras.Input((side, side, 3))
  output_1 = _conv_pool_norm(input_1, widths[0], 1)
  residual_1 = Conv2D(widths[0], 1, strides=2, name="shortcut1")(input_1)
  input_2 = layers.add([residual_1, output_1])
  if as_printed:
    output_2 = BatchNormalization(name="norm2")(MaxPooling2D()(output_1))
  else:
    output_2 = _conv_pool_norm(input_2, widths[1], 2)
  residual_2 = Conv2D(widths[1], 1, strides=2, name="shortcut2")(input_2)
  input_3 = layers.add([residual_2, output_2])
  output_3 = _conv_pool_norm(input_3, widths[2], 3)
  return keras.Model(input_1, Dense(10, name="head")(layers.Flatten()(output_3)))


def vgg(side, stages, widths=(64, 128, 256, 512, 512), dense=(512,), units=10, dropout=0.0):
  """Build VGG16 (or VGG19) of keras.applications without its top, and dense layers."""
  inputs = x = keras.Input((side, side, 3))
  for stage, (count, width) in enumerate(zip(stages, widths, strict=True), start=1):
    for index in range(1, count + 1):
      x = Conv2D(width, (3, 3), activation="relu", name=f"base.block{stage}_conv{index}")(x)
    x = MaxPooling2D()(x)
  x = layers.Flatten()(x)
  for index, hidden in enumerate(dense, start=1):
    x = Dropout(dropout)(Dense(hidden, activation="relu", name=f"dense{index}")(x))
  return keras.Model(inputs, Dense(units, name="head")(x))


def lenet(side, widths=(32, 64), dense=512, conv_dropout=0.25, dense_dropout=0.4, linear=()):
  """Build report 002's models; no ReLU follows the convolutions with the numbers `linear`."""
  conv = functools.partial(Conv2D, kernel_regularizer=l2(1e-4))
  net = [keras.Input((side, side, 3))]
  for stage, width in enumerate(widths, start=1):
    for index, size in ((1, 3), (2, 3 if stage == 1 else 5)):
      net.append(conv(width, (size, size), name=f"stage{stage}_conv{index}"))
      if 2 * (stage - 1) + index not in linear:
        net.append(layers.Activation("relu"))
    net += [MaxPooling2D(), Dropout(conv_dropout)]
  net += [layers.Flatten(), Dense(dense, name="dense1"), layers.Activation("relu")]
  return keras.Sequential([*net, Dropout(dense_dropout), Dense(10, name="head")])


def two_block_cnn(side, widths=(32, 64), dense=512, batch_norm=False):
  """Build report 004's models."""
  net = [keras.Input((side, side, 3))]

  def add(layer, norm_name):
    net.append(layer)
    if batch_norm:
      net.append(BatchNormalization(name=norm_name))
    net.append(layers.Activation("relu"))

  for stage, width in enumerate(widths, start=1):
    for index in (1, 2):
      conv = Conv2D(width, (3, 3), use_bias=not batch_norm, name=f"stage{stage}_conv{index}")
      add(conv, f"stage{stage}_norm{index}")
    net.append(MaxPooling2D())
  net.append(layers.Flatten())
  add(Dense(dense, use_bias=not batch_norm, name="dense1"), "dense1_norm")
  return keras.Sequential([*net, Dropout(0.5), Dense(10, name="head")])


def _norm_elu(x, name):
  return layers.Activation("elu")(BatchNormalization(axis=3, momentum=0.9, name=name)(x))


class EluBlocks:
  """Report 003's blocks; with its BOTTLENECK corrected, and the two other kinds of block."""

  def __init__(self, bottleneck, block, epsilon, spatial_dropout):
    self.bottleneck, self.block, self.epsilon = bottleneck, block, epsilon
    self.spatial_dropout = spatial_dropout

  def features(self, width):
    return 4 * width if self.bottleneck else width

  def basic_blk(self, x, name, width, stride):
    sizes = (1, 3, 1) if self.bottleneck else (3, 3)
    x = _norm_elu(x, name + "norm1")
    x = Conv2D(width, sizes[0], kernel_regularizer=l2(1e-4), strides=stride, name=name + "conv1")(x)
    x = _norm_elu(x, name + "norm2")
    x = Conv2D(width, sizes[1], kernel_regularizer=l2(1e-4), name=name + "conv2")(x)
    if self.bottleneck:
      x = _norm_elu(x, name + "norm3")
      features = self.features(width)
      x = Conv2D(features, sizes[2], kernel_regularizer=l2(1e-5), name=name + "conv3")(x)
    return SparseGate(self.epsilon)(x) if self.block == "sparse" else x

  def conv_blk(self, x, name, width, stride):
    shortcut = _norm_elu(x, name + "shortcut_norm")
    projection = Conv2D(
      self.features(width),
      (1, 1),
      kernel_regularizer=l2(1e-5),
      strides=stride,
      name=name + "shortcut_conv",
    )
    return layers.Add()([self.basic_blk(x, name, width, stride), projection(shortcut)])

  def ident_blk(self, x, name, width):
    shortcut = x
    x = self.basic_blk(Dropout(0.5)(x), name, width, 1)
    if self.block == "highway":
      gate = Conv2D(
        self.features(width),
        3,
        activation="sigmoid",
        kernel_regularizer=l2(1e-4),
        name=name + "gate_conv",
      )(shortcut)
      carry = layers.Multiply()([1 - gate, shortcut])
      x = layers.Add()([layers.Multiply()([gate, x]), carry])
    else:
      x = layers.Add()([x, shortcut])
    return Dropout(self.spatial_dropout, spatial=True)(x)


def elu_resnet(
  side,
  stages=(2, 2, 2, 2),
  width=64,
  bottleneck=False,
  block="residual",
  epsilon=2.5,
  spatial_dropout=0.5,
  classes=10,
):
  """Build the network of report 003's resnet.py from EluBlocks."""
  blocks = EluBlocks(bottleneck, block, epsilon, spatial_dropout)
  inputs = keras.Input((side, side, 3))
  stem = Conv2D(width, 3, kernel_regularizer=l2(1e-5), strides=2, name="stem_conv")
  x = _norm_elu(stem(inputs), "stem_norm")
  for stage, count in enumerate(stages, start=1):
    stage_width = width * 2 ** (stage - 1)
    for index in range(1, count + 1):
      name = f"stage{stage}_block{index}."
      if index == 1:
        x = blocks.conv_blk(x, name, stage_width, stride=1 if stage == 1 else 2)
      else:
        x = blocks.ident_blk(x, name, stage_width)
  x = layers.Flatten()(layers.AveragePooling2D((2, 2), padding="same")(x))
  return keras.Model(inputs, Dense(classes, name="head")(Dropout(0.5)(x)))
