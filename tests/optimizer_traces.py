"""Parameters after each of a few updates, by this project's optimizers and by Keras'."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cifar_jax.optim import schedules
from cifar_jax.optim.parameter_rules import list_paths

UPDATES = 12
KERNELS = ("Conv_0/kernel", "Dense_0/kernel")


def make_constant(learning_rate: float | jax.Array) -> schedules.Schedule:
  """Return the constant schedule for UPDATES steps."""
  return schedules.create({"name": "constant"}, learning_rate, 1, UPDATES)


def make_params(seed: int = 0) -> dict[str, dict[str, jax.Array]]:
  """Return random parameters of a convolution, a dense layer and a normalisation."""
  rng = np.random.default_rng(seed)
  shapes = {
    "Conv_0": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "Dense_0": {"kernel": (8, 5), "bias": (5,)},
    "BatchNorm_0": {"scale": (4,), "bias": (4,)},
  }
  return {
    layer: {
      name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in leaves.items()
    }
    for layer, leaves in shapes.items()
  }


def make_gradients(params: Any, seed: int = 1) -> list[Any]:
  """Return UPDATES different gradients, of sizes from 1e-6 to 1, so that eps has an effect."""
  rng = np.random.default_rng(seed)

  def draw(leaf: jax.Array) -> jax.Array:
    return jnp.asarray(rng.normal(size=leaf.shape) * 10 ** rng.uniform(-6, 0), jnp.float32)

  return [jax.tree.map(draw, params) for _ in range(UPDATES)]


def train(
  optimizer: optax.GradientTransformationExtraArgs,
  params: Any,
  gradients: Sequence[Any],
  lr_scales: Sequence[float] | None = None,
) -> list[Any]:
  """Return the parameters after each update."""
  state, trace = optimizer.init(params), []
  update = jax.jit(optimizer.update)
  for i, gradient in enumerate(gradients):
    extra = {} if lr_scales is None else {"lr_scale": lr_scales[i]}
    updates, state = update(gradient, state, params, **extra)
    params = optax.apply_updates(params, updates)
    trace.append(params)
  return trace


def train_keras(
  optimizer: Any,
  params: Any,
  gradients: Sequence[Any],
  decayed: Sequence[str] | None = None,
  learning_rates: Sequence[float] | None = None,
) -> list[Any]:
  """Return the parameters after each update of a Keras optimizer.

  decayed: paths of the parameters that weight decay applies to; None is all.
  """
  import keras

  leaves, treedef = jax.tree.flatten(params)
  paths = list_paths(params)
  variables = [
    keras.Variable(np.array(leaf), name=path.replace("/", "_"))
    for path, leaf in zip(paths, leaves, strict=True)
  ]
  if decayed is not None:
    optimizer.exclude_from_weight_decay(
      var_list=[v for v, path in zip(variables, paths, strict=True) if path not in decayed]
    )
  optimizer.build(variables)
  trace = []
  for i, gradient in enumerate(gradients):
    if learning_rates is not None:
      optimizer.learning_rate = learning_rates[i]
    optimizer.apply(jax.tree.leaves(gradient))
    trace.append(treedef.unflatten([np.asarray(v.value) for v in variables]))
  return trace


def assert_same(
  ours: Sequence[Any], theirs: Sequence[Any], rtol: float = 1e-5, atol: float = 1e-7
) -> None:
  """Assert that two traces of UPDATES updates are close."""
  assert len(ours) == len(theirs) == UPDATES
  for a, b in zip(ours, theirs, strict=True):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)
