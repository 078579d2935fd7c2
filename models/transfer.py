"""Transfer learning: training that starts from weights trained before.

`config.model.pretrained` names them: a run folder, whose selected weights are taken; a file with
VGG-16's ImageNet weights, or 'timm', which downloads one (see models/pretrained.py); '' for none.
`config.optimizer.freeze` says which of them stay as they are.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from flax import traverse_util

from cifar_jax.data import datasets
from cifar_jax.errors import UserError
from cifar_jax.runs import checkpoints
from cifar_jax.runtime.console import log, progress
from models import pretrained

PyTree = Any
# Variables of a network, or a part of them: {'params': {…}, 'batch_stats': {…}}.
Weights = Mapping[str, PyTree]
_HEAD = ("params", "head")


def load(source: str) -> Weights | None:
  """The weights that `config.model.pretrained` names, None for ''.

  Raises:
    UserError: they cannot be had or read, or are those of several seeds.
  """
  if not source:
    return None
  folder = epath.Path(source).expanduser()
  if folder.is_dir():
    return checkpoints.read_best(folder)[1]
  if source != "timm" and not folder.exists():
    raise UserError(
      f"model.pretrained: {source}: there is no such run folder, nor such a file of weights; name "
      "a run that has trained, a file of VGG-16's weights, or 'timm'"
    )
  return {"params": {"base": pretrained.load_vgg16(source)}}


def insert(variables: Weights, weights: Weights) -> Weights:
  """`variables` of a new network, with `weights` in the place of those that they are for.

  A head for another number of classes is left as it was initialised; everything else must fit.

  Raises:
    UserError: `weights` are another network's.
  """
  if set(weights) == {"params"}:  # VGG-16's convolutions
    params = pretrained.apply_to(variables["params"], weights["params"]["base"])
    return {**variables, "params": params}
  own = traverse_util.flatten_dict(dict(variables))
  given = traverse_util.flatten_dict(dict(weights))
  heads = [{p: tree[p].shape for p in tree if p[:2] == _HEAD} for tree in (own, given)]
  keep_head = heads[0].keys() == heads[1].keys() and heads[0] != heads[1]
  for path in sorted(own.keys() | given.keys()):
    if keep_head and path[:2] == _HEAD:
      continue
    here = own[path].shape if path in own else "absent"
    there = given[path].shape if path in given else "absent"
    if here != there:
      raise UserError(
        f"model.pretrained: does not fit the model: {'/'.join(path)} is {there} there but {here} "
        "by the config; take a run of the same model"
      )
  if keep_head:
    log.info("model.pretrained: for another number of classes; the head starts anew")
  taken = {
    path: leaf if keep_head and path[:2] == _HEAD else jnp.asarray(given[path], leaf.dtype)
    for path, leaf in own.items()
  }
  return traverse_util.unflatten_dict(taken)


def base_is_fixed(config: ml_collections.ConfigDict, model: Any, params: PyTree) -> bool:
  """Whether what the model's base makes of an image is the same all through the run.

  It is if the base came trained, all of it is frozen, and no images are augmented, tests included.
  """
  if not (config.model.get("pretrained") and hasattr(model, "from_features")):
    return False
  if config.augment or config.tta or config.num_seeds > 1:
    return False
  paths = traverse_util.flatten_dict(params["base"], sep="/")
  return all(
    any(re.search(pattern, f"base/{path}") for pattern in config.optimizer.freeze) for path in paths
  )


def features_of(
  dataset: datasets.Dataset,
  model: Any,
  variables: Weights,
  preprocess: Callable[[jax.Array], jax.Array],
  batch_size: int,
) -> datasets.Dataset:
  """The data set with every image replaced by what the model's module 'base' makes of it, float32.

  Every process computes all of them, on one device.
  """

  @jax.jit
  def features(variables: Weights, images: jax.Array) -> jax.Array:
    _, state = model.apply(
      variables,
      preprocess(images),
      train=False,
      capture_intermediates=lambda module, method: module.name == "base" and method == "__call__",
      mutable=["intermediates"],
    )
    return state["intermediates"]["base"]["__call__"][0].astype(jnp.float32)

  def of(images: np.ndarray, advance: Callable) -> np.ndarray:
    size = min(batch_size, len(images))
    found = []
    for start in range(0, len(images), size):
      batch = np.resize(images[start : start + size], (size, *images.shape[1:]))
      found.append(np.asarray(features(variables, batch))[: len(images) - start])
      advance(min(size, len(images) - start))
    return np.concatenate(found)

  variables = jax.device_get(variables)  # of one device, whatever the number
  total = len(dataset.train.labels) + len(dataset.test.labels)
  with progress("features of the base", total, "images") as advance:
    splits = {
      name: dataclasses.replace(split, images=of(split.images, advance))
      for name, split in (("train", dataset.train), ("test", dataset.test))
    }
  return dataclasses.replace(dataset, **splits)
