"""Feature maps inside a network, and Grad-CAM.

The functions work for any model that is called as `models` describes: they intercept the outputs of
its modules, and number the calls by the order in which they return.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from analysis.interception import intercept_outputs
from cifar_jax.types import Array, Variables


class Layer(NamedTuple):
  """A call of a module whose output is feature maps.

  Attributes:
    number: how many calls of modules return before this one.
    name: the module's path, such as 'stage1_block1/conv1'.
    module: the module's class.
    shape: height, width and channels of the output for one image.
    has_params: whether the module, or one within it, has parameters.
  """

  number: int
  name: str
  module: type[nn.Module]
  shape: tuple[int, int, int]
  has_params: bool


def find_feature_maps(
  model: nn.Module,
  variables: Variables,
  image_shape: Sequence[int],
  module: type[nn.Module] = nn.Module,
) -> list[Layer]:
  """Return the calls of modules of a class that output feature maps, in the order they return.

  Nothing is computed: shapes are traced.
  """
  layers = []

  def record(number: int, called: nn.Module, output: Any) -> Any:
    if isinstance(called, module) and getattr(output, "ndim", 0) == 4:
      params: Any = variables["params"]
      for name in called.path:
        params = params.get(name, {})
      height, width, channels = output.shape[1:]
      has_params = bool(jax.tree.leaves(params))
      layers.append(
        Layer(number, "/".join(called.path), type(called), (height, width, channels), has_params)
      )
    return output

  images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
  with intercept_outputs(record):
    jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
  return layers


def select_evenly(layers: Sequence[Layer], max_layers: int) -> list[Layer]:
  """Return at most `most` layers, evenly spaced, including the first and the last."""
  if len(layers) <= max_layers:
    return list(layers)
  return [layers[round(i)] for i in np.linspace(0, len(layers) - 1, max_layers)]


def compute_outputs(
  model: nn.Module, variables: Variables, images: Array, layers: Sequence[Layer]
) -> list[np.ndarray]:
  """Return the output of each layer, float32 [n, h, w, c], for normalised images."""
  numbers = {layer.number for layer in layers}

  @jax.jit
  def compute(variables: Variables, images: jax.Array) -> dict[int, jax.Array]:
    kept: dict[int, jax.Array] = {}

    def keep(number: int, called: nn.Module, output: Any) -> Any:
      if number in numbers:
        kept[number] = output.astype(jnp.float32)
      return output

    with intercept_outputs(keep):
      model.apply(variables, images, train=False)
    return kept

  outputs = compute(variables, images)
  return [np.asarray(outputs[layer.number]) for layer in layers]


def find_last_feature_map(layers: Sequence[Layer]) -> Layer:
  """Return the layer for Grad-CAM: the last one with parameters and more than one position.

  Layers without parameters, such as dropout, only pass on the output of an earlier layer, whose
  resolution may be higher.
  """
  trained = [layer for layer in layers if layer.has_params]
  return next((x for x in reversed(trained) if x.shape[0] * x.shape[1] > 1), trained[-1])


@functools.partial(jax.jit, static_argnames=("model", "layer"))
def compute_grad_cam(
  model: nn.Module, variables: Variables, images: Array, classes: Array, layer: Layer
) -> jax.Array:
  """Map where a layer has evidence for a class: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391).

  Each channel is weighted by the mean over positions of the gradient of the class's logit; the map
  is the positive part of the sum of the weighted channels. With two classes, the difference of the
  logits replaces the logit: networks with a single logit have one for only one class (see
  models.layers.dense_logits).

  Args:
    images: normalised, [n, height, width, channels].
    classes: [n], the class to explain for each image.

  Returns:
    [n, h, w] float32, with the h × w positions of the layer.
  """

  def score(change: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = []

    def shift(number: int, called: nn.Module, output: Any) -> Any:
      if number != layer.number:
        return output
      kept.append(output.astype(jnp.float32))
      return output + change.astype(output.dtype)

    with intercept_outputs(shift):
      logits = jnp.asarray(model.apply(variables, images, train=False))
    if logits.shape[1] == 2:
      logits = logits - logits[:, ::-1]
    return jnp.take_along_axis(logits, classes[:, None], axis=1).sum(), kept[0]

  gradient, maps = jax.grad(score, has_aux=True)(jnp.zeros((len(images), *layer.shape)))
  return nn.relu(jnp.einsum("nhwc,nc->nhw", maps, gradient.mean((1, 2))))
