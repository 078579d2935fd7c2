"""Shorten a config to a training of seconds with the same computation."""

import ml_collections

from cifar_jax.data import splits
from cifar_jax.data.cache import Dataset

_MAX_VALIDATION = 1000  # examples


def shorten(
  config: ml_collections.ConfigDict, epochs: int, batches: int, dataset: Dataset
) -> ml_collections.ConfigDict:
  """Return the config for a few epochs of a few batches, with at most 1,000 validation examples.

  If the dataset is smaller than `batches` batches, an epoch is the whole dataset.
  """
  config = config.copy_and_resolve_references()
  config.num_epochs, config.last_epoch = epochs, 1.0
  config.checkpoint_every = 1
  config.data.file_by_file, config.data.epoch_examples = False, 0
  config.data.train_examples = 0
  num_validation = len(splits.make_splits(dataset, config.data).validation)
  if num_validation > _MAX_VALIDATION and not isinstance(config.data.validation, str):
    del config.data.validation  # otherwise its type, float, would turn the count into a fraction
    config.data.validation = _MAX_VALIDATION
  wanted = batches * config.batch_size
  if wanted < len(splits.make_splits(dataset, config.data).train):
    config.data.train_examples = wanted
  return config
