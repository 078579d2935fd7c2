"""Read VGG-16's ImageNet convolutions from other libraries' files into Flax parameters.

Two families of weights exist, for differently prepared images (RGB, [batch, height, width, 3]):

- torchvision's weights, in a safetensors file (timm/vgg16.tv_in1k): pixels / 255; then, for each
  channel, minus (0.485, 0.456, 0.406) and divided by (0.229, 0.224, 0.225).
- Keras' weights (the authors' own, from Caffe), in an .h5 file: pixels from 0 to 255, channels in
  the order BGR, minus (103.939, 116.779, 123.68).

Report 001 used Keras' weights with neither preparation: its images are pixels / 255 in RGB, which
is config.data.normalize='unit'. This module does not convert the weights, so that a reproduction
repeats the report.

Files are read as arrays. Pickles (.pth, .bin) are never loaded. The library of a file format is
imported when a file of that format is read.
"""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from cifar_jax.errors import UserError, first_line
from cifar_jax.types import Params
from models import vgg

# {'block1_conv1': {'kernel': [3, 3, in, out], 'bias': [out]}, …}, named as in Keras.
ConvWeights = dict[str, dict[str, np.ndarray]]

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


def load_vgg16(source: str | Path) -> ConvWeights:
  """Return the weights of VGG-16's 13 convolutions, float32.

  Args:
    source: a .safetensors file with torchvision's names (features.0.weight, …, each [out, in,
      height, width]); an .h5 file of Keras 1 to 3 (weights or a model, with or without the dense
      layers); or 'timm', the file of timm/vgg16.tv_in1k on the Hugging Face hub, which the hub's
      client downloads once and keeps in its cache.

  Raises:
    UserError: the file is missing, unavailable or unreadable, or lacks some of the weights.
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
    weights = readers[path.suffix](path)
  except UserError:
    raise
  except Exception as error:  # each library has its own exceptions for a damaged file
    raise UserError(
      f"model.pretrained: {path}: cannot read the file: {first_line(error)}; {_REMEDY}"
    ) from error
  return {
    layer: {name: np.asarray(array, np.float32) for name, array in weights[layer].items()}
    for layer in _LAYERS
  }


def replace_base(params: Params, weights: ConvWeights) -> Params:
  """Return a copy of `params` with `weights` as its 'base', in the dtypes of the previous base.

  Raises:
    UserError: `params` has no 'base', or a base with other layers or shapes.
  """
  if "base" not in params:
    raise UserError(
      "model.pretrained: the model has no convolutional base to load into; use model.name='vgg16'"
    )
  base = params["base"]
  if set(base) != set(weights):
    names = ", ".join(sorted(set(base) ^ set(weights)))
    raise UserError(
      f"model.pretrained: only one of the model and the weights has {names}; use VGG-16's weights"
    )
  new_base: dict[str, Params] = {}
  for layer, leaves in base.items():
    for name, leaf in leaves.items():
      if weights[layer][name].shape != leaf.shape:
        raise UserError(
          f"model.pretrained: {layer}/{name} has shape {weights[layer][name].shape} in the weights "
          f"but {leaf.shape} in the model; use VGG-16's weights"
        )
    new_base[layer] = {
      name: jnp.asarray(weights[layer][name], leaf.dtype) for name, leaf in leaves.items()
    }
  return {**params, "base": new_base}


def _download() -> Path:
  import huggingface_hub

  try:
    return Path(huggingface_hub.hf_hub_download(_REPOSITORY, _FILE, revision=_REVISION))
  except Exception as error:  # the hub's HTTP library, and so its exceptions, have changed before
    raise UserError(
      f"model.pretrained: cannot download {_FILE} of {_REPOSITORY} ({first_line(error)}); "
      f"go online, or {_REMEDY}"
    ) from error


def _read_safetensors(path: Path) -> ConvWeights:
  from safetensors import safe_open

  names = {
    layer: {"kernel": f"features.{number}.weight", "bias": f"features.{number}.bias"}
    for layer, number in zip(_LAYERS, _torchvision_numbers(), strict=True)
  }
  with safe_open(path, framework="numpy") as file:
    required = {name for pair in names.values() for name in pair.values()}
    missing = sorted(required - set(file.keys()))
    if missing:
      raise UserError(f"model.pretrained: {path}: the file lacks {', '.join(missing)}; {_REMEDY}")
    return {
      layer: {
        "kernel": file.get_tensor(pair["kernel"]).transpose(2, 3, 1, 0),
        "bias": file.get_tensor(pair["bias"]),
      }
      for layer, pair in names.items()
    }


def _torchvision_numbers() -> list[int]:
  """Return the index of each convolution in torchvision's `features`.

  A ReLU follows every convolution, and a pooling every stage.
  """
  numbers: list[int] = []
  first = 0
  for count in vgg.VGG16_STAGES:
    numbers += range(first, first + 2 * count, 2)
    first += 2 * count + 1
  return numbers


def _read_keras(path: Path) -> ConvWeights:
  """Read the convolutions of an HDF5 file that any version of Keras wrote.

  In files of Keras 1 and 2, and in whole models, a group on the path to an array has the layer's
  name. In the .weights.h5 files of Keras 3 the groups have numbered class names instead: conv2d,
  conv2d_1, … In each of them the kernel is the array with four axes, the bias the one with a single
  axis. A whole model holds its weights in the group model_weights, next to the optimizer's moments,
  which also have the layers' names.
  """
  import h5py

  places: dict[tuple[str, str], list[str]] = {}  # by layer and kind

  def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
    if not isinstance(item, h5py.Dataset) or item.ndim not in (1, 4):
      return
    kind = "kernel" if item.ndim == 4 else "bias"
    layers = map(_keras_layer, name.split("/")[:-1])
    if layer := next((layer for layer in layers if layer in _LAYERS), None):
      places.setdefault((layer, kind), []).append(name)

  with h5py.File(path) as file:
    group = file.get("model_weights", file)
    group.visititems(visit)
    missing = [x for x in _LAYERS if (x, "kernel") not in places or (x, "bias") not in places]
    if missing:
      raise UserError(f"model.pretrained: {path}: the file lacks {', '.join(missing)}; {_REMEDY}")
    for (layer, kind), names in places.items():
      if len(names) > 1:
        plural = {"kernel": "kernels", "bias": "biases"}[kind]
        raise UserError(
          f"model.pretrained: {path}: the file has several {plural} for {layer} "
          f"({', '.join(names)}); {_REMEDY}"
        )
    return {
      layer: {kind: group[places[layer, kind][0]][()] for kind in ("kernel", "bias")}
      for layer in _LAYERS
    }


def _keras_layer(group: str) -> str:
  """Return the layer that a group of an HDF5 file stands for, or the group's name itself."""
  match = re.fullmatch(r"conv2d(?:_(\d+))?", group)
  number = int(match[1] or 0) if match else len(_LAYERS)
  return _LAYERS[number] if number < len(_LAYERS) else group
