"""A trained network out of its run folder, ready to use:

  from analysis.run import load_run

  run = load_run("/tmp/run")
  probabilities = run.predict(images)  # uint8 [n, height, width, channels]

Nothing but the folder is needed; the images it was trained on are loaded by `run.data()`.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

import input_pipeline
import models
from cifar_jax import errors
from cifar_jax.augment import transforms
from cifar_jax.data import datasets
from cifar_jax.runs import checkpoints, run_folder

PyTree = Any
_BATCH = 250  # images computed at once


@dataclasses.dataclass(frozen=True)
class Run:
  """A run folder with the selected weights of one seed.

  Attributes:
    path: the folder.
    config: as it was resolved when the run started.
    description: what dataset.json holds: class_names, image_shape, mean, std and more.
    seed: the seed whose weights these are.
    step: the training step that they were taken after.
    variables: {'params': …, 'batch_stats': …}.
    model: the network; it computes in float32 on CPU, where bfloat16 is slower.
  """

  path: epath.Path
  config: ml_collections.ConfigDict
  description: dict[str, Any]
  seed: int
  step: int
  variables: dict[str, PyTree]
  model: Any

  @property
  def name(self) -> str:
    """What tables and plots call the run: the folder's name."""
    return self.path.resolve().name

  @property
  def class_names(self) -> list[str]:
    return self.description["class_names"]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of the images that the network was trained on."""
    return tuple(self.description["image_shape"])

  @property
  def results(self) -> dict[str, Any] | None:
    """What results.json holds, None while the run has not finished."""
    return run_folder.RunFolder(self.path, writer=False).results()

  @property
  def metrics(self) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    return run_folder.RunFolder(self.path, writer=False).metrics()

  def normalize(self, images: jax.Array) -> jax.Array:
    """uint8 images [n, height, width, channels] to what the network takes, float32."""
    if self.config.data.normalize == "standardize":
      return transforms.normalize(images, self.description["mean"], self.description["std"])
    channels = images.shape[-1]
    return transforms.normalize(images, (0.0,) * channels, (1.0,) * channels)

  def logits(self, images: np.ndarray) -> np.ndarray:
    """Logits [n, classes] float32 of uint8 images [n, height, width, channels].

    Raises:
      UserError: the images are not of the shape and type that the network was trained on.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
      raise errors.UserError(
        f"images: {images.dtype} of shape {images.shape}; {self.name} takes uint8 of shape "
        f"(n, {', '.join(map(str, self.image_shape))})"
      )
    found = [np.zeros((0, len(self.class_names)), np.float32)]
    for start in range(0, len(images), _BATCH):
      batch = images[start : start + _BATCH]
      # Powers of two, so that few shapes are compiled.
      size = min(_BATCH, 1 << (len(batch) - 1).bit_length())
      padded = np.resize(batch, (size, *batch.shape[1:]))
      try:
        logits = self._apply(self.variables, padded)
      except flax.errors.FlaxError as error:
        raise errors.UserError(
          f"{self.path}: its weights are not those of the model in its config.json; put the files "
          "back as they were"
        ) from error
      found.append(np.asarray(logits)[: len(batch)])
    return np.concatenate(found)

  def predict(self, images: np.ndarray) -> np.ndarray:
    """Probabilities [n, classes] float32 of uint8 images [n, height, width, channels]."""
    return np.asarray(jax.nn.softmax(self.logits(images)))

  def data(self) -> tuple[datasets.Dataset, input_pipeline.Splits]:
    """The data set that the run was trained on, and its splits.

    Raises:
      UserError: it cannot be had, or is no longer the same.
    """
    dataset = input_pipeline.load(self.config)
    if dataset.fingerprint != self.description["fingerprint"]:
      raise errors.UserError(
        f"data.name: {dataset.name} is not what {self.path} was trained on (fingerprint "
        f"{dataset.fingerprint[:12]}…, not {self.description['fingerprint'][:12]}…); put the same "
        "files back"
      )
    return dataset, input_pipeline.make_splits(dataset, self.config.data)

  @functools.cached_property
  def _apply(self) -> Any:
    return jax.jit(
      lambda variables, images: self.model.apply(variables, self.normalize(images), train=False)
    )


def load_run(path: epath.PathLike, seed: int | None = None) -> Run:
  """Loads the selected weights of a run, finished or not.

  Args:
    path: the run folder.
    seed: which seed's weights, for a run of several; None for the first.

  Raises:
    UserError: it is no run folder, it has no checkpoint yet, or no such seed.
  """
  folder = epath.Path(path).expanduser()
  for name in ("config.json", "dataset.json"):
    if not (folder / name).exists():
      raise errors.UserError(f"{path}: not a run folder, it has no {name}; name a --workdir")
  config, description = (
    run_folder.read_json(folder / name, "put it back as it was")
    for name in ("config.json", "dataset.json")
  )
  with run_folder.reading(folder):
    return _load(folder, ml_collections.ConfigDict(config), description, seed)


def _load(
  folder: epath.Path,
  config: ml_collections.ConfigDict,
  description: dict[str, Any],
  seed: int | None,
) -> Run:
  _check_description(folder / "dataset.json", config, description)
  seeds = range(config.seed, config.seed + config.num_seeds)
  seed = config.seed if seed is None else seed
  if seed not in seeds:
    raise errors.UserError(f"seed: {folder} has the seeds {seeds[0]} to {seeds[-1]}, not {seed}")
  step, variables = checkpoints.read_best(folder)
  if len(seeds) > 1:
    variables = jax.tree.map(lambda leaf: leaf[seed - config.seed], variables)
  on_cpu = jax.default_backend() == "cpu"
  model = models.create(
    config.model,
    len(description["class_names"]),
    dtype=jnp.float32 if on_cpu else jnp.dtype(config.dtype),
  )
  return Run(folder, config, description, seed, step, variables, model)


def _check_description(
  file: epath.Path, config: ml_collections.ConfigDict, description: dict[str, Any]
) -> None:
  """Refuses a dataset.json that images could not be prepared by, or would be prepared wrongly."""
  names, shape = description["class_names"], description["image_shape"]
  sound = isinstance(names, list) and names
  sound = sound and all(isinstance(name, str) for name in [*names, description["name"]])
  sound = sound and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)
  if config.data.normalize == "standardize":
    for moments in (description["mean"], description["std"]):
      sound = sound and len(moments) == shape[-1]
      sound = sound and all(isinstance(m, int | float) and math.isfinite(m) for m in moments)
  if not sound:
    raise errors.UserError(
      f"{file}: its name, class_names, image_shape, mean and std are not those of a data set; put "
      "it back as it was"
    )
