"""The models, by name.

Every family is one file in this folder; it names its models with `@register` and is found on
import, so adding a model means adding or editing that one file.

All models are called alike:

  variables = model.init(key, images, train=False)
  logits, updates = model.apply(
    variables, images, train=True, rngs={'dropout': key}, mutable=['batch_stats'])
  logits = model.apply(variables, images, train=False)

images: [batch, height, width, channels] floats, already normalised; logits: [batch, num_classes]
float32, before the softmax. Parameters and batch statistics are float32; the computation between
is done in the model's `dtype`.

Of the images that `init` is given only the shape matters, unless the class of a model has
`INIT_IMAGES`, a number: then its first parameters depend on them, and a run gives it so many of its
training images.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax import registry
from cifar_jax.errors import UserError

_REGISTRY: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {}


def register(name: str, **fixed: Any) -> Callable:
  """Makes a factory known under `name`, with the arguments in `fixed` given.

  The factory's other arguments, each with its default, are what a config may set. It is called
  with `num_classes`, `dtype`, `axis_name` and `sync_bn` besides and takes them as `**common`.
  One factory may carry several names.
  """

  def decorate(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    if name in _REGISTRY:
      raise ValueError(f"two models are called {name!r}")
    _REGISTRY[name] = factory, fixed
    return factory

  return decorate


def known() -> list[str]:
  """The names `create` takes, sorted."""
  return sorted(_REGISTRY)


def arguments(name: str) -> dict[str, Any]:
  """The arguments of its own that the model `name` takes, each with its default."""
  factory, fixed = _REGISTRY[name]
  return {
    parameter.name: parameter.default
    for parameter in inspect.signature(factory).parameters.values()
    if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in fixed
  }


def create(
  config_model: Mapping[str, Any],
  num_classes: int,
  dtype: jnp.dtype = jnp.float32,
  axis_name: str | None = None,
) -> nn.Module:
  """Builds the model a config describes.

  Args:
    config_model: `name`, one of `known()`; `sync_bn` (default True): batch statistics are taken
      over the whole axis `axis_name`, else by each device over its own rows; `pretrained`, which
      is no matter here (see transfer.py); and the model's own arguments. A value of None stands
      for the default, whatever the model.
    num_classes: length of the logits.
    dtype: what the model computes in; parameters, statistics and logits stay float32.
    axis_name: the pmap axis the batch is divided over, None outside pmap.

  Raises:
    UserError: for an unknown name or argument, or a value the model cannot be built with.
  """
  given = {field: value for field, value in dict(config_model).items() if value is not None}
  name = given.pop("name", None)
  sync_bn = given.pop("sync_bn", True)
  given.pop("pretrained", None)  # where training starts from, not what the network is
  if name not in _REGISTRY:
    raise registry.unknown("model.name", "model", name, known())

  accepted = arguments(name)
  for field, value in given.items():
    if field not in accepted:
      names = ", ".join([*sorted(accepted), "pretrained", "sync_bn"])
      raise UserError(f"model.{field}: {name!r} takes no such argument; it takes: {names}")
    _check_type(field, value, accepted[field])
  _check_type("sync_bn", sync_bn, True)

  factory, fixed = _REGISTRY[name]
  # Flax modules are hashed, so a list (what JSON makes of a tuple) has to become a tuple again.
  own = {field: tuple(v) if isinstance(v, list) else v for field, v in given.items()}
  return factory(
    **fixed, **own, num_classes=num_classes, dtype=dtype, axis_name=axis_name, sync_bn=sync_bn
  )


def _check_type(field: str, value: Any, default: Any) -> None:
  """Raises UserError unless `value` is of the kind the argument's default is."""
  kinds = {
    bool: (bool, "True or False"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a name"),
    tuple: ((tuple, list), "a tuple of whole numbers"),
  }
  accepted, meaning = kinds[type(default)]
  fits = isinstance(value, accepted) and isinstance(value, bool) == isinstance(default, bool)
  if fits and isinstance(default, tuple):
    fits = all(type(item) is int and item > 0 for item in value)
  if not fits:
    raise UserError(f"model.{field}: {value!r} is not {meaning}; the default is {default!r}")


def count_parameters(variables: Mapping[str, Any]) -> tuple[int, int]:
  """(trainable, non-trainable) parameters in Keras' sense: weights, and moving statistics.

  variables: what `model.init` returns, or its shapes from `jax.eval_shape`.
  """
  trainable = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  moving = sum(leaf.size for leaf in jax.tree.leaves(variables.get("batch_stats", {})))
  return trainable, moving


for _family in pkgutil.iter_modules(__path__):
  importlib.import_module(f"{__name__}.{_family.name}")
