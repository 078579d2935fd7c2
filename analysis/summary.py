"""The layers of a config's model and its parameters, in Keras' columns."""

import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn

import input_pipeline
import models


def describe(config: ml_collections.ConfigDict) -> str:
  """A table of layers with output shapes, and trainable, non-trainable and total parameters.

  Nothing is computed: shapes are traced. Batch statistics count as non-trainable, as in Keras.
  """
  dataset = input_pipeline.load(config)
  model = models.create(config.model, len(dataset.class_names))
  images = jax.ShapeDtypeStruct((1, *dataset.train.images.shape[1:]), jnp.float32)
  key = jax.random.key(0)
  variables = jax.eval_shape(lambda k, x: model.init(k, x, train=False), key, images)
  table = nn.tabulate(model, key, compute_flops=False, console_kwargs={"width": 120})(
    images, train=False
  )
  trainable, non_trainable = models.count_parameters(variables)
  return (
    f"{table.strip()}\n"
    f"Total params: {trainable + non_trainable:,}\n"
    f"Trainable params: {trainable:,}\n"
    f"Non-trainable params: {non_trainable:,}"
  )
