"""How examples reach the devices: resident there as a whole, or streamed batch by batch.

Both sources yield the same batches in the same order. Device i of all devices, in the order of
pmap's axis, holds rows [i * b, (i + 1) * b) of the global batch.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np
from absl import flags

from cifar_jax import errors
from cifar_jax.data.cache import Dataset, Split
from cifar_jax.data.photo_array import PhotoArray
from cifar_jax.types import Array, EvalShard, ResidentData, StreamedExamples, TrainShard


def global_rows(batch_size: int) -> np.ndarray:
  """Return the rows of the global batch on this process's devices: [local devices, b] int32."""
  rows = np.arange(batch_size, dtype=np.int32).reshape(jax.device_count(), -1)
  return rows[_local_devices()]


def _local_devices() -> slice:
  """Return the slice of this process's devices among all, in the order of pmap's axis."""
  num_local = jax.local_device_count()
  return slice(jax.process_index() * num_local, (jax.process_index() + 1) * num_local)


def evaluation_shards(
  examples: np.ndarray, batch_size: int, num_batches: int
) -> Iterator[EvalShard]:
  """Yield a shard for each dispatch of `num_batches` batches; every example occurs exactly once.

  `batch_size` is rounded up to a multiple of the device count. Padding fills the last dispatch.
  """
  num_devices = jax.device_count()
  num_rows = -(-batch_size // num_devices)
  shape = (-1, num_batches, num_devices, num_rows)
  size = num_batches * num_devices * num_rows
  padded = np.resize(examples, -(-len(examples) // size) * size)
  mask = (np.arange(len(padded)) < len(examples)).reshape(shape).swapaxes(1, 2)
  numbers = padded.astype(np.int32).reshape(shape).swapaxes(1, 2)
  local = _local_devices()
  for shard_numbers, shard_mask in zip(numbers[:, local], mask[:, local], strict=True):
    yield EvalShard(shard_numbers, shard_mask)


class Source(Protocol):
  """A source of batches: for each dispatch, a shard and the data resident on the devices."""

  def train(
    self, order: jax.Array, batch_size: int, first_step: int, dispatches: Sequence[int]
  ) -> Iterator[tuple[TrainShard, ResidentData]]:
    """Yield a pair for each dispatch; `dispatches` lists their numbers of steps.

    order: [examples], or [seeds, examples] with several seeds.
    first_step: the step of the epoch to begin at.
    """

  def evaluate(
    self, examples: np.ndarray, batch_size: int, num_batches: int
  ) -> Iterator[tuple[EvalShard, ResidentData]]:
    """Yield a pair for each dispatch of `num_batches` evaluation batches."""


def is_resident(dataset: Dataset, data: ml_collections.ConfigDict) -> bool:
  """Return whether training and test images together fit `data.resident_bytes`.

  Photos that are decoded on every read never fit.
  """
  if isinstance(dataset.train.images, PhotoArray):
    return False
  num_bytes = dataset.train.images.nbytes + dataset.test.images.nbytes
  return num_bytes <= data.resident_bytes


def make_source(
  dataset: Dataset, data: ml_collections.ConfigDict, replicate: Callable[[Any], Any]
) -> Source:
  """Return a ResidentSource if the dataset fits on the device, else a StreamedSource."""
  if is_resident(dataset, data):
    return ResidentSource(dataset, replicate)
  return StreamedSource(dataset, data.workers)


class ResidentSource:
  """The whole dataset on every device as uint8; the compiled step gathers its batch from it."""

  def __init__(self, dataset: Dataset, replicate: Callable[[Any], Any]):
    self._replicate = replicate
    images = np.concatenate([dataset.train.images, dataset.test.images])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    self._data = ResidentData(*replicate((images, labels)))

  def train(
    self, order: jax.Array, batch_size: int, first_step: int, dispatches: Sequence[int]
  ) -> Iterator[tuple[TrainShard, ResidentData]]:
    """Yield the same pair for each dispatch: the compiled step counts the steps itself."""
    del first_step
    shard = TrainShard(global_rows(batch_size))
    resident = self._data._replace(order=self._replicate(order))
    for _ in dispatches:
      yield shard, resident

  def evaluate(
    self, examples: np.ndarray, batch_size: int, num_batches: int
  ) -> Iterator[tuple[EvalShard, ResidentData]]:
    """Yield a pair for each dispatch of `num_batches` evaluation batches."""
    for shard in evaluation_shards(examples, batch_size, num_batches):
      yield shard, self._data


class StreamedSource:
  """Batches that Grain reads ahead; each process reads only its own rows.

  num_workers: the number of processes that read ahead; 0 means threads.
  """

  def __init__(self, dataset: Dataset, num_workers: int):
    self._splits = (dataset.train, dataset.test)
    self._num_workers = num_workers

  def train(
    self, order: jax.Array, batch_size: int, first_step: int, dispatches: Sequence[int]
  ) -> Iterator[tuple[TrainShard, ResidentData]]:
    """Yield a pair for each dispatch, with its examples."""
    host_order, rows = np.asarray(order), global_rows(batch_size)
    numbers: list[Array] = []
    step = first_step
    for num_steps in dispatches:
      positions = np.arange(step, step + num_steps)[:, None] * batch_size
      numbers.append(host_order[positions + rows[:, None]])
      step += num_steps
    for examples in self._read(numbers):
      yield TrainShard(rows, examples), ResidentData()

  def evaluate(
    self, examples: np.ndarray, batch_size: int, num_batches: int
  ) -> Iterator[tuple[EvalShard, ResidentData]]:
    """Yield a pair for each dispatch of `num_batches` evaluation batches, with its examples."""
    shards = list(evaluation_shards(examples, batch_size, num_batches))
    streamed = self._read([shard.numbers for shard in shards])
    for shard, shard_examples in zip(shards, streamed, strict=True):
      yield shard._replace(examples=shard_examples), ResidentData()

  def _read(self, numbers: Sequence[Array]) -> Iterator[StreamedExamples]:
    """Yield the examples of each array of example numbers, in order, reading ahead."""
    import grain  # takes a second to import, and only streaming needs it

    num_threads = 2
    if isinstance(self._splits[0].images, PhotoArray) and not self._num_workers:
      num_threads = os.cpu_count() or 1  # decoding can use all cores, unlike memory maps
    read_options = grain.ReadOptions(num_threads, prefetch_buffer_size=2 * num_threads)
    reader = grain.MapDataset.source(_Reader(self._splits, numbers)).to_iter_dataset(read_options)
    if self._num_workers:
      if not flags.FLAGS.is_parsed():  # Grain reads absl's flags, which a notebook has not parsed
        flags.FLAGS.mark_as_parsed()
      reader = reader.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._num_workers))
    for examples in reader:
      if isinstance(examples, errors.UserError):
        raise examples
      yield StreamedExamples(*examples)


class _Reader:
  """Random access to the examples of each dispatch, read from the arrays' files or from photos.

  Read errors are returned instead of raised, because Grain would wrap them.
  """

  def __init__(self, splits: Sequence[Split], numbers: Sequence[Array]):
    self._numbers = numbers
    self._arrays: list[tuple[Any, ...]] = [(split.images, split.labels) for split in splits]

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | errors.UserError:
    try:
      return self._read(i)
    except errors.UserError as error:
      return error

  def _read(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    numbers = np.asarray(self._numbers[i])
    (train_images, train_labels), (test_images, test_labels) = self._arrays
    is_test = numbers >= len(train_images)
    images = np.empty(numbers.shape + train_images.shape[1:], train_images.dtype)
    labels = np.empty(numbers.shape, np.int32)
    images[~is_test] = train_images[numbers[~is_test]]
    labels[~is_test] = train_labels[numbers[~is_test]]
    images[is_test] = test_images[numbers[is_test] - len(train_images)]
    labels[is_test] = test_labels[numbers[is_test] - len(train_images)]
    return numbers, images, labels

  def __getstate__(self) -> dict[str, Any]:
    """Return the state for worker processes, with memory-mapped arrays replaced by file names."""
    names = [tuple(getattr(a, "filename", None) or a for a in pair) for pair in self._arrays]
    return {"_numbers": self._numbers, "_arrays": names}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self._numbers = state["_numbers"]
    self._arrays = [
      tuple(np.load(a, mmap_mode="r") if isinstance(a, str | os.PathLike) else a for a in pair)
      for pair in state["_arrays"]
    ]
