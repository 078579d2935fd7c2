"""From a dataset to training batches: load, order, gather, normalise, augment.

The order of an epoch and every augmentation are functions of (seed, epoch, position in the epoch).
So no iterator state has to be saved, and a batch is the same for any number of devices.

cifar_jax/data/splits.py decides which examples form a split, and cifar_jax/data/sources.py brings
them to the devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from cifar_jax import errors, registry
from cifar_jax.augment import chain, evaluation, transforms
from cifar_jax.data import datasets
from cifar_jax.runtime import distributed
from cifar_jax.runtime.console import log
from cifar_jax.training import rng
from cifar_jax.types import Batch, EvalShard, ResidentData, TrainShard


def load(config: ml_collections.ConfigDict) -> datasets.Dataset:
  """Load the dataset `config.data.name`, or `config.data.fallback` if the former is unavailable.

  With several processes, the first prepares missing data while the others wait. On a host with a
  separate data directory, the first process of that host prepares the data there.

  Raises:
    UserError: a field or the data is invalid, or the processes have different data.
  """
  with distributed.first_process_first("data"):
    dataset = _load_or_fall_back(config)
  if not distributed.same_as_first("data", lambda: dataset.fingerprint):
    raise errors.UserError(
      f"data.dir: {dataset.name} differs from the first process's copy; delete its folder on both "
      "hosts, or share one"
    )
  return dataset


def _load_or_fall_back(config: ml_collections.ConfigDict) -> datasets.Dataset:
  data = config.data
  if data.fallback and data.fallback not in datasets.list_names():
    raise registry.unknown("data.fallback", "dataset", data.fallback, datasets.list_names())
  try:
    return datasets.load(data.name, data.dir or None, data.source or None, data.options)
  except datasets.Unavailable as error:
    if not data.fallback:
      raise
    log.warning("%s", error)
    log.warning("Training on %r instead (data.fallback); results.json records this.", data.fallback)
    return datasets.load(config.data.fallback, data.dir or None)


@jax.jit
def epoch_order(key: jax.Array, epoch: jax.Array, examples: jax.Array) -> jax.Array:
  """Return the examples in the order of an epoch, which depends on (seed's key, epoch) alone."""
  return jax.random.permutation(rng.purpose_key(key, rng.ORDER, epoch), examples)


# Preprocessing, inside the compiled step.


class Preprocess(NamedTuple):
  """Pure functions that turn uint8 images into a network's input, for use in a compiled step.

  Attributes:
    train: (key of the seed, step, rows [b] of the global batch, example numbers [b], images
      [b, h, w, c] uint8, labels [b] int32, axis_name) -> batch with 'image' [b, h, w, c] float32,
      'target' [b, classes] float32 and 'label' [b] int32.
    evaluate: images -> [b, h, w, c] float32, normalised and transformed for evaluation.
    normalize: images -> [b, h, w, c] float32, only normalised.
  """

  train: Callable[..., Batch]
  evaluate: Callable[[Any], jax.Array]
  normalize: Callable[[Any], jax.Array]


def make_preprocess(
  config: ml_collections.ConfigDict, dataset: datasets.Dataset, steps_per_epoch: int
) -> Preprocess:
  """Return the normalisation, augmentation and evaluation transform that `config` describes."""
  augmentations = chain.parse(config.augment)
  eval_transform = evaluation.parse(config.eval_transform)
  num_channels, num_classes = dataset.train.images.shape[-1], len(dataset.class_names)
  mean: Sequence[float] = (0.0,) * num_channels
  std: Sequence[float] = (1.0,) * num_channels
  if config.data.normalize == "standardize":
    mean, std = dataset.mean, dataset.std

  def normalize(images: jax.Array) -> jax.Array:
    if images.dtype != np.uint8:  # features that a frozen base computed from normalised images
      return images
    return transforms.normalize(images, mean, std)

  def evaluate(images: jax.Array) -> jax.Array:
    return eval_transform(images, normalize(images))

  def train(
    key: jax.Array,
    step: jax.Array,
    rows: jax.Array,
    examples: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    axis_name: str | None = None,
  ) -> Batch:
    epoch, offset = step // steps_per_epoch, step % steps_per_epoch
    positions = offset * config.batch_size + rows
    augmented, target = augmentations(
      rng.number_keys(rng.purpose_key(key, rng.AUGMENT, epoch), positions),
      rng.purpose_key(key, rng.MIX, step),
      normalize(images),
      jax.nn.one_hot(labels, num_classes),
      axis_name,
      example_keys=rng.number_keys(rng.purpose_key(key, rng.EXAMPLE, 0), examples),
      epoch=epoch,
    )
    return {"image": augmented, "target": target, "label": labels}

  return Preprocess(train, evaluate, normalize)


def make_train_batch(
  preprocess: Preprocess, batch_size: int, steps_per_epoch: int, axis_name: str | None
) -> Callable[[jax.Array, jax.Array, TrainShard, ResidentData], Batch]:
  """Return make_batch(seed's key, step, shard, resident data) for a device's part of a batch."""

  def make_batch(
    key: jax.Array, step: jax.Array, shard: TrainShard, resident: ResidentData
  ) -> Batch:
    start = step % steps_per_epoch * batch_size
    examples = shard.examples
    if examples is None:
      assert resident.order is not None
      examples = resident.gather(resident.order[start + shard.rows])
    return preprocess.train(key, step, shard.rows, *examples, axis_name)

  return make_batch


def make_eval_batch(preprocess: Preprocess) -> Callable[[EvalShard, ResidentData], Batch]:
  """Return make_batch(shard, resident data) for a device's part of an evaluation batch."""

  def make_batch(shard: EvalShard, resident: ResidentData) -> Batch:
    examples = shard.examples or resident.gather(shard.numbers)
    image = preprocess.evaluate(examples.images)
    return {"image": image, "label": examples.labels, "mask": shard.mask}

  return make_batch
