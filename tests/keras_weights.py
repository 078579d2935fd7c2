"""Shapes, random variables and weights shared by the tests that compare networks with Keras."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import models


def shapes(config, num_classes=10, size=32, **kwargs):
  """What `init` would return, without computing it."""
  model = models.create(config, num_classes, **kwargs)
  init = functools.partial(model.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


def random_variables(model, images, seed=0):
  """Variables in which nothing has its initial value, so that nothing is left untested."""
  variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    kind = path[-1].key
    if kind == "kernel":
      return rng.normal(size=leaf.shape, scale=np.prod(leaf.shape[:-1]) ** -0.5)
    if kind in ("scale", "var"):
      return rng.uniform(0.5, 1.5, leaf.shape)
    return rng.normal(size=leaf.shape, scale=0.1)

  draws = jax.tree_util.tree_map_with_path(draw, variables)
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), draws)


def flax_weights(variables, layer):
  """The weights of one Keras layer, in Keras' order."""
  params, moving = variables["params"], variables.get("batch_stats", {})
  for part in layer.name.split("."):
    params, moving = params[part], moving.get(part, {})
  order = ("kernel", "scale", "bias")
  return [params[k] for k in order if k in params] + [moving[k] for k in ("mean", "var") if moving]


def copy_weights(variables, keras_model):
  for layer in keras_model.layers:
    if layer.weights:
      layer.set_weights([np.asarray(weight) for weight in flax_weights(variables, layer)])
  assert keras_model.count_params() == sum(models.count_parameters(variables))
