"""Shapes, random variables and weights that the tests of models share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import models


def shapes(config, num_classes=10, size=32, **kwargs):
  """Return the shapes of what `init` returns, without computing it."""
  model = models.create(config, num_classes, **kwargs)
  init = functools.partial(model.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


def random_variables(model, images, seed=0):
  """Return variables in which no array has its initial value, so that a test sees all of them."""
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
  """Return the weights of one Keras layer, in Keras' order."""
  params, moving = variables["params"], variables.get("batch_stats", {})
  for part in layer.name.split("."):
    params, moving = params[part], moving.get(part, {})
  order = ("kernel", "scale", "bias")
  return [params[k] for k in order if k in params] + [moving[k] for k in ("mean", "var") if moving]


def copy_weights(variables, keras_model):
  """Copy Flax variables into a Keras model whose layers have the names of the Flax modules."""
  for layer in keras_model.layers:
    if layer.weights:
      layer.set_weights([np.asarray(weight) for weight in flax_weights(variables, layer)])
  assert keras_model.count_params() == sum(models.count_parameters(variables))


@functools.partial(jax.jit, static_argnames=("model", "train"))
def apply(model, variables, images, train, key=None):
  """Return logits and updated collections; compiled, because single operations are slower."""
  rngs = None if key is None else {"dropout": key}
  return model.apply(variables, images, train=train, rngs=rngs, mutable=["batch_stats"])
