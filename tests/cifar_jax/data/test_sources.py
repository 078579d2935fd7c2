"""The two sources of batches, resident and streamed, deliver the same."""

import operator

import jax
import numpy as np
import pytest
from fakes import data_config, fake_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import input_pipeline
from cifar_jax.data import datasets, sources
from cifar_jax.training import compiled_steps


@settings(deadline=None, max_examples=50)
@given(examples=st.integers(1, 300), batch_size=st.integers(1, 300), batches=st.integers(1, 4))
def test_evaluation_counts_every_example_exactly_once(examples, batch_size, batches):
  numbers = np.arange(1000, 1000 + examples)
  shards = list(sources.evaluation_shards(numbers, batch_size, batches))
  devices = jax.device_count()
  assert all(shard.numbers.shape[:2] == (devices, batches) for shard in shards)
  seen = np.concatenate([shard.numbers[shard.mask] for shard in shards])
  assert sorted(seen.tolist()) == numbers.tolist()
  assert all(np.isin(shard.numbers, numbers).all() for shard in shards)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_equal_resident_ones(tmp_path, workers):
  dataset = fake_dataset()
  np.save(tmp_path / "images.npy", dataset.train.images)
  mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
  train = datasets.Split(mapped, dataset.train.labels, dataset.train.ids)
  dataset = datasets.Dataset("fake", train, dataset.test, *_rest(dataset))
  resident = sources.ResidentSource(dataset, compiled_steps.replicate)
  streamed = sources.StreamedSource(dataset, workers)
  order = input_pipeline.epoch_order(jax.random.key(3), 2, np.arange(230))
  batch_size, first, dispatches = 16, 5, [2, 2, 1]

  def preprocess(key, step, rows, examples, images, labels, axis_name):
    return {"examples": examples, "image": images, "label": labels}

  make_batch = input_pipeline.make_train_batch(
    input_pipeline.Preprocess(preprocess, None, None), batch_size, 230 // batch_size, None
  )

  def batches(source):
    step = first
    shards = source.train(order, batch_size, first, dispatches)
    for steps, (shard, data) in zip(dispatches, shards, strict=True):
      for i in range(steps):
        for device in range(jax.device_count()):
          local = jax.tree.map(operator.itemgetter(device), shard)
          examples = jax.tree.map(operator.itemgetter(i), local.examples)
          local = local._replace(examples=examples)
          batch = make_batch(jax.random.key(0), np.int32(step), local, data)
          yield tuple(np.asarray(batch[name]) for name in ("examples", "image", "label"))
        step += 1

  pairs = list(zip(batches(resident), batches(streamed), strict=True))
  assert len(pairs) == 5 * jax.device_count()
  for a, b in pairs:
    for ours, theirs in zip(a, b, strict=True):
      np.testing.assert_array_equal(ours, theirs)

  examples = np.arange(200, 287)  # training and test images together
  for (a, data), (b, _) in zip(
    resident.evaluate(examples, 32, 2), streamed.evaluate(examples, 32, 2), strict=True
  ):
    np.testing.assert_array_equal(a.numbers, b.numbers)
    np.testing.assert_array_equal(data.images[a.numbers], b.examples.images)
    np.testing.assert_array_equal(data.labels[a.numbers], b.examples.labels)
    np.testing.assert_array_equal(a.mask, b.mask)


def _rest(dataset: datasets.Dataset) -> tuple:
  return dataset.class_names, dataset.fingerprint, dataset.mean, dataset.std


def test_source_is_chosen_by_size():
  dataset = fake_dataset()
  nbytes = dataset.train.images.nbytes + dataset.test.images.nbytes
  fits = sources.make_source(dataset, data_config(resident_bytes=nbytes), lambda x: x)
  assert isinstance(fits, sources.ResidentSource)
  larger = sources.make_source(dataset, data_config(resident_bytes=nbytes - 1), lambda x: x)
  assert isinstance(larger, sources.StreamedSource)
