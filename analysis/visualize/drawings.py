"""The pictures of `--mode=visualize`, one function each."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath

from analysis.run import Run
from analysis.visualize import ascent, gradients, pictures
from analysis.visualize.examples import Example, label_example
from analysis.visualize.gradients import Layer
from cifar_jax.augment import chain
from cifar_jax.runs import plots
from cifar_jax.runtime.console import progress
from cifar_jax.training import rng
from cifar_jax.types import Array

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_NUM_DRAWS = 6  # of the augmentation
MAX_ACTIVATION_LAYERS, MAX_FILTER_LAYERS = 11, 8
MAX_CHANNELS = 64  # of a layer


def draw_augmentation(run: Run, examples: Sequence[Example], path: epath.Path) -> None:
  """Draw each image, and next to it several draws of the run's augmentation."""
  augment = chain.parse(run.config.augment)
  pixels = np.stack([example.pixels for example in examples])
  draws = _draw_augmented(run, augment, pixels)
  size = (1.1 * (1 + _NUM_DRAWS) + 0.2, 1.25 * len(examples) + 0.6)
  with plots.figure(path, len(examples), 1 + _NUM_DRAWS, size) as (figure, axes):
    grid = pictures.clear_axes(axes, len(examples), 1 + _NUM_DRAWS)
    for i, example in enumerate(examples):
      pictures.show_image(grid[i, 0], example.pixels)
      pictures.set_title(grid[i, 0], label_example(run, example))
      for axis, (augmented, shares) in zip(grid[i, 1:], draws, strict=True):
        pictures.show_image(axis, denormalize(run, augmented[i]))
        if augment.mixes:
          pictures.set_title(axis, f"{float(shares[i, i]):.0%} of its label", color="gray")
    pictures.set_figure_title(
      figure, f"Before augmentation (left) and after, {_NUM_DRAWS} draws of\n{run.config.augment}"
    )


def _draw_augmented(
  run: Run, augment: chain.Chain, pixels: np.ndarray
) -> list[tuple[jax.Array, jax.Array]]:
  """Return several draws of augmented images, each with the images' shares [n, n] in one another.

  The keys are the run's keys for the first positions of its first epochs, and for its first
  examples where transforms depend on the epoch. Transforms that mix images use the keys of the
  first steps, and mix only the given images.
  """
  apply = jax.jit(augment)
  key = jax.random.key(run.seed)
  numbers = np.arange(len(pixels))
  example_keys = rng.number_keys(rng.purpose_key(key, rng.EXAMPLE, 0), numbers)
  draws = []
  for epoch in range(_NUM_DRAWS):
    keys = rng.number_keys(rng.purpose_key(key, rng.AUGMENT, epoch), numbers)
    mix_key = rng.purpose_key(key, rng.MIX, epoch)
    # The shares replace labels, which are mixed like images; at first each image is all itself.
    shares = np.eye(len(pixels))
    normalized = run.normalize(pixels)
    draws.append(apply(keys, mix_key, normalized, shares, example_keys=example_keys, epoch=epoch))
  return draws


def draw_kernels(run: Run, layer: Layer, subject: str, path: epath.Path) -> None:
  """Draw a convolution's kernels: in colour for colour images, otherwise for one input channel."""
  params = run.variables["params"]
  for name in layer.name.split("/"):
    params = params[name]
  kernels = np.asarray(params["kernel"], np.float32).transpose(3, 0, 1, 2)[:MAX_CHANNELS]
  largest = np.abs(kernels).max()
  if kernels.shape[-1] != 3:
    kernels = kernels[..., :1]
  tiles = np.clip(127.5 + 127.5 * kernels / max(largest, 1e-12), 0, 255).astype(np.uint8)
  with plots.figure(path, 1, 1, (4.2, 4.8)) as (figure, axis):
    pictures.show_image(axis, pictures.make_mosaic(tiles, min_side=24))
    height, width = kernels.shape[1:3]
    filters = describe_share(len(tiles), layer.shape[2], "filters")
    pictures.set_title(
      axis,
      f"{layer.name}: {height}×{width}, {filters}\ngrey is 0, black and white are ±{largest:.2g}",
    )
    pictures.set_figure_title(figure, f"Kernels of {subject}")


def draw_filters(run: Run, convolutions: Sequence[Layer], subject: str, path: epath.Path) -> None:
  """Draw images that excite the filters of several layers, found by ascent from noise."""
  layers = gradients.select_evenly(convolutions, MAX_FILTER_LAYERS)
  excited_layers = []
  with progress("filters", len(layers), "layers") as advance:
    for layer in layers:
      excited_layers.append(ascent.excite_filters(run, layer))
      advance(1)
  rows, columns, size = pictures.lay_out_panels(len(layers))
  with plots.figure(path, rows, columns, size) as (figure, axes):
    grid = pictures.clear_axes(axes, rows, columns).ravel()
    for axis, layer, excited in zip(grid, layers, excited_layers, strict=False):
      pictures.show_image(axis, pictures.make_mosaic(excited.pixels))
      before, after = np.median(excited.noise_response), np.median(excited.pixels_response)
      pictures.set_title(
        axis,
        f"{layer.name}: {describe_share(len(excited.pixels), layer.shape[2], 'filters')}\n"
        f"response {before:.2g} → {after:.2g}",
      )
    pictures.set_figure_title(
      figure,
      f"Images that excite the filters of {subject}\n"
      f"{_describe_layers(layers, convolutions)}; {ascent.NUM_STEPS} steps of gradient ascent from "
      "noise; mean response of the median filter to noise → to these",
    )


def draw_activations(
  run: Run, convolutions: Sequence[Layer], example: Example, subject: str, path: epath.Path
) -> None:
  """Draw an image and the outputs of convolutions for it, one tile per channel."""
  layers = gradients.select_evenly(convolutions, MAX_ACTIVATION_LAYERS)
  with draw_outputs(run, layers, example, pictures.colour_by_sign, path) as (figure, axes):
    pictures.add_colour_bar(figure, axes, pictures.DIVERGING, (-1, 0, 1), ("−", "0", "+"))
    pictures.set_figure_title(
      figure,
      f"Outputs of the convolutions of {subject}\n{_describe_layers(layers, convolutions)}, before "
      "norm and activation function; each channel by its largest magnitude",
    )


@contextlib.contextmanager
def draw_outputs(
  run: Run,
  layers: Sequence[Layer],
  example: Example,
  colour: Callable[[np.ndarray], np.ndarray],
  path: epath.Path,
) -> Iterator[tuple["Figure", Any]]:
  """Draw an image and the outputs of layers for it; yield the figure and its axes, then write them.

  Args:
    colour: converts [channels, height, width] to tiles [channels, height, width, 1 or 3] uint8.
  """
  inputs = run.prepare(example.pixels[None])
  outputs = gradients.compute_outputs(run.model, run.variables, inputs, layers)
  rows, columns, size = pictures.lay_out_panels(1 + len(layers))
  with plots.figure(path, rows, columns, size) as (figure, axes):
    grid = pictures.clear_axes(axes, rows, columns).ravel()
    pictures.show_image(grid[0], example.pixels)
    pictures.set_title(grid[0], label_example(run, example))
    for axis, layer, maps in zip(grid[1:], layers, outputs, strict=False):
      tiles = colour(maps[0].transpose(2, 0, 1)[:MAX_CHANNELS])
      pictures.show_image(axis, pictures.make_mosaic(tiles, ground=80))
      height, width, num_channels = layer.shape
      channels = describe_share(len(tiles), num_channels, "channels")
      pictures.set_title(axis, f"{layer.name}\n{height}×{width}, {channels}")
    yield figure, axes


def draw_grad_cam(run: Run, examples: Sequence[Example], subject: str, path: epath.Path) -> None:
  """Draw each image, and next to it the image under the Grad-CAM map of the predicted class."""
  layer = gradients.find_last_feature_map(
    gradients.find_feature_maps(run.model, run.variables, run.image_shape)
  )
  pixels = np.stack([example.pixels for example in examples])
  probabilities = run.predict(pixels)
  classes = probabilities.argmax(1)
  inputs = run.prepare(pixels)
  maps = np.asarray(gradients.compute_grad_cam(run.model, run.variables, inputs, classes, layer))
  seen = denormalize(run, inputs)  # the map is of the transformed image
  rows, columns, size = pictures.lay_out_rows(len(examples), 2, max_per_row=4)
  with plots.figure(path, rows, columns, size) as (figure, axes):
    grid = pictures.clear_axes(axes, rows, columns).reshape(-1, 2)
    for i, (example, (left, right)) in enumerate(zip(examples, grid, strict=False)):
      pictures.show_image(left, example.pixels)
      pictures.set_title(left, label_example(run, example))
      pictures.show_image(right, pictures.overlay_heat(seen[i], maps[i]))
      predicted = pictures.shorten(run.class_names[classes[i]], 14)
      title = f"{predicted} {probabilities[i].max():.0%}"
      title += "" if maps[i].any() else "\nno evidence for it here"
      is_wrong = example.label is not None and example.label != classes[i]
      pictures.set_title(right, title, color="tab:red" if is_wrong else "black")
    pictures.add_colour_bar(figure, axes, pictures.HEAT, (0, 1), ("none", "most"))
    has_labels = any(example.label is not None for example in examples)
    pictures.set_figure_title(
      figure,
      f"Grad-CAM of {subject}: evidence for the predicted class\n"
      f"at {layer.name}, {layer.shape[0]}×{layer.shape[1]} positions"
      f"{'; a title in red: not the true class' if has_labels else ''}",
    )


def denormalize(run: Run, normalized: Array) -> np.ndarray:
  """Convert inputs of the network back to uint8, clipped: the inverse of run.normalize."""
  black, white = (
    run.normalize(np.full((1, 1, 1, run.image_shape[2]), value, np.uint8)) for value in (0, 255)
  )
  pixels = 255 * (np.asarray(normalized) - black) / (white - black)
  rounded = np.round(pixels.reshape(normalized.shape))
  return np.asarray(np.clip(rounded, 0, 255)).astype(np.uint8)


def describe_share(num_shown: int, total: int, what: str) -> str:
  """Return a text such as '64 of 256 channels', or '32 channels' if all are shown."""
  return f"{total} {what}" if num_shown == total else f"{num_shown} of {total} {what}"


def _describe_layers(shown: Sequence[Layer], layers: Sequence[Layer]) -> str:
  return describe_share(len(shown), len(layers), "convolutions")
