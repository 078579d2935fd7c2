"""Pictures drawn as in report 001: activations after the ReLU, and filter images.

The report shows the outputs of Keras' layers. A `Conv2D(activation="relu")` of Keras includes the
ReLU, which is not part of a convolution here.

For its filter images, noise moves along the gradient of a filter's mean output "for a fixed number
of iterations"; the result is normalised, scaled, shifted and clipped. The report calls this
gradient descent, but means to excite the filter, so here it is ascent. The report gives no numbers;
those here are from Chollet 2021 (Deep Learning with Python, second edition, 9.4.2), which has the
same steps in the same order.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from analysis.interception import intercept_outputs
from analysis.run import Run
from analysis.visualize import ascent, drawings, gradients, pictures
from analysis.visualize.examples import Example
from analysis.visualize.gradients import Layer
from cifar_jax.runs import plots
from cifar_jax.runtime.console import progress
from cifar_jax.types import Array, Variables

_NUM_STEPS, _STEP_SIZE = 30, 10.0  # the size is the norm of a step, for pixels in [0, 1]
_BORDER = 2  # positions at each side of the output that are ignored
_MEAN, _DEVIATION = 128, 64  # of the pixels of the result


def find_rectified(
  model: nn.Module, variables: Variables, images: Array, layers: Sequence[Layer]
) -> list[bool]:
  """Return for each layer whether only its positive outputs matter, as before a ReLU.

  This is true if the logits of normalised images [n, height, width, channels] stay the same when a
  ReLU is applied to the layer's output.
  """
  numbers = {layer.number for layer in layers}

  @jax.jit
  def compute(variables: Variables, images: jax.Array, rectified: int) -> jax.Array:
    def rectify(number: int, called: nn.Module, output: jax.Array) -> jax.Array:
      if number not in numbers:
        return output
      return jnp.where(number == rectified, nn.relu(output), output)

    with intercept_outputs(rectify):
      return jnp.asarray(model.apply(variables, images, train=False))

  plain = compute(variables, images, -1)
  return [
    bool(jnp.array_equal(compute(variables, images, layer.number), plain)) for layer in layers
  ]


def draw_activations(
  run: Run, convolutions: Sequence[Layer], example: Example, subject: str, path: epath.Path
) -> None:
  """Draw an image and the outputs of convolutions for it after the ReLU, one tile per channel.

  Convolutions that no ReLU follows directly are left out.
  """
  inputs = run.prepare(example.pixels[None])
  rectified = find_rectified(run.model, run.variables, inputs, convolutions)
  layers = [layer for layer, has_relu in zip(convolutions, rectified, strict=True) if has_relu]
  shown = gradients.select_evenly(layers, drawings.MAX_ACTIVATION_LAYERS)
  with drawings.draw_outputs(run, shown, example, _whiten_positive, path) as (figure, _):
    share = drawings.describe_share(len(shown), len(convolutions), "convolutions")
    pictures.set_figure_title(
      figure,
      f"Outputs of the convolutions of {subject} after the ReLU\n{share}; black is 0, white is "
      "each channel's largest",
    )


def _whiten_positive(outputs: np.ndarray) -> np.ndarray:
  """Return tiles [channels, height, width, 1] uint8 of outputs: black is 0 or less."""
  tiles = np.maximum(outputs, 0)[..., None]
  return (255 * tiles / np.maximum(tiles.max((1, 2, 3), keepdims=True), 1e-12)).astype(np.uint8)


def excite_filters(run: Run, layer: Layer, count: int, rectified: bool) -> np.ndarray:
  """Return images that excite the first `count` filters of a layer, by report 001's procedure.

  rectified: whether a ReLU belongs to the layer.

  Returns:
    uint8 [count, height, width, channels], of the size of the run's images.
  """

  @jax.jit
  def step(variables: Variables, images: jax.Array, filters: jax.Array) -> jax.Array:
    def mean_output(images: jax.Array) -> jax.Array:
      inputs = run.normalize(255 * images)
      output = ascent.compute_output(run.model, variables, inputs, layer).astype(jnp.float32)
      if min(output.shape[1:3]) > 2 * _BORDER:
        output = output[:, _BORDER:-_BORDER, _BORDER:-_BORDER]
      output = nn.relu(output) if rectified else output
      return jnp.take_along_axis(output.mean((1, 2)), filters[:, None], axis=1).sum()

    gradient = jax.grad(mean_output)(images)
    length = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3), keepdims=True))
    return images + _STEP_SIZE * gradient / jnp.maximum(length, 1e-6)

  noise = np.random.RandomState(0).uniform(0.4, 0.6, (count, *run.image_shape))
  images, filters = jnp.asarray(noise, jnp.float32), jnp.arange(count)
  for _ in range(_NUM_STEPS):  # not a loop inside the program, which is slow on CPU
    images = step(run.variables, images, filters)
  result = np.asarray(images)
  result = result - result.mean((1, 2, 3), keepdims=True)
  result /= np.maximum(result.std((1, 2, 3), keepdims=True), 1e-12)
  return np.clip(_DEVIATION * result + _MEAN, 0, 255).astype(np.uint8)


def draw_filters(
  run: Run, convolutions: Sequence[Layer], example: Example, subject: str, path: epath.Path
) -> None:
  """Draw images that excite the filters of several layers, by report 001's procedure.

  example: the image that shows which layers have a ReLU.
  """
  layers = gradients.select_evenly(convolutions, drawings.MAX_FILTER_LAYERS)
  inputs = run.prepare(example.pixels[None])
  rectified = find_rectified(run.model, run.variables, inputs, layers)
  rows, columns, size = pictures.lay_out_panels(len(layers))
  with (
    plots.figure(path, rows, columns, size) as (figure, axes),
    progress("filters as in report 001", len(layers), "layers") as advance,
  ):
    grid = pictures.clear_axes(axes, rows, columns).ravel()
    for axis, layer, has_relu in zip(grid, layers, rectified, strict=False):
      count = ascent.count_affordable(run, layer)
      pictures.show_image(axis, pictures.make_mosaic(excite_filters(run, layer, count, has_relu)))
      filters = drawings.describe_share(count, layer.shape[2], "filters")
      pictures.set_title(axis, f"{layer.name}: {filters}\n{'after the ReLU' if has_relu else ''}")
      advance(1)
    pictures.set_figure_title(
      figure,
      f"Images that excite the filters of {subject}, by report 001's procedure\n{_NUM_STEPS} steps "
      "of gradient ascent from noise",
    )
