"""Transfer learning: training that starts from already trained weights.

`config.model.pretrained` names the weights: a run folder, whose selected weights are used; a file
of weights; a repository on the Hugging Face hub, as hf://owner/name; 'timm', which downloads
VGG-16's ImageNet weights (see pretrained.py); or '' for none. `config.optimizer.freeze` names the
weights that training leaves unchanged.

If the convolutional base of a network is frozen and its input is the same in every epoch, so is its
output. `precompute_fixed_base` then computes this output once and trains the dense layers on it.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from flax import traverse_util

from cifar_jax.data.datasets import Dataset, Split
from cifar_jax.errors import UserError
from cifar_jax.runs import checkpoints, hub, test_uses, weights_file
from cifar_jax.runtime.console import log, progress
from cifar_jax.types import Params, Variables
from models import pretrained, torch_resnet

_HEAD = ("params", "head")


def load(source: str) -> Variables | None:
  """Return the weights that `config.model.pretrained` names, or None for ''.

  Raises:
    UserError: the weights are missing, unavailable or unreadable.
  """
  return load_with_folder(source)[0]


def load_with_folder(source: str) -> tuple[Variables | None, epath.Path | None]:
  """Return the weights, as `load` does, and the folder of their run, None if they have no run.

  Raises:
    UserError: the weights are missing, unavailable or unreadable.
  """
  if not source:
    return None, None
  path = _locate(source)
  return _read(source, path), _run_folder_of(source, path)


def _read(source: str, path: epath.Path) -> Variables:
  if path.is_dir():
    return checkpoints.read_best(path)[1]
  if source != "timm" and not path.exists():
    raise UserError(
      f"model.pretrained: {source}: no such run folder or file; name the folder of a finished run, "
      "a file of weights, hf://owner/name, or 'timm'"
    )
  if path.suffix == ".safetensors":
    arrays = weights_file.read_arrays(path)[1]
    if torch_resnet.is_resnet(arrays):
      return torch_resnet.convert(arrays, source)
    if any(name.startswith("params.") for name in arrays):
      return weights_file.read(path).variables
  return {"params": {"base": pretrained.load_vgg16(source if source == "timm" else str(path))}}


def _run_folder_of(source: str, path: epath.Path) -> epath.Path | None:
  if source == "timm":
    return None
  return path.parent if path.name == weights_file.NAME else path if path.is_dir() else None


def _locate(source: str) -> epath.Path:
  """Return the run folder with checkpoints, or the file of weights, that `source` names."""
  path = _download(source) if hub.is_address(source) else epath.Path(source).expanduser()
  return weights_file.find(path) or path


def _download(source: str) -> epath.Path:
  """Return the file of a repository's weights: a run's, or in timm's and torchvision's naming."""
  limits = {**hub.RUN_FILES, **hub.TORCH_FILES}
  names = (weights_file.NAME, *hub.TORCH_FILES)
  described = ("results.json", test_uses.FILE)  # for test_uses.inherit
  folder = hub.download(source, {name: limits[name] for name in (*names, *described)})
  for name in names:
    if (folder / name).exists():
      return folder / name
  raise UserError(
    f"model.pretrained: {source} has none of {', '.join(names)}; name a repository with weights"
  )


def insert(variables: Variables, weights: Variables) -> Variables:
  """Return `variables` of a new network with the values of `weights`, which `load` returned.

  A head for another number of classes keeps its initial values. Everything else must fit.

  Raises:
    UserError: `weights` belong to another network, or to several seeds.
  """
  if set(weights) == {"params"}:  # VGG-16's convolutions alone
    params = pretrained.replace_base(variables["params"], weights["params"]["base"])
    return {**variables, "params": params}
  initial = traverse_util.flatten_dict(dict(variables))
  loaded = traverse_util.flatten_dict(dict(weights))
  initial_head, loaded_head = (
    {path: leaf.shape for path, leaf in flat.items() if path[:2] == _HEAD}
    for flat in (initial, loaded)
  )
  keep_head = initial_head.keys() == loaded_head.keys() and initial_head != loaded_head
  for path in sorted(initial.keys() | loaded.keys()):
    if keep_head and path[:2] == _HEAD:
      continue
    expected, actual = (
      flat[path].shape if path in flat else "absent" for flat in (initial, loaded)
    )
    if expected != actual:
      raise UserError(
        f"model.pretrained: {'/'.join(path)} is {actual} in the weights but {expected} in the "
        "model; name weights of the same model (for a ResNet, with the same model.stem)"
      )
  if keep_head:
    log.info(
      "model.pretrained: the weights are for another number of classes; the head keeps its initial "
      "values"
    )
  merged = {
    path: leaf if keep_head and path[:2] == _HEAD else jnp.asarray(loaded[path], leaf.dtype)
    for path, leaf in initial.items()
  }
  return traverse_util.unflatten_dict(merged)


def precompute_fixed_base(
  config: ml_collections.ConfigDict,
  model: nn.Module,
  dataset: Dataset,
  variables: Variables,
  preprocess: Callable[[jax.Array], jax.Array],
) -> tuple[nn.Module, Dataset]:
  """Return the model and dataset to train; if `has_fixed_base`, a model without its base.

  The dataset then has features instead of images: the base's output for every image.

  Args:
    variables: of `model`, for one seed.
    preprocess: normalises images [batch, height, width, channels] uint8.
  """
  if not has_fixed_base(config, model, variables["params"]):
    return model, dataset
  features = compute_features(dataset, model, variables, preprocess, config.eval_batch_size)
  return model.clone(from_features=True), features


def has_fixed_base(config: ml_collections.ConfigDict, model: nn.Module, params: Params) -> bool:
  """Return whether the model's base gives an image the same output throughout the run.

  This holds if the base starts from trained weights, all of it is frozen, and neither training nor
  test images are augmented or transformed. A proxy network and several seeds are excluded.
  """
  if not (config.model.get("pretrained") and hasattr(model, "from_features")):
    return False
  if (
    config.augment
    or config.eval_transform
    or config.tta
    or config.num_seeds > 1
    or config.proxy.keep
  ):
    return False
  paths = traverse_util.flatten_dict(params["base"], sep="/")
  return all(
    any(re.search(pattern, f"base/{path}") for pattern in config.optimizer.freeze) for path in paths
  )


def compute_features(
  dataset: Dataset,
  model: nn.Module,
  variables: Variables,
  preprocess: Callable[[jax.Array], jax.Array],
  batch_size: int,
) -> Dataset:
  """Return `dataset` with every image replaced by the output of the model's base, float32.

  Every process computes all features, on one device.
  """
  apply_base = jax.jit(functools.partial(_apply_base, model, preprocess))
  variables = jax.device_get(variables)  # host arrays, so that the result is on a single device

  def replace_images(split: Split, advance: Callable[..., None]) -> Split:
    size = min(batch_size, len(split.images))
    features = []
    for start in range(0, len(split.images), size):
      images = split.images[start : start + size]
      batch = np.resize(images, (size, *images.shape[1:]))  # the last batch repeats its images
      features.append(np.asarray(apply_base(variables, batch))[: len(images)])
      advance(len(images))
    return dataclasses.replace(split, images=np.concatenate(features))

  num_images = len(dataset.train.labels) + len(dataset.test.labels)
  with progress("features of the base", num_images, "images") as advance:
    train, test = (replace_images(split, advance) for split in (dataset.train, dataset.test))
  return dataclasses.replace(dataset, train=train, test=test)


def _apply_base(
  model: nn.Module,
  preprocess: Callable[[jax.Array], jax.Array],
  variables: Variables,
  images: jax.Array,
) -> jax.Array:
  """Return the output of the model's module 'base' for `images`, float32."""
  _, state = model.apply(
    variables,
    preprocess(images),
    train=False,
    capture_intermediates=lambda module, method: module.name == "base" and method == "__call__",
    mutable=["intermediates"],
  )
  return state["intermediates"]["base"]["__call__"][0].astype(jnp.float32)
