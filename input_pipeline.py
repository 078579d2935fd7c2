"""From a data set to training batches: splits, order, device-resident or streamed, normalised.

Examples are numbered over training and test images together: 0 ... n_train - 1 are the training
images in their official order, n_train ... are the test images. The order of an epoch and every
augmentation are functions of (seed, epoch, position in the epoch), so nothing of an iterator needs
saving, and a batch is the same whatever the number of devices and whichever path delivers it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import ml_collections
import numpy as np
from absl import flags

from cifar_jax import errors
from cifar_jax.augment import chain, transforms
from cifar_jax.data import datasets
from cifar_jax.runtime import distributed
from cifar_jax.runtime.console import log

# Purposes that a run's key is split into, by fold_in.
INIT, ORDER, AUGMENT, MIX, DROPOUT, EXAMPLE = range(6)


@dataclasses.dataclass(frozen=True)
class Splits:
  """Example numbers of each split, ascending; disjoint unless the test set serves as validation."""

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray


def load(config: ml_collections.ConfigDict) -> datasets.Dataset:
  """Loads `config.data.name`, or `config.data.fallback` where that cannot be had.

  Of several processes the first prepares what is missing while the others wait; they then find it,
  or on a host with a data directory of its own prepare it there.

  Raises:
    UserError: a field or the data stand in the way, or processes have different data.
  """
  with distributed.first_goes_first("data"):
    dataset = _load(config)
  if not distributed.same_as_first("data", lambda: dataset.fingerprint):
    raise errors.UserError(
      f"data.dir: {dataset.name} is not the same here as where the first process is; delete its "
      "folder on both hosts, or share one"
    )
  return dataset


def _load(config: ml_collections.ConfigDict) -> datasets.Dataset:
  try:
    data = config.data
    return datasets.load(data.name, data.dir or None, data.source or None, data.options)
  except datasets.Unavailable as error:
    if not config.data.fallback:
      raise
    log.warning("%s", error)
    log.warning("Training on %r instead (data.fallback); the results say so.", config.data.fallback)
    return datasets.load(config.data.fallback)


def make_splits(dataset: datasets.Dataset, data: ml_collections.ConfigDict) -> Splits:
  """Splits a data set as `config.data` says: validation and train_examples, seeded, stratified.

  The validation examples are chosen first, so that limiting `train_examples` leaves them as they
  are. numpy's RandomState is frozen by its policy: the split is the same on every machine.

  Raises:
    UserError: a split would be empty or larger than what there is.
  """
  labels, n = dataset.train.labels, len(dataset.train.labels)
  test = np.arange(n, n + len(dataset.test.labels))
  everything = np.arange(n)
  rng = np.random.RandomState(data.split_seed)
  if data.validation == "test":
    validation = test
  elif data.validation == "batch_1":
    if not dataset.name.startswith("cifar10") or n != 50_000:
      raise errors.UserError(
        f"data.validation: 'batch_1' is an official file of CIFAR-10, but the data set is "
        f"{dataset.name!r}; give a fraction or a count"
      )
    validation = everything[dataset.train.ids // 10_000 == 0]
  else:
    count = data.validation if isinstance(data.validation, int) else round(data.validation * n)
    if count >= n:
      raise errors.UserError(
        f"data.validation: {count} examples leave none of the {n} for training; take fewer"
      )
    validation = stratified(labels, everything, count, rng)
  train = everything if data.validation == "test" else np.setdiff1d(everything, validation)
  if data.train_examples:
    if data.train_examples > len(train):
      raise errors.UserError(
        f"data.train_examples: {data.train_examples} is more than the {len(train)} training "
        "examples there are; 0 means all"
      )
    train = stratified(labels, train, data.train_examples, rng)
  return Splits(train, validation, test)


def training_stages(
  dataset: datasets.Dataset, splits: Splits, data: ml_collections.ConfigDict
) -> list[np.ndarray]:
  """The training examples of each stage of a run: one stage, or one for each official file.

  They are repeated until there are `data.epoch_examples` of them.

  Raises:
    UserError: `data.file_by_file` for a data set that does not come in files of equal size.
  """
  repeats = max(1, -(-data.epoch_examples // len(splits.train)))
  if not data.file_by_file:
    return [np.tile(splits.train, repeats)]
  files = dataset.train.ids[splits.train] // 10_000
  stages = [splits.train[files == number] for number in np.unique(files)]
  if not dataset.name.startswith("cifar10") or len({len(stage) for stage in stages}) > 1:
    raise errors.UserError(
      "data.file_by_file: needs whole official files of CIFAR-10; with data.validation='batch_1', "
      "'test' or 0 they are"
    )
  return [np.tile(stage, repeats) for stage in stages]


def stratified(
  labels: np.ndarray, candidates: np.ndarray, count: int, rng: np.random.RandomState
) -> np.ndarray:
  """Draws `count` of the candidates, each class by its share (largest remainders), ascending."""
  classes, sizes = np.unique(labels[candidates], return_counts=True)
  share = sizes * count / len(candidates)
  quota = np.floor(share).astype(int)
  quota[np.argsort(quota - share, kind="stable")[: count - quota.sum()]] += 1
  chosen = [
    rng.permutation(candidates[labels[candidates] == c])[:q]
    for c, q in zip(classes, quota, strict=True)
  ]
  return np.sort(np.concatenate(chosen))


@jax.jit
def epoch_order(key: jax.Array, epoch: jax.Array, examples: jax.Array) -> jax.Array:
  """The examples in the order of an epoch: a function of (seed's key, epoch) alone."""
  return jax.random.permutation(purpose_key(key, ORDER, epoch), examples)


def purpose_key(key: jax.Array, purpose: int, number: jax.Array) -> jax.Array:
  """The key for one purpose (INIT, ORDER, ...) and the number of an epoch or a step."""
  return jax.random.fold_in(jax.random.fold_in(key, purpose), number)


def number_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
  """A key for each number, such as a position or an example's: [n]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def make_preprocess(
  config: ml_collections.ConfigDict, dataset: datasets.Dataset, steps_per_epoch: int
) -> tuple[Callable, Callable]:
  """Returns (preprocess_train, preprocess_eval), pure functions for use inside a compiled step.

  preprocess_train(key, step, rows [b], examples [b], images [b, h, w, c] uint8, labels [b] int32,
    axis_name) -> {'image': [b, h, w, c] float32, 'target': [b, classes] float32, 'label': [b]
    int32}; `key` is the seed's, `rows` are those of the global batch, `examples` numbers.
  preprocess_eval(images) -> [b, h, w, c] float32.
  """
  pipeline = chain.parse(config.augment)
  channels = dataset.train.images.shape[-1]
  if config.data.normalize == "standardize":
    mean, std = dataset.mean, dataset.std
  else:
    mean, std = (0.0,) * channels, (1.0,) * channels
  classes = len(dataset.class_names)

  def preprocess_eval(images: jax.Array) -> jax.Array:
    if images.dtype != np.uint8:  # features of transfer.py, which are normalised
      return images
    return transforms.normalize(images, mean, std)

  def preprocess_train(key, step, rows, examples, images, labels, axis_name=None):
    epoch, offset = step // steps_per_epoch, step % steps_per_epoch
    positions = offset * config.batch_size + rows
    keys = number_keys(purpose_key(key, AUGMENT, epoch), positions)
    mixed, target = pipeline(
      keys,
      purpose_key(key, MIX, step),
      preprocess_eval(images),
      jax.nn.one_hot(labels, classes),
      axis_name,
      example_keys=number_keys(purpose_key(key, EXAMPLE, 0), examples),
      epoch=epoch,
    )
    return {"image": mixed, "target": target, "label": labels}

  return preprocess_train, preprocess_eval


def global_rows(batch_size: int) -> np.ndarray:
  """[local devices, rows of a device]: which rows of the global batch this process's devices hold.

  Device i of all devices, in the order of pmap's axis, holds rows [i * b, (i + 1) * b).
  """
  rows = np.arange(batch_size, dtype=np.int32).reshape(jax.device_count(), -1)
  return rows[_local_devices()]


def _local_devices() -> slice:
  """This process's devices among all, in the order of pmap's axis."""
  local = jax.local_device_count()
  return slice(jax.process_index() * local, (jax.process_index() + 1) * local)


def make_source(dataset: datasets.Dataset, data: ml_collections.ConfigDict, replicate: Callable):
  """A ResidentSource if the images fit `config.data.resident_bytes`, else a StreamedSource."""
  nbytes = dataset.train.images.nbytes + dataset.test.images.nbytes
  if nbytes <= data.resident_bytes:
    return ResidentSource(dataset, replicate)
  return StreamedSource(dataset, data.workers)


def examples_of(
  shard: Mapping[str, jax.Array], data: Mapping[str, jax.Array], start: jax.Array | int = 0
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """A device's examples (numbers [b]), images [b, h, w, c] uint8 and labels [b] int32.

  For use inside a compiled program.

  Args:
    shard: 'example' (numbers [b]), with 'image' and 'label' if streamed; or 'rows' (rows [b] of the
      global batch).
    data: the resident arrays 'images' and 'labels', and with 'rows' the epoch's 'order' [n].
    start: position in the epoch of the global batch's first row.
  """
  examples = shard["example"] if "example" in shard else data["order"][start + shard["rows"]]
  if "image" in shard:
    return examples, shard["image"], shard["label"]
  return examples, data["images"][examples], data["labels"][examples]


def evaluation_shards(
  examples: np.ndarray, batch_size: int, batches: int
) -> Iterator[dict[str, np.ndarray]]:
  """Every example exactly once: 'example' and 'mask' [local devices, batches, b] by dispatch.

  `batch_size` is rounded up to a multiple of the devices; the last dispatch is padded, and the
  mask tells its real rows.
  """
  devices = jax.device_count()
  rows = -(-batch_size // devices)
  shape = (-1, batches, devices, rows)
  size = batches * devices * rows
  padded = np.resize(examples, -(-len(examples) // size) * size)
  mask = (np.arange(len(padded)) < len(examples)).reshape(shape).swapaxes(1, 2)
  numbers = padded.astype(np.int32).reshape(shape).swapaxes(1, 2)
  local = _local_devices()
  for number, valid in zip(numbers[:, local], mask[:, local], strict=True):
    yield {"example": number, "mask": valid}


class ResidentSource:
  """The whole data set on every device as uint8; batches are gathered in the compiled program.

  A source yields (shard, data) pairs: `shard` has a leading axis of local devices, `data` is the
  same on all of them, and `examples_of` reads a step's examples out of the two.
  """

  def __init__(self, dataset: datasets.Dataset, replicate: Callable):
    self._replicate = replicate
    images = np.concatenate([dataset.train.images, dataset.test.images])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    self._arrays = replicate({"images": images, "labels": labels})

  def train(
    self, order: jax.Array, batch_size: int, first: int, dispatches: list[int]
  ) -> Iterator[tuple[dict, dict]]:
    """Yields a pair for each dispatch of so many steps; the program itself counts the steps."""
    del first
    shard = {"rows": global_rows(batch_size)}
    data = self._arrays | {"order": self._replicate(order)}
    for _ in dispatches:
      yield shard, data

  def evaluate(
    self, examples: np.ndarray, batch_size: int, batches: int
  ) -> Iterator[tuple[dict, dict]]:
    """Yields a pair for each dispatch of `batches` evaluation batches."""
    for shard in evaluation_shards(examples, batch_size, batches):
      yield shard, self._arrays


class StreamedSource:
  """Batches read ahead by Grain, each process only its own rows; the same as ResidentSource's."""

  def __init__(self, dataset: datasets.Dataset, workers: int):
    self._splits = (dataset.train, dataset.test)
    self._workers = workers

  def train(
    self, order: jax.Array, batch_size: int, first: int, dispatches: list[int]
  ) -> Iterator[tuple[dict, dict]]:
    """Yields a pair for each dispatch; `first` is the step of the epoch at which they begin."""
    order, rows = np.asarray(order), global_rows(batch_size)
    shards, step = [], first
    for steps in dispatches:
      positions = np.arange(step, step + steps)[:, None] * batch_size
      shards.append({"rows": rows, "example": order[positions + rows[:, None]]})
      step += steps
    return self._read(shards)

  def evaluate(
    self, examples: np.ndarray, batch_size: int, batches: int
  ) -> Iterator[tuple[dict, dict]]:
    """Yields a pair for each dispatch of `batches` evaluation batches."""
    return self._read(list(evaluation_shards(examples, batch_size, batches)))

  def _read(self, shards: list[dict]) -> Iterator[tuple[dict, dict]]:
    import grain  # a second of start-up that only streaming pays

    read = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    batches = grain.MapDataset.source(_Reader(self._splits, shards)).to_iter_dataset(read)
    if self._workers:
      if not flags.FLAGS.is_parsed():  # Grain reads absl's flags, which a notebook has not parsed
        flags.FLAGS.mark_as_parsed()
      batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers))
    for shard in batches:
      yield shard, {}


class _Reader:
  """Random access to the shards of an epoch, with their examples read from the arrays' files."""

  def __init__(self, splits: tuple[datasets.Split, ...], shards: list[dict]):
    self._shards = shards
    self._arrays = [(s.images, s.labels) for s in splits]

  def __len__(self) -> int:
    return len(self._shards)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    shard = self._shards[i]
    example = shard["example"]
    (train_images, train_labels), (test_images, test_labels) = self._arrays
    is_test = example >= len(train_images)
    image = np.empty(example.shape + train_images.shape[1:], train_images.dtype)
    label = np.empty(example.shape, np.int32)
    image[~is_test] = train_images[example[~is_test]]
    label[~is_test] = train_labels[example[~is_test]]
    image[is_test] = test_images[example[is_test] - len(train_images)]
    label[is_test] = test_labels[example[is_test] - len(train_images)]
    return shard | {"image": image, "label": label}

  def __getstate__(self) -> dict:
    """Worker processes get the files' names, not their contents."""
    names = [tuple(getattr(a, "filename", None) or a for a in pair) for pair in self._arrays]
    return {"_shards": self._shards, "_arrays": names}

  def __setstate__(self, state: dict) -> None:
    self._shards = state["_shards"]
    self._arrays = [
      tuple(a if isinstance(a, np.ndarray) else np.load(a, mmap_mode="r") for a in pair)
      for pair in state["_arrays"]
    ]
