"""A trained network, loaded from its run folder.

  from analysis import load_run

  run = load_run("/tmp/run")
  probabilities = run.predict(images)  # uint8 [n, height, width, channels]

Only the folder is needed; `run.load_data()` loads the dataset that the run was trained on. Instead
of a run folder, `load_run` also takes a weights file that --mode=export wrote, a folder with such a
file, and a repository on the Hugging Face hub, as hf://owner/name.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Self

import flax.errors
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath
from flax import linen as nn

import input_pipeline
import models
from analysis import run_record, shared_run
from cifar_jax import errors
from cifar_jax.augment import evaluation, test_time, transforms
from cifar_jax.data import datasets, splits
from cifar_jax.kernels import convolution
from cifar_jax.runs import checkpoints, run_folder, weights_file
from cifar_jax.training import compiled_steps
from cifar_jax.types import Array, Row, Variables

BATCH_SIZE = 250  # images per call of the network, on each device
# The third argument of a parallel program. It holds an array, because jax.pmap assumes that each
# argument is one array if there are as many arrays as arguments, such as the images and a network
# of two arrays.
_UNUSED = np.zeros((), np.int32)


def call_size() -> int:
  """Return the maximum number of images per call of the network, over all local devices."""
  return BATCH_SIZE * jax.local_device_count()


class Described:
  """A network with the description of its dataset, as in dataset.json."""

  description: Row

  @property
  def class_names(self) -> list[str]:
    return self.description["class_names"]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of the training images."""
    height, width, channels = self.description["image_shape"]
    return height, width, channels


@dataclasses.dataclass(frozen=True)
class Run(Described):
  """A run folder with the selected weights of one seed.

  Attributes:
    path: the run folder.
    config: the resolved config.
    description: dataset.json: class_names, image_shape, mean, std and more.
    seed: the seed that the weights belong to.
    step: the training step after which the weights were saved.
    variables: {'params': …, 'batch_stats': …}.
    model: the network, which computes in the dtype of its training, or in float32 on a CPU without
      bfloat16 units.
  """

  path: epath.Path
  config: ml_collections.ConfigDict
  description: Row
  seed: int
  step: int
  variables: Variables
  model: nn.Module

  @property
  def name(self) -> str:
    """The folder's name, which tables and plots show."""
    return self.path.resolve().name

  def in_float32(self) -> Self:
    """Return the same run with a network that computes in float32."""
    return dataclasses.replace(self, model=self.model.clone(dtype=jnp.float32))

  @property
  def results(self) -> Row | None:
    """results.json; None while the run is unfinished."""
    return run_folder.RunFolder(self.path, writer=False).results()

  @property
  def metrics(self) -> list[Row]:
    """The rows of metrics.jsonl."""
    return run_folder.RunFolder(self.path, writer=False).metrics()

  def normalize(self, images: Array) -> jax.Array:
    """Normalise images [n, height, width, channels], with pixels from 0 to 255, to float32."""
    images = jnp.asarray(images)
    if self.config.data.normalize == "standardize":
      return transforms.normalize(images, self.description["mean"], self.description["std"])
    channels = images.shape[-1]
    return transforms.normalize(images, (0.0,) * channels, (1.0,) * channels)

  def prepare(self, images: Array) -> jax.Array:
    """Convert images [n, height, width, channels], pixels from 0 to 255, to the network's input.

    Runs older than `config.eval_transform` behave as if it were ''.
    """
    transform = evaluation.parse(self.config.get("eval_transform", ""))
    return transform(images, self.normalize(images))

  def logits(self, images: Array, tta: str = "") -> np.ndarray:
    """Return the logits [n, classes] float32 of uint8 images [n, height, width, channels].

    Args:
      tta: test-time augmentation, one of test_time.KINDS; "" for none.

    Raises:
      UserError: the images have another shape or type than the training images, or the weights do
        not fit the model in config.json.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
      raise errors.UserError(
        f"images: {images.dtype} of shape {images.shape}; {self.name} takes uint8 of shape "
        f"(n, {', '.join(map(str, self.image_shape))})"
      )
    batches = [np.zeros((0, len(self.class_names)), np.float32)]
    for start in range(0, len(images), call_size()):
      batch = images[start : start + call_size()]
      # A batch with fewer images than devices is computed on one device.
      num_devices = jax.local_device_count() if len(batch) >= jax.local_device_count() else 1
      # Sizes are powers of two, so that few shapes are compiled.
      shard_size = min(BATCH_SIZE, 1 << (-(-len(batch) // num_devices) - 1).bit_length())
      padded = np.resize(batch, (num_devices * shard_size, *batch.shape[1:]))
      if num_devices == 1:
        logits = self._compiled(self.variables, padded, tta)
      else:
        shards = padded.reshape(num_devices, shard_size, *batch.shape[1:])
        logits = self._spread(tta)(self._replicated_variables, shards, _UNUSED)
      batches.append(np.asarray(logits)[: len(batch)])
    return np.concatenate(batches)

  def apply(self, variables: Variables, images: Array, tta: str = "") -> jax.Array:
    """Compute logits [n, classes] of uint8 images, as a pure function that JAX can transform.

    Raises:
      UserError: the weights do not fit the model in config.json.
    """

    def apply(inputs: jax.Array) -> jax.Array:
      return jnp.asarray(self.model.apply(variables, inputs, train=False))

    inputs = self.prepare(images)
    try:
      return test_time.predict_logits(apply, inputs, tta) if tta else apply(inputs)
    except flax.errors.FlaxError as error:
      raise errors.UserError(
        f"{self.path}: the weights do not fit the model in config.json; restore the files"
      ) from error

  def predict(self, images: Array) -> np.ndarray:
    """Return probabilities [n, classes] float32 of uint8 images [n, height, width, channels].

    Raises:
      UserError: as `logits`.
    """
    return np.asarray(jax.nn.softmax(self.logits(images)))

  def load_data(self) -> tuple[datasets.Dataset, splits.Splits]:
    """Load the dataset that the run was trained on, and its splits.

    Raises:
      UserError: the dataset is unavailable or has changed.
    """
    dataset = input_pipeline.load(self.config)
    if dataset.fingerprint != self.description["fingerprint"]:
      raise errors.UserError(
        f"data.name: {dataset.name} is not the data that {self.path} was trained on (fingerprint "
        f"{dataset.fingerprint[:12]}…, not {self.description['fingerprint'][:12]}…); restore the "
        "original files"
      )
    return dataset, splits.make_splits(dataset, self.config.data)

  @functools.cached_property
  def _compiled(self) -> Callable[[Variables, Array, str], jax.Array]:
    return jax.jit(self.apply, static_argnums=2)

  @functools.cached_property
  def _spread(self) -> Callable[[str], Callable[[Variables, Array, Array], jax.Array]]:
    """Map a kind of test-time augmentation to the program that computes on all local devices."""

    def compute(tta: str, variables: Variables, shard: jax.Array, unused: jax.Array) -> jax.Array:
      logits = self.apply(variables, shard, tta)
      return jax.lax.all_gather(logits, compiled_steps.AXIS, tiled=True)

    return functools.cache(
      lambda tta: compiled_steps.parallel(functools.partial(compute, tta), donate=False)
    )

  @functools.cached_property
  def _replicated_variables(self) -> Variables:
    return compiled_steps.replicate(self.variables)


def load_run(path: epath.PathLike, seed: int | None = None, step: int | None = None) -> Run:
  """Load the selected weights of a run, finished or not, or those of a step.

  Args:
    path: the run folder; a file or a folder with weights.safetensors; or hf://owner/name, or
      hf://owner/name@revision.
    seed: the seed whose weights to load, if the run has several; None for the first.
    step: the step whose weights to load, if its checkpoint exists (config.keep_every); None for the
      selected weights.

  Raises:
    UserError: the folder holds no run, no such checkpoint, or no such seed, or a file in it is not
      valid.
  """
  if (shared := shared_run.open_shared(path)) is not None:
    return _load_shared(shared, seed, step)
  folder = epath.Path(path).expanduser()
  config = run_record.read_config(folder)
  if not (folder / "dataset.json").exists():
    raise errors.UserError(
      f"{path}: not a run folder, because it has no dataset.json; pass a run folder as --workdir"
    )
  description = run_folder.read_json(folder / "dataset.json", "restore it")
  with run_folder.reading(folder):
    return _load(folder, ml_collections.ConfigDict(config), description, seed, step)


def _load(
  folder: epath.Path,
  config: ml_collections.ConfigDict,
  description: Row,
  seed: int | None,
  step: int | None,
) -> Run:
  if not is_valid_description(description, config.data.normalize == "standardize"):
    raise errors.UserError(
      f"{folder / 'dataset.json'}: name, class_names, image_shape, mean or std is invalid; restore "
      "the file"
    )
  seeds = range(config.seed, config.seed + config.num_seeds)
  seed = config.seed if seed is None else seed
  if seed not in seeds:
    raise errors.UserError(
      f"seed: {folder} has the seeds {seeds[0]} to {seeds[-1]}, not {seed}; use one of them"
    )
  index = seed - config.seed if len(seeds) > 1 else None
  if step is None:
    step, variables = checkpoints.read_best(folder, index)
  else:
    variables = checkpoints.read_weights(folder, step, index)
  return _create(folder, config, description, seed, step, variables)


def _load_shared(shared: shared_run.SharedRun, seed: int | None, step: int | None) -> Run:
  """Return a run from its weights file, after checking the config like a new run's."""
  folder, content = shared
  if seed not in (None, content.seed):
    raise errors.UserError(
      f"seed: {folder} has the weights of seed {content.seed}, not {seed}; use that seed"
    )
  if step not in (None, content.step):
    raise errors.UserError(
      f"step: {folder} has the weights of step {content.step}, not {step}; use that step"
    )
  with run_folder.reading(folder):
    config = shared_run.check_config(content.config)
    if not is_valid_description(content.description, config.data.normalize == "standardize"):
      raise errors.UserError(
        f"{folder}: the dataset's description in {weights_file.NAME} is invalid; download it again"
      )
    return _create(
      folder, config, content.description, content.seed, content.step, content.variables
    )


def _create(
  folder: epath.Path,
  config: ml_collections.ConfigDict,
  description: Row,
  seed: int,
  step: int,
  variables: Variables,
) -> Run:
  dtype = jnp.dtype(config.dtype)
  if jax.default_backend() == "cpu" and convolution.instruction_set(dtype) is None:
    dtype = jnp.dtype(jnp.float32)
  model = models.create(config.model, len(description["class_names"]), dtype=dtype)
  return Run(folder, config, description, seed, step, variables, model)


def is_valid_description(description: Row, standardized: bool) -> bool:
  """Return whether images can be prepared with this description of their dataset."""
  class_names, shape = description["class_names"], description["image_shape"]
  if not isinstance(class_names, list) or not class_names:
    return False
  if not all(isinstance(name, str) for name in [*class_names, description["name"]]):
    return False
  if len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
    return False
  if not standardized:
    return True
  moments = description["mean"], description["std"]
  return all(
    len(values) == shape[-1]
    and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    for values in moments
  )
