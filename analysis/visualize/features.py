"""Scatter plots of a layer's features by class: two features, and two principal components.

A feature is a channel of a layer's output, averaged over the positions of the image.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from etils import epath

from analysis.interception import intercept_outputs
from analysis.run import Run
from analysis.visualize import pictures
from cifar_jax import errors
from cifar_jax.runs import plots
from cifar_jax.types import Variables

if TYPE_CHECKING:
  from matplotlib.axes import Axes

INPUT = "input"  # the name of the layer whose features are the pixels
_NUM_IMAGES = 1000
_BATCH_SIZE = 250
_MAX_LEGEND = 20  # classes


class FeatureLayer(NamedTuple):
  """The last call of a module whose output has channels.

  Attributes:
    number: how many calls of modules return before this one.
    name: the module's path, such as 'stage1_block1/conv1'.
    width: the channels of the output.
  """

  number: int
  name: str
  width: int


def draw_features(
  run: Run, layer_name: str, selection: str, subject: str, path: epath.Path
) -> None:
  """Draw two features of test images, and their first two principal components, by class.

  Args:
    layer_name: the layer, or INPUT for the pixels; '' for the last before the classifier.
    selection: the numbers of two features, such as '3,7'; '' for those with the largest variance.

  Raises:
    UserError: there is no such layer or feature, or the dataset is unavailable or has changed.
  """
  layers = {layer.name: layer for layer in find_layers(run)}
  name = layer_name or choose_layer(run, list(layers.values()))
  if name not in (INPUT, *layers):
    known = ", ".join([INPUT, *layers])
    raise errors.UserError(f"--layer: {name!r} is not a layer of this network; use one of: {known}")
  test = run.load_data()[0].test
  images, labels = np.asarray(test.images[:_NUM_IMAGES]), np.asarray(test.labels[:_NUM_IMAGES])
  features = compute_features(run, layers.get(name), images)
  first, second = _select(selection, features)
  points, shares = project(features)
  with plots.figure(path, 1, 2, figsize=(11, 4.8)) as (figure, (left, right)):
    _scatter(left, features[:, [first, second]], labels, run.class_names)
    left.set(xlabel=f"feature {first}", ylabel=f"feature {second}", title="Two features")
    _scatter(right, points, labels, run.class_names)
    right.set(
      xlabel=f"first component ({shares[0]:.0%} of the variance)",
      ylabel=f"second component ({shares[1]:.0%})",
      title="Principal components of all features",
    )
    if len(run.class_names) <= _MAX_LEGEND:
      right.legend(
        loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, handletextpad=0, markerscale=2
      )
    pictures.set_figure_title(
      figure,
      f"{features.shape[1]:,} features of {len(images):,} test images: layer {name} of {subject}",
    )


def find_layers(run: Run) -> list[FeatureLayer]:
  """Return the modules whose outputs have channels, without the network itself."""
  layers: dict[str, FeatureLayer] = {}

  def record(number: int, called: nn.Module, output: Any) -> Any:
    if called.path and getattr(output, "ndim", 0) in (2, 4):
      name = "/".join(called.path)
      layers.pop(name, None)  # only a module's last call counts, also for the order
      layers[name] = FeatureLayer(number, name, output.shape[-1])
    return output

  images = jax.ShapeDtypeStruct((1, *run.image_shape), np.float32)
  with intercept_outputs(record):
    jax.eval_shape(lambda v, x: run.model.apply(v, x, train=False), run.variables, images)
  return list(layers.values())


def choose_layer(run: Run, layers: Sequence[FeatureLayer]) -> str:
  """Return the last layer before the classifier, which has as many channels as there are logits."""
  hidden = [layer.name for layer in layers if layer.width != len(run.class_names)]
  # A network for two classes may have a single logit.
  hidden = [layer.name for layer in layers if layer.name in hidden and layer.width > 1]
  return hidden[-1] if hidden else INPUT


def compute_features(run: Run, layer: FeatureLayer | None, images: np.ndarray) -> np.ndarray:
  """Return the features of uint8 images, float32 [n, features]: the pixels if `layer` is None."""

  @jax.jit
  def compute(variables: Variables, images: jax.Array) -> jax.Array:
    inputs = run.prepare(images)
    if layer is None:
      return inputs.reshape(len(inputs), -1)
    kept = []

    def keep(number: int, called: nn.Module, output: Any) -> Any:
      if number == layer.number:
        kept.append(output)
      return output

    with intercept_outputs(keep):
      run.model.apply(variables, inputs, train=False)
    return kept[0].mean((1, 2)) if kept[0].ndim == 4 else kept[0]

  batches = [
    np.asarray(compute(run.variables, images[start : start + _BATCH_SIZE]), np.float32)
    for start in range(0, len(images), _BATCH_SIZE)
  ]
  return np.concatenate(batches)


def project(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return the first two principal components [n, 2], and their shares of the variance [2]."""
  centred = features.astype(np.float64) - features.mean(0)
  left, singular, _ = np.linalg.svd(centred, full_matrices=False)
  shares = singular**2 / max(np.sum(singular**2), 1e-300)
  padded = np.pad(left * singular, [(0, 0), (0, 2)])  # for a layer of one feature
  return padded[:, :2], np.pad(shares, (0, 2))[:2]


def _select(selection: str, features: np.ndarray) -> tuple[int, int]:
  """Return the numbers of the two features to show."""
  width = features.shape[1]
  if not selection:
    ranking = np.argsort(-features.var(0), kind="stable")
    return int(ranking[0]), int(ranking[min(1, width - 1)])
  numbers = [int(part) for part in selection.split(",") if part.isdigit()]
  if len(numbers) != 2 or selection.count(",") != 1 or max(numbers) >= width:
    raise errors.UserError(
      f"--features: {selection!r} must be two numbers from 0 to {width - 1}, such as 0,1"
    )
  return numbers[0], numbers[1]


def _scatter(
  axis: "Axes", points: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> None:
  """Draw points [n, 2] in the colours of their classes."""
  import matplotlib

  count = len(class_names)
  colours = matplotlib.colormaps["tab10" if count <= 10 else "tab20" if count <= 20 else "turbo"]
  for number, name in enumerate(class_names):
    members = points[labels == number]
    colour = colours(number if count <= _MAX_LEGEND else number / (count - 1))
    style: Any = {"color": colour, "s": 9, "alpha": 0.75, "linewidths": 0}
    axis.scatter(members[:, 0], members[:, 1], label=pictures.shorten(name, 20), **style)
