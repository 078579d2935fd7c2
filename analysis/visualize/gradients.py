"""What happens inside a network: what its modules put out, Grad-CAM, images that excite a filter.

For any model that is called as `models` describes, with nothing added to it: modules' outputs are
intercepted, and found by the order in which the modules return.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


class Layer(NamedTuple):
  """A call of a module that puts out feature maps.

  Attributes:
    number: how many calls of modules return before it.
    name: the module's path, such as 'stage1_block1/conv1'.
    module: the module's class.
    shape: height, width and channels of what it puts out for one image.
    has_params: whether the module, or one within it, has parameters.
  """

  number: int
  name: str
  module: type[nn.Module]
  shape: tuple[int, int, int]
  has_params: bool


def feature_maps(
  model: nn.Module, variables: PyTree, image_shape: Sequence[int], module: type = nn.Module
) -> list[Layer]:
  """The calls of modules of a class that put out feature maps, in the order in which they return.

  Nothing is computed: shapes are traced.
  """
  found = []

  def note(number: int, called: nn.Module, output: Any) -> Any:
    if isinstance(called, module) and getattr(output, "ndim", 0) == 4:
      params = variables["params"]
      for name in called.path:
        params = params.get(name, {})
      path, shape = "/".join(called.path), tuple(output.shape[1:])
      found.append(Layer(number, path, type(called), shape, bool(jax.tree.leaves(params))))
    return output

  images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
  with _visited(note):
    jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
  return found


def spread(layers: Sequence[Layer], most: int) -> list[Layer]:
  """At most so many of the layers, evenly spaced, the first and the last among them."""
  if len(layers) <= most:
    return list(layers)
  return [layers[round(i)] for i in np.linspace(0, len(layers) - 1, most)]


def outputs(
  model: nn.Module, variables: PyTree, images: jax.Array, layers: Sequence[Layer]
) -> list[np.ndarray]:
  """What each layer puts out, float32 [n, h, w, c], for normalised images."""

  @jax.jit
  def compute(variables: PyTree, images: jax.Array) -> dict[int, jax.Array]:
    kept = {layer.number: None for layer in layers}

    def keep(number: int, called: nn.Module, output: Any) -> Any:
      if number in kept:
        kept[number] = output.astype(jnp.float32)
      return output

    with _visited(keep):
      model.apply(variables, images, train=False)
    return kept

  found = compute(variables, images)
  return [np.asarray(found[layer.number]) for layer in layers]


def last_feature_map(layers: Sequence[Layer]) -> Layer:
  """The layer to look at with Grad-CAM: the last one with parameters that is not a single position.

  Layers without parameters, such as dropout, only pass on what the layer before, which may be of
  finer resolution, has put out.
  """
  trained = [layer for layer in layers if layer.has_params]
  return next((x for x in reversed(trained) if x.shape[0] * x.shape[1] > 1), trained[-1])


@functools.partial(jax.jit, static_argnames=("model", "layer"))
def grad_cam(
  model: nn.Module, variables: PyTree, images: jax.Array, classes: jax.Array, layer: Layer
) -> jax.Array:
  """Where a layer sees evidence for a class: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391).

  Each channel is weighted by the mean over positions of the gradient of the class's logit; the map
  is the sum of the weighted channels, and 0 where that is negative. With two classes the logit
  less the other one takes the logit's place: networks with a single logit have it for one class
  only (see models.layers.dense_logits).

  Args:
    images: normalised, [n, height, width, channels].
    classes: [n], the class to explain for each image.

  Returns:
    [n, h, w] float32, h × w being the layer's positions.
  """

  def score(change: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = []

    def shift(number: int, called: nn.Module, output: Any) -> Any:
      if number != layer.number:
        return output
      kept.append(output.astype(jnp.float32))
      return output + change.astype(output.dtype)

    with _visited(shift):
      logits = model.apply(variables, images, train=False)
    if logits.shape[1] == 2:
      logits = logits - logits[:, ::-1]
    return jnp.take_along_axis(logits, classes[:, None], axis=1).sum(), kept[0]

  gradient, maps = jax.grad(score, has_aux=True)(jnp.zeros((len(images), *layer.shape)))
  return nn.relu(jnp.einsum("nhwc,nc->nhw", maps, gradient.mean((1, 2))))


class Ascent:
  """Gradient ascent on images, each exciting one filter of a layer (Erhan et al. 2009).

  What is raised is the filter's output, averaged over positions. A step adds to an image's velocity
  its gradient, scaled to `step_size` in root mean square, and the velocity to the image.

  Without momentum the images swing across ridges where a ReLU turns on or off: of the 224 filters
  of a CIFAR-10 network, 40 steps raised 85 % to ten times the magnitude of their response to noise,
  and 96 % with a momentum of 0.9. Some filters have no such images near the noise.

  Args:
    preprocess: pixels [n, height, width, channels] from 0 to 255 to what the network takes.
    step_size: in pixels' units.
    momentum: share of the velocity that a step keeps.
  """

  def __init__(
    self,
    model: nn.Module,
    variables: PyTree,
    preprocess: Callable[[jax.Array], jax.Array],
    layer: Layer,
    step_size: float = 10.0,
    momentum: float = 0.9,
  ):
    def response(variables: PyTree, pixels: jax.Array, filters: jax.Array) -> jax.Array:
      output = _output(model, variables, preprocess(pixels), layer)
      mean = output.astype(jnp.float32).mean((1, 2))
      return jnp.take_along_axis(mean, filters[:, None], axis=1)[:, 0]

    def step(variables: PyTree, state: _Climb, filters: jax.Array) -> _Climb:
      # The images of a batch do not meet: the gradient of the sum is each one's own.
      found, pullback = jax.vjp(lambda pixels: response(variables, pixels, filters), state.pixels)
      (gradient,) = pullback(jnp.ones_like(found))
      size = jnp.sqrt(jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
      velocity = momentum * state.velocity + step_size * gradient / jnp.maximum(size, 1e-12)
      better = found > state.highest
      return _Climb(
        state.pixels + velocity,
        velocity,
        jnp.maximum(found, state.highest),
        jnp.where(better[:, None, None, None], state.pixels, state.best),
      )

    self._response, self._step, self._variables = jax.jit(response), jax.jit(step), variables

  def __call__(self, pixels: np.ndarray, filters: np.ndarray, steps: int) -> np.ndarray:
    """Takes so many steps from pixels [n, height, width, channels], image i for filters[i].

    On CPU a loop within the program would be slow (see programs.py), so each step is a dispatch.

    Returns:
      Of the images on each way the one with the highest response.
    """
    filters = jnp.asarray(filters)
    state = _Climb.start(pixels)
    for _ in range(steps):
      state = self._step(self._variables, state, filters)
    last = self._response(self._variables, state.pixels, filters)
    better = (last > state.highest)[:, None, None, None]
    return np.asarray(jnp.where(better, state.pixels, state.best))

  def response(self, pixels: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """[n]: each filter's mean output for its image."""
    pixels = jnp.asarray(pixels, jnp.float32)
    return np.asarray(self._response(self._variables, pixels, jnp.asarray(filters)))

  def operations(self, pixels: np.ndarray) -> float:
    """Floating-point operations in a step on these images; 0 where the compiler cannot tell."""
    filters = jnp.zeros(len(pixels), jnp.int32)
    lowered = self._step.lower(self._variables, _Climb.start(pixels), filters)
    return (lowered.cost_analysis() or {}).get("flops", 0.0)


class _Climb(NamedTuple):
  """Where n images are on their way, and each one's best place so far."""

  pixels: jax.Array
  velocity: jax.Array
  highest: jax.Array
  best: jax.Array

  @classmethod
  def start(cls, pixels: np.ndarray) -> "_Climb":
    pixels = jnp.asarray(pixels, jnp.float32)
    return cls(pixels, jnp.zeros_like(pixels), jnp.full(len(pixels), -jnp.inf), pixels)


class _Reached(Exception):
  """Ends the tracing of a network: what comes after the layer is of no interest."""

  def __init__(self, output: jax.Array):
    self.output = output


def _output(model: nn.Module, variables: PyTree, images: jax.Array, layer: Layer) -> jax.Array:
  """What a layer puts out. The network ends there, so that images may have any size."""

  def stop(number: int, called: nn.Module, output: Any) -> Any:
    if number == layer.number:
      raise _Reached(output)
    return output

  try:
    with _visited(stop):
      model.apply(variables, images, train=False)
  except _Reached as reached:
    return reached.output
  raise ValueError(f"{layer.name} is no layer of this network")


@contextlib.contextmanager
def _visited(visit: Callable[[int, nn.Module, Any], Any]) -> Iterator[None]:
  """Within it `visit(number, module, output)` gives what each call of a module puts out instead."""
  numbers = itertools.count()

  def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    output = call(*args, **kwargs)
    if context.method_name != "__call__":
      return output
    return visit(next(numbers), context.module, output)

  with nn.intercept_methods(intercept):
    yield
