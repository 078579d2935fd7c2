"""The five networks in Keras, layer for layer as in models/. Images are [b, 32, 32, 3]."""

import functools

from keras import Model, layers

RELU = functools.partial(layers.Activation, "relu")
# resnet18 and wrn28_10 have PyTorch's defaults, the two others Keras'.
torch_norm = functools.partial(layers.BatchNormalization, momentum=0.9, epsilon=1e-5)


def create(name, classes):
  """Return a model for `classes` classes, with logits as output."""
  image = layers.Input((32, 32, 3))
  x = {
    "simple_cnn": simple_cnn,
    "resnet18": resnet18,
    "pointwise_resnet": pointwise_resnet,
    "airbench94": airbench94,
    "wrn28_10": wide_resnet,
  }[name](image)
  head = layers.Dense(classes, use_bias=name != "airbench94", dtype="float32")
  return Model(image, head(x))


def simple_cnn(x, widths=(32, 64, 128), dense=(256, 128)):
  for width in widths:
    for _ in range(2):
      x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
      x = layers.BatchNormalization()(x)
    x = layers.MaxPooling2D()(x)
  x = layers.Flatten()(layers.Dropout(0.3)(x))
  for units in dense:
    x = layers.Dense(units, activation="relu")(x)
  return x


def conv(x, width, size, stride=1):
  """Convolve without bias, with equal padding on all sides (unlike 'same' at stride 2)."""
  if stride > 1 and size > 1:
    x = layers.ZeroPadding2D(size // 2)(x)
    return layers.Conv2D(width, size, stride, use_bias=False)(x)
  return layers.Conv2D(width, size, stride, padding="same", use_bias=False)(x)


def resnet18(x):
  x = RELU()(torch_norm()(conv(x, 64, 3)))
  for stage, width in enumerate((64, 128, 256, 512)):
    for index in range(2):
      stride = 2 if stage and not index else 1
      y = RELU()(torch_norm()(conv(x, width, 3, stride)))
      y = torch_norm()(conv(y, width, 3))
      if stride > 1:
        x = torch_norm()(conv(x, width, 1, stride))
      x = RELU()(layers.Add()([x, y]))
  return layers.GlobalAveragePooling2D(dtype="float32")(x)


def pointwise_resnet(x, blocks=3):
  x = RELU()(layers.BatchNormalization()(layers.Conv2D(64, 3, padding="same")(x)))
  for stage, width in enumerate((64, 128, 256, 512)):
    for index in range(blocks):
      stride = 2 if stage and not index else 1
      y = RELU()(layers.BatchNormalization()(layers.Conv2D(width, 1, stride)(x)))
      y = layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same")(y))
      if not index:
        x = layers.BatchNormalization()(layers.Conv2D(width, 1, stride)(x))
      x = RELU()(layers.Add()([x, y]))
  return layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))


def wide_resnet(x, blocks=4, width=10):
  x = conv(x, 16, 3)
  for stage, outputs in enumerate((16 * width, 32 * width, 64 * width)):
    for index in range(blocks):
      stride = 2 if stage and not index else 1
      y = RELU()(torch_norm()(x))
      if not index:
        x = conv(y, outputs, 1, stride)
      y = RELU()(torch_norm()(conv(y, outputs, 3, stride)))
      x = layers.Add()([x, conv(y, outputs, 3)])
  x = RELU()(torch_norm()(x))
  return layers.GlobalAveragePooling2D(dtype="float32")(x)


def airbench94(x, widths=(64, 256, 256)):
  gelu = functools.partial(layers.Activation, "gelu")
  norm = functools.partial(layers.BatchNormalization, momentum=0.6, epsilon=1e-12, scale=False)
  x = gelu()(layers.Conv2D(24, 2)(x))
  for width in widths:
    x = gelu()(norm()(layers.MaxPooling2D()(conv(x, width, 3))))
    x = gelu()(norm()(conv(x, width, 3)))
  return layers.Rescaling(1 / 9)(layers.Flatten()(layers.MaxPooling2D(3)(x)))
