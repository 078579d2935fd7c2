"""What a trained network sees, as pictures in <run>/plots/: `--mode=visualize`.

learning_curves.png      drawn anew from metrics.jsonl
augmentation.png         images as they are, and several draws of the run's own augmentation of each
kernels.png              the first convolution's kernels
filters.png              for each convolution, images made to excite its filters
activations_<image>.png  what each convolution puts out for an image
grad_cam.png             where in each image the evidence for the predicted class lies

Of deep networks some layers are shown, of wide layers some channels; the titles say how many.
"""

import os
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from etils import epath

from analysis import images
from analysis.run import Run, load_run
from analysis.visualize import gradients, pictures
from analysis.visualize.gradients import Layer
from cifar_jax import errors
from cifar_jax.augment import chain
from cifar_jax.runs import plots, run_folder
from cifar_jax.runtime.console import log, progress
from cifar_jax.training import rng

MAX_IMAGES = 16  # more would make one figure's images too small to see
_TEST_IMAGES = 8  # shown when none are given
_DRAWS = 6  # of the augmentation
_ACTIVATION_LAYERS, _FILTER_LAYERS = 11, 8
_CHANNELS = 64  # of a layer
_ASCENT_STEPS = 40
_ASCENT_SIDE = 64  # pixels; as large as a tile is drawn
# Operations to spend on a layer's filters: seconds, whatever the network.
_OPERATIONS = {"cpu": 1e12, "other": 1e14}
_MIN_FILTERS = 4


class Example(NamedTuple):
  """An image to look at: uint8 [height, width, channels], and its class if that is known."""

  name: str
  pixels: np.ndarray
  label: int | None = None


def visualize(
  workdir: str | os.PathLike, paths: Sequence[str | os.PathLike] = (), seed: int | None = None
) -> list[epath.Path]:
  """Draws everything above.

  Args:
    workdir: the run folder.
    paths: image files, and folders that are searched for them; if there are none, test images of
      the run's data set are taken, a few classes' first ones.
    seed: whose weights to take, for a run of several; None for the first.

  Returns:
    The PNGs that were written.

  Raises:
    UserError: the run, an image or the data set cannot be used, or there are too many images.
  """
  run = load_run(workdir, seed)
  examples = _read(run, paths) if paths else _test_examples(run)
  shown = examples if paths else examples[:1]  # whose activations
  plots_folder = run.path / "plots"
  plots_folder.mkdir(parents=True, exist_ok=True)
  subject = f"{run.config.model.name} on {run.description['name']}"
  if run.config.num_seeds > 1:
    subject += f", seed {run.seed}"
  convolutions = gradients.feature_maps(run.model, run.variables, run.image_shape, nn.Conv)
  written = []

  def path(name: str) -> epath.Path:
    written.append(plots_folder / f"{name}.png")
    return written[-1]

  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"Glyph .* missing")  # in the name of an image
    if run.metrics:
      title = f"{run.config.model.name} on {run.description['name']}"  # of all seeds
      with run_folder.reading(run.path / "metrics.jsonl"):
        plots.draw_learning_curves(run.metrics, title, path("learning_curves"))
    if run.config.augment:
      draw_augmentation(run, examples, path("augmentation"))
    else:
      log.info("The run augments nothing: no augmentation.png")
    if convolutions:
      draw_kernels(run, convolutions[0], subject, path("kernels"))
      draw_filters(run, convolutions, subject, path("filters"))
      for example, name in zip(shown, _file_names(shown), strict=True):
        draw_activations(run, convolutions, example, subject, path(f"activations_{name}"))
      draw_grad_cam(run, examples, subject, path("grad_cam"))
    else:
      log.warning("%s has no convolutions: no pictures of them", run.config.model.name)
  return written


def draw_augmentation(run: Run, examples: Sequence[Example], path: epath.Path) -> None:
  """Draws images, and beside each what augmentation makes of it.

  The keys are the run's own for the first positions of its first epochs, and of its first examples
  for what goes by the epoch; what mixes images, mixes these, by the keys of the first steps.
  """
  pixels = np.stack([example.pixels for example in examples])
  key = jax.random.key(run.seed)
  pipeline = chain.parse(run.config.augment)
  apply = jax.jit(pipeline)
  numbers = np.arange(len(examples))
  of_examples = rng.purpose_key(key, rng.EXAMPLE, 0)
  example_keys = rng.number_keys(of_examples, numbers)
  draws = []
  for epoch in range(_DRAWS):
    of_epoch = rng.purpose_key(key, rng.AUGMENT, epoch)
    keys = rng.number_keys(of_epoch, numbers)
    mix_key = rng.purpose_key(key, rng.MIX, epoch)
    # In place of labels each image's share of itself, 1, which mixing mixes.
    shares = np.eye(len(examples))
    images = run.normalize(pixels)
    draws.append(apply(keys, mix_key, images, shares, example_keys=example_keys, epoch=epoch))

  size = (1.1 * (1 + _DRAWS) + 0.2, 1.25 * len(examples) + 0.6)
  with plots.figure(path, len(examples), 1 + _DRAWS, size) as (whole, axes):
    grid = pictures.empty(axes, len(examples), 1 + _DRAWS)
    for i, example in enumerate(examples):
      pictures.show(grid[i, 0], example.pixels)
      pictures.title(grid[i, 0], _label(run, example))
      for axis, (images_drawn, shares) in zip(grid[i, 1:], draws, strict=True):
        pictures.show(axis, denormalize(run, images_drawn[i]))
        if pipeline.mixes:
          pictures.title(axis, f"{float(shares[i, i]):.0%} own label", color="gray")
    pictures.suptitle(
      whole, f"Before augmentation (left) and after, {_DRAWS} draws of\n{run.config.augment}"
    )


def draw_kernels(run: Run, layer: Layer, subject: str, path: epath.Path) -> None:
  """Draws a convolution's kernels: in colour if it sees colours, else one input channel's."""
  params = run.variables["params"]
  for name in layer.name.split("/"):
    params = params[name]
  kernels = np.asarray(params["kernel"], np.float32).transpose(3, 0, 1, 2)[:_CHANNELS]
  largest = np.abs(kernels).max()
  if kernels.shape[-1] != 3:
    kernels = kernels[..., :1]
  tiles = np.uint8(np.clip(127.5 + 127.5 * kernels / max(largest, 1e-12), 0, 255))
  with plots.figure(path, 1, 1, (4.2, 4.8)) as (whole, axis):
    pictures.show(axis, pictures.mosaic(tiles, min_side=24))
    height, width = kernels.shape[1:3]
    shown = _share(len(tiles), layer.shape[2], "filters")
    pictures.title(
      axis,
      f"{layer.name}: {height}×{width}, {shown}\ngray is 0, black and white are ±{largest:.2g}",
    )
    pictures.suptitle(whole, f"Kernels of {subject}")


def draw_filters(run: Run, convolutions: Sequence[Layer], subject: str, path: epath.Path) -> None:
  """Draws, for filters of several layers, images that excite them, found from noise."""
  layers = gradients.spread(convolutions, _FILTER_LAYERS)
  made = []
  with progress("filters", len(layers), "layers") as advance:
    for layer in layers:
      made.append(excite(run, layer))
      advance(1)
  rows, columns, size = pictures.panels(len(layers))
  with plots.figure(path, rows, columns, size) as (whole, axes):
    grid = pictures.empty(axes, rows, columns).ravel()
    for axis, layer, excited in zip(grid, layers, made, strict=False):
      pictures.show(axis, pictures.mosaic(excited.pixels))
      pictures.title(
        axis,
        f"{layer.name}: {_share(len(excited.pixels), layer.shape[2], 'filters')}\n"
        f"response {np.median(excited.to_noise):.2g} → {np.median(excited.to_pixels):.2g}",
      )
    pictures.suptitle(
      whole,
      f"Images that excite the filters of {subject}\n"
      f"{_of(layers, convolutions)}; {_ASCENT_STEPS} steps of gradient ascent from noise; "
      "mean response of the median filter to noise → to these",
    )


class Excited(NamedTuple):
  """Images that excite filters of a layer, and its filters' outputs averaged over positions.

  Attributes:
    pixels: the images, uint8 [filters, height, width, channels].
    to_noise: [filters], for the noise that they were made from.
    to_found: [filters], for what ascent made of it, which leaves the range of pixels.
    to_pixels: [filters], for the images.
  """

  pixels: np.ndarray
  to_noise: np.ndarray
  to_found: np.ndarray
  to_pixels: np.ndarray


def excite(run: Run, layer: Layer) -> Excited:
  """Makes images that excite filters of a layer, the first ones.

  As in report 001, noise is moved along the gradient for a fixed number of steps, and what comes of
  it is normalised, scaled, shifted and clipped.
  """
  height, width, channels = run.image_shape
  shape = (min(height, _ASCENT_SIDE), min(width, _ASCENT_SIDE), channels)
  ascent = gradients.Ascent(run.model, run.variables, run.normalize, layer)
  noise = np.random.RandomState(0).normal(128, 15, (_CHANNELS, *shape))
  backend = "cpu" if jax.default_backend() == "cpu" else "other"
  affordable = _OPERATIONS[backend] / max(ascent.operations(noise[:1]) * _ASCENT_STEPS, 1)
  count = min(layer.shape[2], _CHANNELS)
  if affordable < count:
    count = pictures.that_fill_a_mosaic(max(_MIN_FILTERS, int(affordable)), count)
  noise, filters = noise[:count], np.arange(count)
  found = ascent(noise, filters, _ASCENT_STEPS)
  pixels = pictures.to_pixels(found)
  return Excited(pixels, *(ascent.response(x, filters) for x in (noise, found, pixels)))


def draw_activations(
  run: Run, convolutions: Sequence[Layer], example: Example, subject: str, path: epath.Path
) -> None:
  """Draws an image and what convolutions put out for it, a tile for each channel."""
  layers = gradients.spread(convolutions, _ACTIVATION_LAYERS)
  found = gradients.outputs(run.model, run.variables, run.normalize(example.pixels[None]), layers)
  rows, columns, size = pictures.panels(1 + len(layers))
  with plots.figure(path, rows, columns, size) as (whole, axes):
    grid = pictures.empty(axes, rows, columns).ravel()
    pictures.show(grid[0], example.pixels)
    pictures.title(grid[0], _label(run, example))
    for axis, layer, maps in zip(grid[1:], layers, found, strict=False):
      tiles = pictures.signed_colours(maps[0].transpose(2, 0, 1)[:_CHANNELS])
      pictures.show(axis, pictures.mosaic(tiles, ground=80))
      height, width, channels = layer.shape
      shown = _share(len(tiles), channels, "channels")
      pictures.title(axis, f"{layer.name}\n{height}×{width}, {shown}")
    pictures.colour_bar(whole, axes, pictures.DIVERGING, (-1, 0, 1), ("−", "0", "+"))
    pictures.suptitle(
      whole,
      f"Outputs of the convolutions of {subject}\n{_of(layers, convolutions)}, before norm and "
      "activation function; each channel by its own largest magnitude",
    )


def draw_grad_cam(run: Run, examples: Sequence[Example], subject: str, path: epath.Path) -> None:
  """Draws each image beside itself under the map of Grad-CAM for the class that is predicted."""
  layer = gradients.last_feature_map(
    gradients.feature_maps(run.model, run.variables, run.image_shape)
  )
  pixels = np.stack([example.pixels for example in examples])
  probabilities = run.predict(pixels)
  classes = probabilities.argmax(1)
  maps = np.asarray(
    gradients.grad_cam(run.model, run.variables, run.normalize(pixels), classes, layer)
  )
  rows, columns, size = pictures.images_in_rows(len(examples), 2, most=4)
  with plots.figure(path, rows, columns, size) as (whole, axes):
    grid = pictures.empty(axes, rows, columns)
    for i, example in enumerate(examples):
      left = grid[i // (columns // 2), i % (columns // 2) * 2 :]
      pictures.show(left[0], example.pixels)
      pictures.title(left[0], _label(run, example))
      pictures.show(left[1], pictures.overlay(example.pixels, maps[i]))
      right = example.label is None or example.label == classes[i]
      predicted = pictures.shortened(run.class_names[classes[i]], 14)
      note = f"{predicted} {probabilities[i].max():.0%}"
      note += "" if maps[i].any() else "\nno evidence for it here"
      pictures.title(left[1], note, color="black" if right else "tab:red")
    pictures.colour_bar(whole, axes, pictures.HEAT, (0, 1), ("none", "most"))
    known = any(example.label is not None for example in examples)
    pictures.suptitle(
      whole,
      f"Grad-CAM of {subject}: evidence for the predicted class\n"
      f"at {layer.name}, {layer.shape[0]}×{layer.shape[1]} positions"
      f"{'; a title in red: not the true class' if known else ''}",
    )


def denormalize(run: Run, images: jax.Array) -> np.ndarray:
  """What the network takes as uint8 again, clipped: the inverse of run.normalize."""
  zero, one = (run.normalize(np.full((1, 1, 1, run.image_shape[2]), v, np.uint8)) for v in (0, 255))
  pixels = 255 * (np.asarray(images) - zero) / (one - zero)
  return np.uint8(np.clip(np.round(pixels.reshape(images.shape)), 0, 255))


def _read(run: Run, paths: Sequence[str | os.PathLike]) -> list[Example]:
  files = images.find_files(paths)
  if len(files) > MAX_IMAGES:
    raise errors.UserError(
      f"images: {len(files)} are too many to be seen in one picture; name at most {MAX_IMAGES}"
    )
  recipe = images.choose_decoding(run)
  found = []
  for file in files:
    try:
      pixels = images.decode(images.read_file(file), *recipe)
    except Exception as error:  # a file's bytes can make Pillow raise almost anything
      reason = getattr(error, "strerror", None) or " ".join(str(error).split())
      raise errors.UserError(
        f"{images.printable(file)}: cannot be read as an image ({reason}); name another"
      ) from error
    found.append(Example(images.printable(file.name), pixels))
  return found


def _test_examples(run: Run) -> list[Example]:
  """The first test images of the first classes, of each as many."""
  try:
    test = run.load_data()[0].test
  except errors.UserError as error:
    raise errors.UserError(f"{error}; or name image files to look at") from error
  labels = np.asarray(test.labels)
  rank = np.zeros(len(labels), int)  # how many of the same class come before
  for label in np.unique(labels):
    of_class = np.flatnonzero(labels == label)
    rank[of_class] = np.arange(len(of_class))
  chosen = np.lexsort((labels, rank))[:_TEST_IMAGES]
  return [Example(f"test_{i}", np.asarray(test.images[i]), int(labels[i])) for i in chosen]


def _file_names(examples: Sequence[Example]) -> list[str]:
  """For each a different name that any file system takes."""
  names = []
  for example in examples:
    name = plain = re.sub(r"[^\w.-]+", "_", os.path.splitext(example.name)[0])[:60] or "image"
    number = 1
    while name in names:
      number += 1
      name = f"{plain}_{number}"
    names.append(name)
  return names


def _label(run: Run, example: Example) -> str:
  name = example.name if example.label is None else run.class_names[example.label]
  return pictures.shortened(name, 16)


def _share(shown: int, total: int, what: str) -> str:
  return f"{total} {what}" if shown == total else f"{shown} of {total} {what}"


def _of(shown: Sequence[Layer], total: Sequence[Layer]) -> str:
  return _share(len(shown), len(total), "convolutions")
