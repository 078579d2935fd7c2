"""VGG-16's convolutions trained on ImageNet, from files of other libraries to Flax parameters.

Two families of weights, which expect images (RGB, [batch, height, width, 3]) prepared differently:

- torchvision's, in a safetensors file (timm/vgg16.tv_in1k): pixels / 255, then for each channel
  minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225).
- Keras' (the first authors', from Caffe), in an .h5 file: pixels from 0 to 255, channels in the
  order BGR, minus (103.939, 116.779, 123.68).

Report 001 took Keras' weights and gave them neither: pixels / 255 in RGB, which is
config.data.normalize='unit'. Nothing is converted here, so that a reproduction does as it did.

Files are read as arrays; pickles (.pth, .bin) are never loaded. Both file formats' libraries are
imported when one is read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cifar_jax.errors import UserError
from models import vgg

Weights = dict[str, dict[str, np.ndarray]]

_REPOSITORY = "timm/vgg16.tv_in1k"
_REVISION = "3394518cba29aee1ea82a49d971be90d2dd1dab7"
_FILE = "model.safetensors"
_REMEDY = (
  f"give a path to a safetensors file in torchvision's naming (such as {_FILE} of {_REPOSITORY}) "
  "or to Keras' vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
_LAYERS = [
  f"block{stage}_conv{index}"
  for stage, count in enumerate(vgg.VGG16_STAGES, start=1)
  for index in range(1, count + 1)
]


def load_vgg16(source: str | Path) -> Weights:
  """Reads the weights of VGG-16's 13 convolutions.

  Args:
    source: a .safetensors file with torchvision's names (features.0.weight, …, as [out, in, height,
      width]), an .h5 file of Keras (weights alone or a whole model, of Keras 1 to 3, with or
      without the dense layers), or 'timm': the file of timm/vgg16.tv_in1k on the Hugging Face hub,
      downloaded once and then taken from the hub's own cache.

  Returns:
    {'block1_conv1': {'kernel': [3, 3, in, out], 'bias': [out]}, …}, float32.

  Raises:
    UserError: the file cannot be had or read, or lacks some of the weights.
  """
  path = _download() if str(source) == "timm" else Path(source).expanduser()
  if not path.is_file():
    raise UserError(f"model.pretrained: {path}: no such file; {_REMEDY}")
  readers = {".safetensors": _read_safetensors, ".h5": _read_keras, ".hdf5": _read_keras}
  if path.suffix not in readers:
    raise UserError(
      f"model.pretrained: {path}: neither .safetensors nor .h5 (pickles are not loaded); {_REMEDY}"
    )
  try:
    found = readers[path.suffix](path)
  except UserError:
    raise
  except Exception as error:  # each library has its own exceptions for a file that is broken
    raise UserError(
      f"model.pretrained: {path}: cannot be read: {_one_line(error)}; {_REMEDY}"
    ) from error
  return {
    layer: {name: np.asarray(value, np.float32) for name, value in found[layer].items()}
    for layer in _LAYERS
  }


def apply_to(params: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
  """`params` with `weights` as its 'base', in the dtypes it had; nothing is changed in place.

  Raises:
    UserError: `params` has no 'base', or one with other layers or shapes.
  """
  if "base" not in params:
    raise UserError(
      "model.pretrained: the model has no convolutional base to load into; take model.name='vgg16'"
    )
  base = params["base"]
  if set(base) != set(weights):
    names = ", ".join(sorted(set(base) ^ set(weights)))
    raise UserError(f"model.pretrained: only one of the model and the weights has: {names}")
  loaded = {}
  for layer, own in base.items():
    for name, leaf in own.items():
      if weights[layer][name].shape != leaf.shape:
        raise UserError(
          f"model.pretrained: {layer}/{name} has the shape {weights[layer][name].shape}, "
          f"the model's has {leaf.shape}; the weights must be VGG-16's"
        )
    loaded[layer] = {
      name: jnp.asarray(weights[layer][name], leaf.dtype) for name, leaf in own.items()
    }
  return {**params, "base": loaded}


def _download() -> Path:
  import huggingface_hub

  try:
    return Path(huggingface_hub.hf_hub_download(_REPOSITORY, _FILE, revision=_REVISION))
  except Exception as error:  # whatever the HTTP library beneath raises, and it has changed before
    raise UserError(
      f"model.pretrained: {_FILE} of {_REPOSITORY} cannot be downloaded ({_one_line(error)}); "
      f"go online, or {_REMEDY}"
    ) from error


def _one_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read_safetensors(path: Path) -> Weights:
  from safetensors import safe_open

  # In torchvision's Sequential every convolution has a ReLU after it and every stage a pooling.
  places, place = [], 0
  for count in vgg.VGG16_STAGES:
    places += range(place, place + 2 * count, 2)
    place += 2 * count + 1
  names = {
    layer: {"kernel": f"features.{place}.weight", "bias": f"features.{place}.bias"}
    for layer, place in zip(_LAYERS, places, strict=True)
  }
  with safe_open(path, framework="numpy") as file:
    missing = sorted({n for own in names.values() for n in own.values()} - set(file.keys()))
    if missing:
      raise UserError(f"model.pretrained: {path}: has no {', '.join(missing)}; {_REMEDY}")
    weights = {
      layer: {kind: file.get_tensor(name) for kind, name in own.items()}
      for layer, own in names.items()
    }
  for own in weights.values():
    own["kernel"] = own["kernel"].transpose(2, 3, 1, 0)
  return weights


def _read_keras(path: Path) -> Weights:
  """Finds the convolutions in an HDF5 file of any version of Keras.

  Up to Keras 2, and in whole models, some group on the way to an array has the layer's name. Keras
  3's .weights.h5 files have class names instead, numbered in order: conv2d, conv2d_1, … Either way
  the kernel is the array with four axes and the bias the one with one axis.
  """
  import h5py

  weights: Weights = {}

  def visit(name: str, item: Any) -> None:
    if not isinstance(item, h5py.Dataset) or item.ndim not in (1, 4):
      return
    kind = "kernel" if item.ndim == 4 else "bias"
    for part in name.split("/")[:-1]:
      numbered = re.fullmatch(r"conv2d(?:_(\d+))?", part)
      number = int(numbered[1] or 0) if numbered else len(_LAYERS)
      layer = _LAYERS[number] if number < len(_LAYERS) else part
      if layer in _LAYERS:
        weights.setdefault(layer, {})[kind] = item[()]
        return

  with h5py.File(path) as file:
    file.visititems(visit)
  missing = [layer for layer in _LAYERS if len(weights.get(layer, {})) < 2]
  if missing:
    raise UserError(f"model.pretrained: {path}: has no {', '.join(missing)}; {_REMEDY}")
  return weights
