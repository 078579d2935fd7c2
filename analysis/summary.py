"""The layers and parameters of a model, in Keras' columns: `--mode=summary`."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn
from flax import traverse_util

import input_pipeline
import models
from analysis.interception import intercept_outputs
from cifar_jax.data import datasets
from cifar_jax.runtime.text_table import format_table
from cifar_jax.types import Variables

_BYTES = 4  # per value, in float32
_HEADER = ("layer (type)", "output shape", "trainable", "non-trainable")


class Call(NamedTuple):
  """A call of a module: its path, its class, and its output's shape for one image."""

  path: tuple[str, ...]
  kind: str
  shape: tuple[int, ...]


def describe(config: ml_collections.ConfigDict) -> str:
  """Return the model's name, a table of its layers with output shapes and parameters, and totals.

  The name is followed by the arguments whose values in the config differ from their defaults.
  Nothing is computed: shapes are traced. The dataset is loaded only if the image size and the
  number of classes are unknown otherwise. Batch statistics count as non-trainable parameters. Sizes
  are those of float32 values. Outputs of functions between layers, such as ReLU and pooling, are
  neither listed nor counted.
  """
  form = datasets.find_form(config.data.name, config.data.options) or _load_form(config)
  *image_shape, num_classes = form
  model = models.create(config.model, num_classes)
  variables, calls = trace(model, image_shape)
  params = traverse_util.flatten_dict(variables["params"])
  batch_stats = traverse_util.flatten_dict(variables.get("batch_stats", {}))
  rows = [
    (
      f"{'/'.join(call.path)} ({call.kind})",
      f"(batch, {', '.join(map(str, call.shape))})",
      f"{_count(params, call.path):,}",
      f"{_count(batch_stats, call.path):,}",
    )
    for call in calls
  ]
  header, *lines = format_table(_HEADER, rows, right={2, 3}).splitlines()
  rule = "-" * len(header)
  trainable, non_trainable = models.count_parameters(variables)
  totals = [
    f"{name} params: {count:,} ({format_size(_BYTES * count)})"
    for name, count in (
      ("Total", trainable + non_trainable),
      ("Trainable", trainable),
      ("Non-trainable", non_trainable),
    )
  ]
  outputs = _count_outputs(calls)
  totals.append(
    f"Outputs of these layers for one image: {outputs:,} ({format_size(_BYTES * outputs)})"
  )
  return "\n".join([_title(config.model), header, rule, *lines, rule, *totals])


def _title(config_model: ml_collections.ConfigDict) -> str:
  defaults = models.list_arguments(config_model.name)
  changed = [
    f"{field}={tuple(value) if isinstance(value, list) else value!r}"
    for field, value in config_model.items()
    if field in defaults and value is not None and value != defaults[field]
  ]
  return f"Model: {', '.join([config_model.name, *changed])}"


def format_size(num_bytes: float) -> str:
  """Return a size as Keras prints it, such as '3.23 MB'; a MB is 1024² bytes."""
  for unit in ("B", "KB", "MB", "GB"):
    if num_bytes < 1024 or unit == "GB":
      break
    num_bytes /= 1024
  return f"{num_bytes:.2f} {unit}"


def _count_outputs(calls: Sequence[Call]) -> int:
  """Return the number of values that the layers output for one image.

  Of nested modules, only the innermost count.
  """
  outer = {call.path[:length] for call in calls for length in range(len(call.path))}
  return sum(math.prod(call.shape) for call in calls if call.path not in outer)


def trace(model: nn.Module, image_shape: list[int]) -> tuple[Variables, list[Call]]:
  """Return the shapes of a model's variables, and its modules' calls in the order they return."""
  calls: list[Call] = []

  def record(number: int, module: nn.Module, output: Any) -> Any:
    if module.path:
      calls.append(Call(module.path, type(module).__name__, output.shape[1:]))
    return output

  with intercept_outputs(record):
    variables = jax.eval_shape(
      lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False)
    )
  return variables, calls


def _count(leaves: dict[tuple[str, ...], Any], path: tuple[str, ...]) -> int:
  """Return the number of values in the arrays of one module, without its submodules."""
  return sum(leaf.size for name, leaf in leaves.items() if name[:-1] == path)


def _load_form(config: ml_collections.ConfigDict) -> tuple[int, ...]:
  """Return height, width, channels and the number of classes of the dataset, after loading it."""
  dataset = input_pipeline.load(config)
  return (*dataset.train.images.shape[1:], len(dataset.class_names))
