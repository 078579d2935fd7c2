"""The training, validation and test examples, and the stages in which training uses them.

Examples are numbered over training and test images together: 0 ... n_train - 1 are the training
images in their official order, n_train and above are the test images.
"""

import dataclasses

import ml_collections
import numpy as np

from cifar_jax import errors
from cifar_jax.data.cache import Dataset

_FILE_EXAMPLES = 10_000  # training images in each official file of CIFAR-10


@dataclasses.dataclass(frozen=True)
class Splits:
  """Example numbers of each split, ascending; disjoint unless the test set serves as validation."""

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray


def make_splits(dataset: Dataset, data: ml_collections.ConfigDict) -> Splits:
  """Split a dataset as `data`, the config's section of that name, says.

  The validation examples are chosen before the training examples, so `train_examples` does not
  change them. NumPy's policy freezes RandomState, so the split is the same on every machine.

  Raises:
    UserError: a split would be empty, or larger than the dataset.
  """
  labels, num_train = dataset.train.labels, len(dataset.train.labels)
  test = np.arange(num_train, num_train + len(dataset.test.labels))
  candidates = np.arange(num_train)
  rng = np.random.RandomState(data.split_seed)
  if data.validation == "test":
    validation, train = test, candidates
  else:
    validation = _choose_validation(dataset, data.validation, rng)
    train = np.setdiff1d(candidates, validation)
  if data.train_examples:
    if data.train_examples > len(train):
      raise errors.UserError(
        f"data.train_examples: {data.train_examples} is more than the {len(train)} available "
        "training examples; 0 means all"
      )
    train = draw_stratified(labels, train, data.train_examples, rng)
  return Splits(train, validation, test)


def _choose_validation(
  dataset: Dataset, choice: float | int | str, rng: np.random.RandomState
) -> np.ndarray:
  """Return the training examples to validate on, ascending.

  choice: 'batch_1', the first official file; 'last:0.2', the last fifth in official order, as in
    Keras' `validation_split=0.2`; 'random:0.2', a fifth drawn from all classes together; a fraction
    or a count, drawn from each class by its share.
  """
  labels, num_train = dataset.train.labels, len(dataset.train.labels)
  candidates = np.arange(num_train)
  if choice == "batch_1":
    if dataset.name != "cifar10" or num_train != 50_000:
      raise errors.UserError(
        f"data.validation: 'batch_1' is an official file of CIFAR-10, but the dataset is "
        f"{dataset.name!r}; give a fraction or a count"
      )
    return candidates[dataset.train.ids // _FILE_EXAMPLES == 0]
  order, _, fraction = choice.partition(":") if isinstance(choice, str) else ("", "", choice)
  count = choice if isinstance(choice, int) else round(float(fraction) * num_train)
  if choice and not count:
    raise errors.UserError(
      f"data.validation: {choice!r} of the {num_train} training examples is less than one; take "
      "more, or 0 for none"
    )
  if count >= num_train:
    raise errors.UserError(
      f"data.validation: {count} examples leave none of the {num_train} for training; take fewer"
    )
  if order == "last":
    return candidates[num_train - count :]
  if order == "random":
    return np.sort(rng.permutation(candidates)[:count])
  return draw_stratified(labels, candidates, count, rng)


def training_stages(
  dataset: Dataset, splits: Splits, data: ml_collections.ConfigDict
) -> list[np.ndarray]:
  """Return the training examples of each stage: one stage, or one for each official file.

  A stage repeats all its examples equally often, until it has about `data.epoch_examples`.

  Raises:
    UserError: `data.file_by_file` is set for a dataset without official files of equal size.
  """
  if not data.file_by_file:
    return [_repeat(splits.train, data.epoch_examples)]
  files = dataset.train.ids[splits.train] // _FILE_EXAMPLES
  stages = [splits.train[files == number] for number in np.unique(files)]
  if dataset.name != "cifar10" or len({len(stage) for stage in stages}) > 1:
    raise errors.UserError(
      "data.file_by_file: needs whole official files of CIFAR-10; set data.validation to "
      "'batch_1', 'test' or 0"
    )
  return [_repeat(stage, data.epoch_examples) for stage in stages]


def _repeat(examples: np.ndarray, count: int) -> np.ndarray:
  """Repeat all examples equally often, until there are about `count`."""
  # Round to the nearest: one missing example must not double an epoch.
  return np.tile(examples, max(1, round(count / len(examples))))


def official_file(dataset: Dataset, example: int) -> int:
  """Return the number, from 1, of the official file of CIFAR-10 that holds a training example."""
  return int(dataset.train.ids[example]) // _FILE_EXAMPLES + 1


def draw_stratified(
  labels: np.ndarray, candidates: np.ndarray, count: int, rng: np.random.RandomState
) -> np.ndarray:
  """Draw `count` candidates, from each class by its share (largest remainders), ascending."""
  classes, sizes = np.unique(labels[candidates], return_counts=True)
  share = sizes * count / len(candidates)
  quota = np.floor(share).astype(int)
  quota[np.argsort(quota - share, kind="stable")[: count - quota.sum()]] += 1
  chosen = [
    rng.permutation(candidates[labels[candidates] == c])[:q]
    for c, q in zip(classes, quota, strict=True)
  ]
  return np.sort(np.concatenate(chosen))
