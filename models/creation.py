"""Create a network with its weights in one call, and search the networks by name."""

import fnmatch
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import models
from cifar_jax import registry
from cifar_jax.errors import UserError
from cifar_jax.types import Array, Variables
from models import transfer


def search(*patterns: str) -> list[str]:
  """Return the sorted names of the networks that match one of the patterns, or all without one.

  Args:
    patterns: as in a shell, such as '*resnet*'.

  Raises:
    UserError: a pattern matches no name.
  """
  names = models.list_names()
  for pattern in patterns:
    if not fnmatch.filter(names, pattern):
      raise registry.unknown("model.name", "model", pattern, names)
  return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns or ("*",))]


def create_model(
  name: str,
  num_classes: int = 10,
  pretrained: str = "",
  *,
  images: Array | None = None,
  seed: int = 0,
  dtype: jax.typing.DTypeLike = jnp.float32,
  **arguments: Any,
) -> tuple[nn.Module, Variables]:
  """Return a network and its variables: `logits = model.apply(variables, images, train=False)`.

  Args:
    name: one of `search()`.
    num_classes: the length of the logits.
    pretrained: weights to start from, as `config.model.pretrained` names them; '' for initial ones.
      A head for another number of classes keeps its initial values.
    images: normalised images [n, height, width, channels] of the shape that the network is for; by
      default CIFAR's shape. A network that computes weights from images (airbench) needs real ones,
      or `pretrained`.
    seed: of the initial weights.
    dtype: of the computation.
    arguments: the network's arguments, which `models.list_arguments(name)` lists.

  Raises:
    UserError: a name or argument is unknown or invalid, or weights are unavailable or do not fit.
  """
  model = models.create({"name": name, **arguments}, num_classes, dtype)
  count = getattr(model, "INIT_IMAGES", 1)
  if images is None and count > 1 and not pretrained:
    raise UserError(f"images: {name!r} computes weights from {count} images; pass normalised ones")
  weights = transfer.load(pretrained)
  inputs = jnp.zeros((1, 32, 32, 3)) if images is None else jnp.asarray(images[:count])
  initialize = jax.jit(lambda key, x: model.init(key, x, train=False))
  variables: Variables = initialize(jax.random.key(seed), inputs)
  return model, variables if weights is None else transfer.insert(variables, weights)
