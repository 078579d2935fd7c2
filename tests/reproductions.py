"""The configs of the reports' experiments by name, for the tests that compare them."""

import functools
import importlib

import jax
import jax.numpy as jnp
import small_runs
from flax import traverse_util

import models

NAMES = sorted(
  path.stem for path in (small_runs.ROOT / "configs" / "reproductions").glob("report*.py")
)
SIDES = {"cats_vs_dogs": 150}  # pixels; all other datasets have 32
CLASSES = {"cats_vs_dogs": 2, "cifar100": 100}  # all others have 10
ABSENT = "absent"  # the value of a field that a config lacks


def module(name):
  """Return the module of a config."""
  return importlib.import_module(f"configs.reproductions.{name}")


def config_of(name):
  """Return the config that `get_config` of a module returns."""
  return module(name).get_config()


@functools.cache
def variables_of(name):
  """Return the shapes of the variables of a config's model on its dataset."""
  config = config_of(name)
  model = models.create(config.model, CLASSES.get(config.data.name, 10))
  side = SIDES.get(config.data.name, 32)
  images = jnp.zeros((1, side, side, 3))
  return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def fields(name):
  """Return the values of a config by the names of the fields, such as 'model.name'."""
  return traverse_util.flatten_dict(config_of(name).to_dict(), sep=".")
