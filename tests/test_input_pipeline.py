"""Splits, order and the two ways of delivering batches."""

import types

import jax
import ml_collections
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import input_pipeline
from cifar_jax import errors
from cifar_jax.data import datasets
from cifar_jax.training import compiled_steps
from configs import default


def fake_dataset(train: int = 230, test: int = 57, name: str = "fake") -> datasets.Dataset:
  rng = np.random.RandomState(0)

  def split(n: int) -> datasets.Split:
    images = rng.randint(0, 256, (n, 4, 4, 3)).astype(np.uint8)
    labels = rng.randint(0, 3, n).astype(np.int32)
    return datasets.Split(images, labels, np.arange(n, dtype=np.int32))

  names = ("a", "b", "c")
  return datasets.Dataset(name, split(train), split(test), names, "0" * 64, (0.5,) * 3, (0.25,) * 3)


def data_config(**fields) -> ml_collections.ConfigDict:
  data = default.get_config().data
  data.update(fields)
  return data


@settings(deadline=None, max_examples=50)
@given(
  validation=st.one_of(st.floats(0, 0.9), st.integers(0, 200)),
  train_examples=st.integers(0, 20),
  split_seed=st.integers(0, 100),
)
def test_splits_are_disjoint_exhaustive_and_stratified(validation, train_examples, split_seed):
  dataset = fake_dataset()
  n, labels = len(dataset.train.labels), dataset.train.labels
  data = data_config(validation=validation, split_seed=split_seed)
  splits = input_pipeline.make_splits(dataset, data)
  everything = np.concatenate([splits.train, splits.validation, splits.test])
  assert np.array_equal(np.sort(everything), np.arange(n + len(dataset.test.labels)))
  assert np.array_equal(splits.test, np.arange(n, n + len(dataset.test.labels)))
  count = validation if isinstance(validation, int) else round(validation * n)
  assert len(splits.validation) == count
  for c in range(3):
    share = count * np.mean(labels == c)
    assert abs(np.sum(labels[splits.validation] == c) - share) < 1
  data.train_examples = train_examples
  fewer = input_pipeline.make_splits(dataset, data)
  assert np.array_equal(fewer.validation, splits.validation)
  assert len(fewer.train) == (train_examples or len(splits.train))
  assert np.isin(fewer.train, splits.train).all()


def test_split_is_the_same_on_every_machine():
  dataset = fake_dataset()
  splits = input_pipeline.make_splits(dataset, data_config(validation=12))
  assert splits.validation.tolist() == [89, 96, 104, 115, 118, 119, 125, 145, 146, 212, 217, 222]
  again = input_pipeline.make_splits(dataset, data_config(validation=12, split_seed=1))
  assert splits.validation.tolist() != again.validation.tolist()


def test_validation_on_test_is_the_test_set():
  dataset = fake_dataset()
  splits = input_pipeline.make_splits(dataset, data_config(validation="test"))
  assert np.array_equal(splits.validation, splits.test)
  assert np.array_equal(splits.train, np.arange(len(dataset.train.labels)))


def test_validation_on_the_first_official_file():
  n = 50_000
  labels = np.zeros(n, np.int32)
  ids = np.arange(n, dtype=np.int32)
  train = types.SimpleNamespace(labels=labels, ids=ids)
  test = types.SimpleNamespace(labels=labels[:7], ids=ids[:7])
  dataset = types.SimpleNamespace(name="cifar10", train=train, test=test)
  splits = input_pipeline.make_splits(dataset, data_config(validation="batch_1"))
  assert np.array_equal(splits.validation, np.arange(10_000))
  assert np.array_equal(splits.train, np.arange(10_000, 50_000))


@pytest.mark.parametrize(("wanted", "repeats"), [(0, 1), (207, 1), (208, 2), (1000, 5)])
def test_a_small_set_is_repeated_whole(wanted, repeats):
  dataset, data = fake_dataset(), data_config(epoch_examples=wanted)
  splits = input_pipeline.make_splits(dataset, data)
  (stage,) = input_pipeline.training_stages(dataset, splits, data)
  numbers, counts = np.unique(stage, return_counts=True)
  assert np.array_equal(numbers, splits.train) and set(counts) == {repeats}


def test_file_by_file_is_a_stage_for_each_official_file():
  ids = np.arange(50_000, dtype=np.int32)
  train = types.SimpleNamespace(labels=np.zeros(50_000, np.int32), ids=ids)
  test = types.SimpleNamespace(labels=np.zeros(10, np.int32), ids=ids[:10])
  dataset = types.SimpleNamespace(name="cifar10", train=train, test=test)
  data = data_config(validation="batch_1", file_by_file=True)
  splits = input_pipeline.make_splits(dataset, data)
  stages = input_pipeline.training_stages(dataset, splits, data)
  assert [stage.tolist() for stage in stages] == [
    list(range(start, start + 10_000)) for start in range(10_000, 50_000, 10_000)
  ]
  assert len(input_pipeline.training_stages(dataset, splits, data_config())) == 1
  data = data_config(validation=10, file_by_file=True)
  splits = input_pipeline.make_splits(dataset, data)
  with pytest.raises(errors.UserError, match=r"data.file_by_file: needs whole official files"):
    input_pipeline.training_stages(dataset, splits, data)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"validation": "batch_1"}, "data.validation: 'batch_1' is an official file of CIFAR-10"),
    ({"validation": 230}, "data.validation: 230 examples leave none of the 230"),
    ({"train_examples": 208}, "data.train_examples: 208 is more than the 207"),
  ],
)
def test_impossible_splits(fields, message):
  with pytest.raises(errors.UserError, match=message):
    input_pipeline.make_splits(fake_dataset(), data_config(**fields))


def test_order_is_a_permutation_and_a_function_of_seed_and_epoch():
  examples = np.arange(5, 105)
  first = input_pipeline.epoch_order(jax.random.key(0), 0, examples)
  assert sorted(first.tolist()) == examples.tolist()
  assert first.tolist() == input_pipeline.epoch_order(jax.random.key(0), 0, examples).tolist()
  assert first.tolist() != input_pipeline.epoch_order(jax.random.key(0), 1, examples).tolist()
  assert first.tolist() != input_pipeline.epoch_order(jax.random.key(1), 0, examples).tolist()


@settings(deadline=None, max_examples=50)
@given(examples=st.integers(1, 300), batch_size=st.integers(1, 300), batches=st.integers(1, 4))
def test_evaluation_counts_every_example_exactly_once(examples, batch_size, batches):
  numbers = np.arange(1000, 1000 + examples)
  shards = list(input_pipeline.evaluation_shards(numbers, batch_size, batches))
  devices = jax.device_count()
  assert all(shard["example"].shape[:2] == (devices, batches) for shard in shards)
  seen = np.concatenate([shard["example"][shard["mask"]] for shard in shards])
  assert sorted(seen.tolist()) == numbers.tolist()
  assert all(np.isin(shard["example"], numbers).all() for shard in shards)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_equal_resident_ones(tmp_path, workers):
  dataset = fake_dataset()
  np.save(tmp_path / "images.npy", dataset.train.images)
  mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
  train = datasets.Split(mapped, dataset.train.labels, dataset.train.ids)
  dataset = datasets.Dataset("fake", train, dataset.test, *_rest(dataset))
  resident = input_pipeline.ResidentSource(dataset, compiled_steps.replicate)
  streamed = input_pipeline.StreamedSource(dataset, workers)
  order = input_pipeline.epoch_order(jax.random.key(3), 2, np.arange(230))
  batch_size, first, dispatches = 16, 5, [2, 2, 1]

  def batches(source):
    step = first
    shards = source.train(order, batch_size, first, dispatches)
    for steps, (shard, data) in zip(dispatches, shards, strict=True):
      for i in range(steps):
        for device in range(jax.device_count()):
          local = {k: v[device] for k, v in shard.items()}
          local |= {k: local[k][i] for k in ("example", "image", "label") if k in local}
          found = input_pipeline.examples_of(local, data, step * batch_size)
          yield tuple(map(np.asarray, found))
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
    np.testing.assert_array_equal(a["example"], b["example"])
    np.testing.assert_array_equal(data["images"][a["example"]], b["image"])
    np.testing.assert_array_equal(data["labels"][a["example"]], b["label"])
    np.testing.assert_array_equal(a["mask"], b["mask"])


def _rest(dataset: datasets.Dataset) -> tuple:
  return dataset.class_names, dataset.fingerprint, dataset.mean, dataset.std


def test_source_is_chosen_by_size():
  dataset = fake_dataset()
  nbytes = dataset.train.images.nbytes + dataset.test.images.nbytes
  fits = input_pipeline.make_source(dataset, data_config(resident_bytes=nbytes), lambda x: x)
  assert isinstance(fits, input_pipeline.ResidentSource)
  larger = input_pipeline.make_source(dataset, data_config(resident_bytes=nbytes - 1), lambda x: x)
  assert isinstance(larger, input_pipeline.StreamedSource)


def test_preprocess_does_not_depend_on_how_a_batch_is_shared():
  config = default.get_config()
  config.batch_size = 16
  config.augment = "random_crop(padding=1) | random_flip() | cutout(size=2) | alternating_flip()"
  dataset = fake_dataset()
  train, _ = input_pipeline.make_preprocess(config, dataset, steps_per_epoch=14)
  key, rows = jax.random.key(0), np.arange(16)
  images, labels = dataset.train.images[:16], dataset.train.labels[:16]
  examples = rows + 30
  whole = train(key, 20, rows, examples, images, labels)
  half = train(key, 20, rows[8:], examples[8:], images[8:], labels[8:])
  np.testing.assert_array_equal(whole["image"][8:], half["image"])
  later = train(key, 21, rows, examples, images, labels)
  assert not np.array_equal(whole["image"], later["image"])


def test_alternating_flip_is_by_example_and_epoch_and_seed_wherever_the_example_stands():
  config = default.get_config()
  config.batch_size, config.augment = 16, "alternating_flip()"
  dataset = fake_dataset()
  train, normalize = input_pipeline.make_preprocess(config, dataset, steps_per_epoch=14)
  examples = np.arange(100, 164)
  plain = np.asarray(normalize(dataset.train.images[examples]))

  def flipped(seed, step, order):
    batch = train(
      jax.random.key(seed),
      step,
      np.arange(64),
      examples[order],
      dataset.train.images[examples[order]],
      dataset.train.labels[examples[order]],
    )
    found = np.empty(64, bool)
    found[order] = (batch["image"] == plain[order][:, :, ::-1]).all(axis=(1, 2, 3))
    same = (batch["image"] == plain[order]).all(axis=(1, 2, 3))
    assert np.array_equal(found[order], ~same)
    return found

  in_order, shuffled = np.arange(64), np.random.default_rng(0).permutation(64)
  first = flipped(0, 3, in_order)
  assert 16 <= first.sum() <= 48
  np.testing.assert_array_equal(flipped(0, 13, shuffled), first)  # another step of epoch 0
  np.testing.assert_array_equal(flipped(0, 14, shuffled), ~first)  # epoch 1
  np.testing.assert_array_equal(flipped(0, 2 * 14 + 5, shuffled), first)  # epoch 2
  assert not np.array_equal(flipped(1, 3, in_order), first)
