"""Pictures of what a trained network sees, in <run>/plots/: `--mode=visualize`.

learning_curves.png      redrawn from metrics.jsonl
augmentation.png         images before augmentation, and several draws of the run's augmentation
kernels.png              the kernels of the first convolution
filters.png              for each convolution, images that excite its filters
activations_<image>.png  the outputs of each convolution for an image
grad_cam.png             where each image has the evidence for the predicted class
features.png             features of test images, and their principal components, by class

With `as_report`, also pictures like those of report 001:

filters_as_report.png              filter images by the report's procedure
activations_as_report_<image>.png  the outputs of convolutions after the ReLU

Of deep networks, only some layers are shown, and of wide layers some channels; the titles give the
numbers.
"""

import os
import warnings
from collections.abc import Sequence

import flax.linen as nn
from etils import epath

from analysis.run import load_run
from analysis.visualize import drawings, gradients, report001
from analysis.visualize.examples import name_files, read_examples, select_test_examples
from analysis.visualize.features import draw_features
from cifar_jax.runs import plots, run_folder, test_uses
from cifar_jax.runtime.console import log


def visualize(
  workdir: str | os.PathLike,
  paths: Sequence[str | os.PathLike] = (),
  seed: int | None = None,
  layer: str = "",
  features: str = "",
  as_report: bool = False,
) -> list[epath.Path]:
  """Draw all pictures of a run.

  Args:
    workdir: the run folder.
    paths: image files, and folders to search for image files; if empty, the pictures show test
      images of the run's dataset, the first ones of several classes.
    seed: the seed whose weights to use, for runs with several seeds; None for the first.
    layer, features: the layer and the features in features.png, as for `draw_features`.
    as_report: also draw activations and filters as report 001 does.

  Returns:
    The PNGs that were written.

  Raises:
    UserError: the run, an image or the dataset cannot be used, or there are too many images.
  """
  run = load_run(workdir, seed).in_float32()  # bfloat16 adds noise to gradients
  examples = read_examples(run, paths) if paths else select_test_examples(run)
  if not paths or layer or features:
    test_uses.record(run.path, "visualize", "pictures of predictions")
  activation_examples = examples if paths else examples[:1]
  folder = run.path / "plots"
  folder.mkdir(parents=True, exist_ok=True)
  model_and_data = f"{run.config.model.name} on {run.description['name']}"
  subject = model_and_data
  if run.config.num_seeds > 1:
    subject += f", seed {run.seed}"
  convolutions = gradients.find_feature_maps(run.model, run.variables, run.image_shape, nn.Conv)
  written = []

  def path(name: str) -> epath.Path:
    written.append(folder / f"{name}.png")
    return written[-1]

  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"Glyph .* missing")  # in the name of an image
    if run.metrics:
      with run_folder.reading(run.path / "metrics.jsonl"):
        plots.draw_learning_curves(
          run.metrics, model_and_data, path("learning_curves")
        )  # of all seeds
    if run.config.augment:
      drawings.draw_augmentation(run, examples, path("augmentation"))
    else:
      log.info("The run does not augment images: no augmentation.png")
    if convolutions:
      drawings.draw_kernels(run, convolutions[0], subject, path("kernels"))
      drawings.draw_filters(run, convolutions, subject, path("filters"))
      names = name_files(activation_examples)
      for example, name in zip(activation_examples, names, strict=True):
        drawings.draw_activations(run, convolutions, example, subject, path(f"activations_{name}"))
        if as_report:
          target = path(f"activations_as_report_{name}")
          report001.draw_activations(run, convolutions, example, subject, target)
      if as_report:
        target = path("filters_as_report")
        report001.draw_filters(run, convolutions, examples[0], subject, target)
      drawings.draw_grad_cam(run, examples, subject, path("grad_cam"))
    else:
      log.warning("%s has no convolutions: no pictures of them", run.config.model.name)
    if not paths or layer or features:  # image files need no dataset
      draw_features(run, layer, features, subject, path("features"))
  return written
