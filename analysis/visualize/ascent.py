"""Images that excite the filters of a network, found by gradient ascent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from analysis.interception import intercept_outputs
from analysis.run import Run
from analysis.visualize import pictures
from analysis.visualize.gradients import Layer
from cifar_jax.types import Array, Variables

NUM_STEPS = 40
MAX_FILTERS = 64
_MIN_FILTERS = 4
_MAX_SIDE = 64  # pixels; also the side of a tile in the picture
# Operations to spend on the filters of a layer, so that they take seconds in any network.
_OPERATIONS = {"cpu": 1e12, "other": 1e14}


class Excited(NamedTuple):
  """Images that excite filters of a layer, and the filters' responses.

  A response is a filter's output, averaged over positions.

  Attributes:
    pixels: the images, uint8 [filters, height, width, channels].
    noise_response: [filters], to the noise from which ascent starts.
    ascent_response: [filters], to the result of ascent, which exceeds the range of pixels.
    pixels_response: [filters], to the images.
  """

  pixels: np.ndarray
  noise_response: np.ndarray
  ascent_response: np.ndarray
  pixels_response: np.ndarray


def excite_filters(run: Run, layer: Layer) -> Excited:
  """Make images that excite the first filters of a layer.

  As in report 001, noise moves along the gradient for a fixed number of steps, and the result is
  normalised, scaled, shifted and clipped. The images are the network's normalised input, without
  `config.eval_transform`.
  """
  ascent = Ascent(run.model, run.variables, run.normalize, layer)
  count = count_affordable(run, layer)
  noise = np.random.RandomState(0).normal(128, 15, (MAX_FILTERS, *_choose_shape(run)))[:count]
  filters = np.arange(count)
  result = ascent(noise, filters, NUM_STEPS)
  pixels = pictures.rescale_to_pixels(result)
  noise_response, ascent_response, pixels_response = (
    ascent.respond(inputs, filters) for inputs in (noise, result, pixels)
  )
  return Excited(pixels, noise_response, ascent_response, pixels_response)


def count_affordable(run: Run, layer: Layer) -> int:
  """Return how many filters' images can be made in seconds, at most all those of the layer."""
  ascent = Ascent(run.model, run.variables, run.normalize, layer)
  operations = ascent.count_operations(np.zeros((1, *_choose_shape(run)))) * NUM_STEPS
  backend = "cpu" if jax.default_backend() == "cpu" else "other"
  affordable = _OPERATIONS[backend] / max(operations, 1)
  count = min(layer.shape[2], MAX_FILTERS)
  if affordable < count:
    count = pictures.largest_full_mosaic(max(_MIN_FILTERS, int(affordable)), count)
  return count


def _choose_shape(run: Run) -> tuple[int, int, int]:
  """Return height, width and channels of the images that ascent makes."""
  height, width, channels = run.image_shape
  return min(height, _MAX_SIDE), min(width, _MAX_SIDE), channels


class Ascent:
  """Gradient ascent on images, each of which excites one filter of a layer (Erhan et al. 2009).

  The objective is the filter's output, averaged over positions. A step scales the gradient of each
  image to a root mean square of `step_size`, adds the result to the image's velocity, and adds the
  velocity to the image.

  Without momentum, images swing across the ridges at which a ReLU turns on or off;
  docs/measurements.md has the figures. Some filters have no exciting image near the noise.

  Args:
    preprocess: converts pixels [n, height, width, channels] from 0 to 255 to the network's input.
    step_size: in pixel values.
    momentum: the share of the velocity that a step keeps.
  """

  def __init__(
    self,
    model: nn.Module,
    variables: Variables,
    preprocess: Callable[[jax.Array], jax.Array],
    layer: Layer,
    step_size: float = 10.0,
    momentum: float = 0.9,
  ):
    def respond(variables: Variables, pixels: jax.Array, filters: jax.Array) -> jax.Array:
      output = compute_output(model, variables, preprocess(pixels), layer)
      mean = output.astype(jnp.float32).mean((1, 2))
      return jnp.take_along_axis(mean, filters[:, None], axis=1)[:, 0]

    def step(variables: Variables, state: _State, filters: jax.Array) -> _State:
      # Images of a batch do not interact, so the gradient of the sum is that of each image.
      response, pullback = jax.vjp(lambda x: respond(variables, x, filters), state.pixels)
      (gradient,) = pullback(jnp.ones_like(response))
      size = jnp.sqrt(jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
      velocity = momentum * state.velocity + step_size * gradient / jnp.maximum(size, 1e-12)
      improved = response > state.highest
      return _State(
        state.pixels + velocity,
        velocity,
        jnp.maximum(response, state.highest),
        jnp.where(improved[:, None, None, None], state.pixels, state.best),
      )

    self._respond, self._step, self._variables = jax.jit(respond), jax.jit(step), variables

  def __call__(self, pixels: np.ndarray, filters: np.ndarray, num_steps: int) -> np.ndarray:
    """Take `num_steps` steps from pixels [n, height, width, channels], image i for filters[i].

    Each step is a dispatch, because on CPU a loop inside the program would be slow (see
    cifar_jax/training/compiled_steps.py).

    Returns:
      [n, height, width, channels]: for each filter, the image of the step with the best response.
    """
    indices = jnp.asarray(filters)
    state = _State.start(pixels)
    for _ in range(num_steps):
      state = self._step(self._variables, state, indices)
    last = self._respond(self._variables, state.pixels, indices)
    improved = (last > state.highest)[:, None, None, None]
    return np.asarray(jnp.where(improved, state.pixels, state.best))

  def respond(self, pixels: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return the mean output of each filter for its image, [n]."""
    inputs = jnp.asarray(pixels, jnp.float32)
    return np.asarray(self._respond(self._variables, inputs, jnp.asarray(filters)))

  def count_operations(self, pixels: np.ndarray) -> float:
    """Return the floating-point operations of a step on these images; 0 if they are unknown."""
    filters = jnp.zeros(len(pixels), jnp.int32)
    lowered = self._step.lower(self._variables, _State.start(pixels), filters)
    return (lowered.cost_analysis() or {}).get("flops", 0.0)


class _State(NamedTuple):
  """The current images, and for each filter the best image so far with its response."""

  pixels: jax.Array
  velocity: jax.Array
  highest: jax.Array
  best: jax.Array

  @classmethod
  def start(cls, pixels: np.ndarray) -> "_State":
    inputs = jnp.asarray(pixels, jnp.float32)
    return cls(inputs, jnp.zeros_like(inputs), jnp.full(len(inputs), -jnp.inf), inputs)


class _LayerReached(Exception):
  """Stops the tracing of a network after a layer."""

  def __init__(self, output: jax.Array):
    self.output = output


def compute_output(
  model: nn.Module, variables: Variables, images: Array, layer: Layer
) -> jax.Array:
  """Return the output of a layer; stop tracing there, so that images may have any size."""

  def stop(number: int, called: nn.Module, output: Any) -> Any:
    if number == layer.number:
      raise _LayerReached(output)
    return output

  try:
    with intercept_outputs(stop):
      model.apply(variables, images, train=False)
  except _LayerReached as reached:
    return reached.output
  raise ValueError(f"{layer.name} is not a layer of this network")
