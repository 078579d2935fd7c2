"""Read weights of torchvision's and timm's ResNets into Flax variables.

Names such as layer1.0.conv1.weight become params/stage1_block1/conv1/kernel. Kernels change their
axes from [out, in, height, width] to [height, width, in, out]. The networks of models/resnet.py pad
and stride as PyTorch's do, so the logits agree; tests/models/test_torch_resnet.py checks it.

ImageNet weights have a 7×7 stem with pooling (model.stem='imagenet'). Weights trained on CIFAR
usually have a 3×3 stem without pooling (model.stem='cifar', the default). Both expect images that
are normalised with the mean and deviation of their training images: for ImageNet (0.485, 0.456,
0.406) and (0.229, 0.224, 0.225).
"""

import re
from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from cifar_jax.errors import UserError
from cifar_jax.types import Variables

_NORM = {
  "weight": ("params", "scale"),
  "bias": ("params", "bias"),
  "running_mean": ("batch_stats", "mean"),
  "running_var": ("batch_stats", "var"),
}
_LAYER = re.compile(r"(?:layer(\d+)\.(\d+)\.)?(conv|bn|downsample\.)(\d)\.(\w+)")


def is_resnet(arrays: Mapping[str, np.ndarray]) -> bool:
  """Return whether arrays have the names of a ResNet in PyTorch."""
  return "layer1.0.conv1.weight" in arrays


def convert(arrays: Mapping[str, np.ndarray], source: str) -> Variables:
  """Return {'params': …, 'batch_stats': …}, float32.

  Args:
    arrays: every array by its name in PyTorch, such as layer1.0.conv1.weight.
    source: the origin of the arrays, for error messages.

  Raises:
    UserError: an array belongs to no ResNet of models/resnet.py.
  """
  flat = {}
  for name, array in arrays.items():
    if name.endswith(".num_batches_tracked"):
      continue
    path = _find_path(name, array)
    if path is None:
      raise UserError(
        f"model.pretrained: {source}: {name} {array.shape} has no counterpart in a ResNet of "
        "models/resnet.py; name weights of resnet18, resnet34, resnet50, resnet101 or resnet152"
      )
    axes = (2, 3, 1, 0) if array.ndim == 4 else tuple(reversed(range(array.ndim)))
    flat[path] = np.ascontiguousarray(array.transpose(axes), np.float32)
  return traverse_util.unflatten_dict(flat)


def _find_path(name: str, array: np.ndarray) -> tuple[str, ...] | None:
  """Return the path of an array in the Flax variables; None if it has no place there."""
  if name == "fc.weight" and array.ndim == 2:
    return "params", "head", "kernel"
  if name == "fc.bias":
    return "params", "head", "bias"
  match = _LAYER.fullmatch(name)
  if match is None:
    return None
  stage, block, kind, number, leaf = match.groups()
  is_norm = kind == "bn" or (kind == "downsample." and number == "1")
  if (array.ndim != 1 or leaf not in _NORM) if is_norm else (array.ndim != 4 or leaf != "weight"):
    return None
  collection, leaf = _NORM[leaf] if is_norm else ("params", "kernel")
  layer = "norm" if is_norm else "conv"
  if kind == "downsample.":
    return collection, f"stage{stage}_block{int(block) + 1}", f"shortcut_{layer}", leaf
  if stage is None:
    return collection, f"stem_{layer}", leaf
  return collection, f"stage{stage}_block{int(block) + 1}", f"{layer}{number}", leaf
