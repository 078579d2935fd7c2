"""The five networks in PyTorch, layer for layer as in models/. Images are [b, 3, 32, 32]."""

import torch.nn.functional as F
from torch import nn


def create(name, classes):
  """Return a model for `classes` classes, with logits as output."""
  return {
    "simple_cnn": SimpleCNN,
    "resnet18": ResNet18,
    "pointwise_resnet": PointwiseResNet,
    "airbench94": Airbench94,
    "wrn28_10": WideResNet,
  }[name](classes)


def keras_norm(channels):
  """Return batch norm with Keras' defaults; PyTorch's momentum is the weight of the new batch."""
  return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def conv(inputs, outputs, size, stride=1):
  return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class SimpleCNN(nn.Module):
  def __init__(self, classes, widths=(32, 64, 128), dense=(256, 128)):
    super().__init__()
    layers, inputs = [], 3
    for width in widths:
      for _ in range(2):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), keras_norm(width)]
        inputs = width
      layers.append(nn.MaxPool2d(2))
    layers += [nn.Dropout(0.3), nn.Flatten()]
    inputs *= 4 * 4
    for units in dense:
      layers += [nn.Linear(inputs, units), nn.ReLU()]
      inputs = units
    self.layers = nn.Sequential(*layers, nn.Linear(inputs, classes))

  def forward(self, x):
    return self.layers(x)


class BasicBlock(nn.Module):
  def __init__(self, inputs, width, stride):
    super().__init__()
    self.conv1, self.norm1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
    self.conv2, self.norm2 = conv(width, width, 3), nn.BatchNorm2d(width)
    self.shortcut = nn.Identity()
    if stride > 1 or inputs != width:
      self.shortcut = nn.Sequential(conv(inputs, width, 1, stride), nn.BatchNorm2d(width))

  def forward(self, x):
    y = F.relu(self.norm1(self.conv1(x)))
    return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
  def __init__(self, classes):
    super().__init__()
    layers, inputs = [conv(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU()], 64
    for stage, width in enumerate((64, 128, 256, 512)):
      layers += [BasicBlock(inputs, width, 2 if stage else 1), BasicBlock(width, width, 1)]
      inputs = width
    self.features, self.head = nn.Sequential(*layers), nn.Linear(inputs, classes)

  def forward(self, x):
    return self.head(self.features(x).mean((2, 3)))


class PointwiseBlock(nn.Module):
  """A 1×1 convolution with the stride, then a 3×3, both with biases; the shortcut may be a 1×1."""

  def __init__(self, inputs, width, stride, projection):
    super().__init__()
    self.conv1, self.norm1 = nn.Conv2d(inputs, width, 1, stride), keras_norm(width)
    self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), keras_norm(width)
    self.shortcut = nn.Identity()
    if projection:
      self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride), keras_norm(width))

  def forward(self, x):
    y = F.relu(self.norm1(self.conv1(x)))
    return F.relu(self.shortcut(x) + self.norm2(self.conv2(y)))


class PointwiseResNet(nn.Module):
  def __init__(self, classes, blocks=3):
    super().__init__()
    layers, inputs = [nn.Conv2d(3, 64, 3, padding=1), keras_norm(64), nn.ReLU()], 64
    for stage, width in enumerate((64, 128, 256, 512)):
      for index in range(blocks):
        stride = 2 if stage and not index else 1
        layers.append(PointwiseBlock(inputs, width, stride, projection=not index))
        inputs = width
    self.features, self.head = nn.Sequential(*layers), nn.Linear(inputs, classes)

  def forward(self, x):
    return self.head(F.dropout(self.features(x).mean((2, 3)), 0.3, self.training))


class PreActBlock(nn.Module):
  """Two 3×3 convolutions, each after batch norm and ReLU; the first has the stride."""

  def __init__(self, inputs, width, stride, first):
    super().__init__()
    self.first = first
    self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
    self.norm2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
    projects = stride > 1 or inputs != width
    self.shortcut = conv(inputs, width, 1, stride) if projects else nn.Identity()

  def forward(self, x):
    y = F.relu(self.norm1(x))
    shortcut = self.shortcut(y if self.first else x)
    return shortcut + self.conv2(F.relu(self.norm2(self.conv1(y))))


class WideResNet(nn.Module):
  """WRN-28-10."""

  def __init__(self, classes, blocks=4, width=10):
    super().__init__()
    layers, inputs = [conv(3, 16, 3)], 16
    for stage, outputs in enumerate((16 * width, 32 * width, 64 * width)):
      for index in range(blocks):
        stride = 2 if stage and not index else 1
        layers.append(PreActBlock(inputs, outputs, stride, first=not index))
        inputs = outputs
    layers += [nn.BatchNorm2d(inputs), nn.ReLU()]
    self.features, self.head = nn.Sequential(*layers), nn.Linear(inputs, classes)

  def forward(self, x):
    return self.head(self.features(x).mean((2, 3)))


def bias_norm(channels):
  """Return batch norm without a scale."""
  norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
  norm.weight.requires_grad = False
  return norm


class Airbench94(nn.Module):
  """A 2×2 convolution, three groups of two 3×3 convolutions, and logits × 1/9."""

  def __init__(self, classes, widths=(64, 256, 256)):
    super().__init__()
    layers, inputs = [nn.Conv2d(3, 24, 2), nn.GELU()], 24
    for width in widths:
      layers += [conv(inputs, width, 3), nn.MaxPool2d(2), bias_norm(width), nn.GELU()]
      layers += [conv(width, width, 3), bias_norm(width), nn.GELU()]
      inputs = width
    layers += [nn.MaxPool2d(3), nn.Flatten(), nn.Linear(inputs, classes, bias=False)]
    self.layers = nn.Sequential(*layers)

  def forward(self, x):
    return self.layers(x) / 9
