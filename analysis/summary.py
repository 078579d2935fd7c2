"""The layers of a config's model and its parameters, in Keras' columns."""

import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn
from flax import traverse_util

import input_pipeline
import models
from cifar_jax.data import datasets


def describe(config: ml_collections.ConfigDict) -> str:
  """A table of layers with their output shapes and parameters, and the totals as Keras counts them.

  Nothing is computed: shapes are traced. The data are loaded only if nothing else tells the size of
  the images and the number of classes. Batch statistics count as non-trainable parameters.
  """
  form = datasets.find_form(config.data.name, config.data.options)
  *shape, classes = form or _form_of_data(config)
  model = models.create(config.model, classes)
  images = jnp.zeros((1, *shape))
  layers: list[tuple[tuple[str, ...], str, tuple[int, ...]]] = []

  def note(call, args, kwargs, context):
    output = call(*args, **kwargs)
    if context.method_name == "__call__" and context.module.path:
      layers.append((context.module.path, type(context.module).__name__, output.shape[1:]))
    return output

  with nn.intercept_methods(note):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
  params = traverse_util.flatten_dict(variables["params"])
  stats = traverse_util.flatten_dict(variables.get("batch_stats", {}))

  def of(path: tuple[str, ...], leaves: dict) -> int:
    return sum(leaf.size for name, leaf in leaves.items() if name[:-1] == path)

  rows = [("layer (type)", "output shape", "trainable", "non-trainable")]
  for path, kind, shape in layers:
    own, fixed = of(path, params), of(path, stats)
    name = f"{'/'.join(path)} ({kind})"
    rows.append((name, f"(batch, {', '.join(map(str, shape))})", f"{own:,}", f"{fixed:,}"))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {own:>{widths[2]}}  {fixed:>{widths[3]}}"
    for name, shape, own, fixed in rows
  ]
  lines.insert(1, "-" * len(lines[0]))
  trainable, non_trainable = models.count_parameters(variables)
  lines += [
    "-" * len(lines[0]),
    f"Total params: {trainable + non_trainable:,}",
    f"Trainable params: {trainable:,}",
    f"Non-trainable params: {non_trainable:,}",
  ]
  return "\n".join(lines)


def _form_of_data(config: ml_collections.ConfigDict) -> tuple[int, ...]:
  dataset = input_pipeline.load(config)
  return (*dataset.train.images.shape[1:], len(dataset.class_names))
