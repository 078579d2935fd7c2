"""The registry of models.

Each file of this folder holds one family and registers its models by name with `@register`. The
files are imported here, so adding a model means adding or editing one file.

All models have the same interface:

  variables = model.init(key, images, train=False)
  logits, updates = model.apply(
    variables, images, train=True, rngs={'dropout': key}, mutable=['batch_stats'])
  logits = model.apply(variables, images, train=False)

images: [batch, height, width, channels], normalised floats; logits: [batch, num_classes] float32,
before the softmax. Parameters and batch statistics are float32. The computation itself runs in the
model's `dtype`.

`init` needs only the shape of the images, with one exception: a class with the attribute
`INIT_IMAGES` computes parameters from the images. Its value is the number of training images that a
run passes to `init`.

Modules with the attribute `RECOMPUTED = True` are the blocks that `config.remat` computes again in
the backward pass. Their calls take arrays only.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax import registry
from cifar_jax.errors import UserError
from cifar_jax.types import Variables

ModelFactory = TypeVar("ModelFactory", bound=Callable[..., nn.Module])

# By name: a factory, and the arguments that the name fixes.
_REGISTRY: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {}

# The arguments that every model receives, whether its factory names them or takes **common.
_COMMON = ("num_classes", "dtype", "axis_name", "sync_bn")

# By the type of an argument's default: the types that a config may set, and their description.
_ARGUMENT_TYPES: dict[type, tuple[tuple[type, ...], str]] = {
  bool: ((bool,), "True or False"),
  int: ((int,), "a whole number"),
  float: ((int, float), "a number"),
  str: ((str,), "a name"),
  tuple: ((tuple, list), "a tuple of whole numbers"),
}


def register(name: str, **fixed: Any) -> Callable[[ModelFactory], ModelFactory]:
  """Return a decorator that registers a factory under `name`, with the arguments `fixed`.

  A config may set the factory's other arguments, each of which has a default. The factory also
  receives `num_classes`, `dtype`, `axis_name` and `sync_bn`, which it takes as `**common`. One
  factory may be registered under several names.
  """

  def decorate(factory: ModelFactory) -> ModelFactory:
    if name in _REGISTRY:
      raise ValueError(f"two models are called {name!r}")
    _REGISTRY[name] = factory, fixed
    return factory

  return decorate


def list_names() -> list[str]:
  """Return the names that `create` accepts, sorted."""
  return sorted(_REGISTRY)


def list_arguments(name: str) -> dict[str, Any]:
  """Return the arguments that a config may set for the model `name`, each with its default."""
  factory, fixed = _REGISTRY[name]
  return {
    parameter.name: parameter.default
    for parameter in inspect.signature(factory).parameters.values()
    if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in (*fixed, *_COMMON)
  }


def create(
  config_model: Mapping[str, Any],
  num_classes: int,
  dtype: jax.typing.DTypeLike = jnp.float32,
  axis_name: str | None = None,
) -> nn.Module:
  """Return the model that a config describes.

  Args:
    config_model: the section `config.model`. `name` is one of `list_names()`. With `sync_bn`
      (default True) batch statistics are taken over the whole axis `axis_name`, otherwise over each
      device's rows. `pretrained` is ignored here (see transfer.py). The rest are the model's
      arguments. None stands for an argument's default, and is accepted for an unknown argument too.
    num_classes: length of the logits.
    dtype: of the computation; parameters, statistics and logits stay float32.
    axis_name: the pmap axis over which the batch is divided, None outside pmap.

  Raises:
    UserError: a name or argument is unknown, or a value is invalid.
  """
  fields = {field: value for field, value in dict(config_model).items() if value is not None}
  name = fields.pop("name", None)
  sync_bn = fields.pop("sync_bn", True)
  fields.pop("pretrained", None)  # says where training starts, not what the network is
  if name not in _REGISTRY:
    raise registry.unknown("model.name", "model", name, list_names())

  defaults = list_arguments(name)
  for field, value in fields.items():
    if field not in defaults:
      names = ", ".join([*sorted(defaults), "pretrained", "sync_bn"])
      raise UserError(f"model.{field}: {name!r} takes no such argument; it takes: {names}")
    _check_type(field, value, defaults[field])
  _check_type("sync_bn", sync_bn, True)

  factory, fixed = _REGISTRY[name]
  # Flax hashes modules, so lists (which JSON makes of tuples) become tuples again.
  arguments = {f: tuple(value) if isinstance(value, list) else value for f, value in fields.items()}
  return factory(
    **fixed, **arguments, num_classes=num_classes, dtype=dtype, axis_name=axis_name, sync_bn=sync_bn
  )


def _check_type(field: str, value: Any, default: Any) -> None:
  """Raise UserError unless `value` has the type of the argument's default."""
  types, description = _ARGUMENT_TYPES[type(default)]
  fits = isinstance(value, types) and isinstance(value, bool) == isinstance(default, bool)
  if fits and isinstance(default, tuple):
    fits = all(type(item) is int and item > 0 for item in value)
  if not fits:
    raise UserError(f"model.{field}: {value!r} is not {description}; the default is {default!r}")


def count_parameters(variables: Variables) -> tuple[int, int]:
  """Return the numbers of trainable and non-trainable parameters, as Keras counts them.

  The non-trainable ones are batch norm's moving statistics.

  Args:
    variables: the result of `model.init`, or its shapes from `jax.eval_shape`.
  """
  trainable = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  moving = sum(leaf.size for leaf in jax.tree.leaves(variables.get("batch_stats", {})))
  return trainable, moving


for _family in pkgutil.iter_modules(__path__):
  importlib.import_module(f"{__name__}.{_family.name}")
