"""Splits into training, validation and test examples, and stages of training."""

import types

import numpy as np
import pytest
from fakes import data_config, fake_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_jax import errors
from cifar_jax.data.splits import make_splits, official_file, training_stages


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
  if validation and not round(validation if isinstance(validation, int) else validation * n):
    with pytest.raises(errors.UserError, match=r"^data\.validation: .* less than one"):
      make_splits(dataset, data)
    return
  splits = make_splits(dataset, data)
  everything = np.concatenate([splits.train, splits.validation, splits.test])
  assert np.array_equal(np.sort(everything), np.arange(n + len(dataset.test.labels)))
  assert np.array_equal(splits.test, np.arange(n, n + len(dataset.test.labels)))
  count = validation if isinstance(validation, int) else round(validation * n)
  assert len(splits.validation) == count
  for c in range(3):
    share = count * np.mean(labels == c)
    assert abs(np.sum(labels[splits.validation] == c) - share) < 1
  data.train_examples = train_examples
  fewer = make_splits(dataset, data)
  assert np.array_equal(fewer.validation, splits.validation)
  assert len(fewer.train) == (train_examples or len(splits.train))
  assert np.isin(fewer.train, splits.train).all()


def test_split_is_the_same_on_every_machine():
  dataset = fake_dataset()
  splits = make_splits(dataset, data_config(validation=12))
  assert splits.validation.tolist() == [89, 96, 104, 115, 118, 119, 125, 145, 146, 212, 217, 222]
  again = make_splits(dataset, data_config(validation=12, split_seed=1))
  assert splits.validation.tolist() != again.validation.tolist()


@pytest.mark.parametrize("validation", [0.0001, "last:.0", "random:0.001"])
def test_a_fraction_that_rounds_to_nothing_is_refused(validation):
  with pytest.raises(errors.UserError) as raised:
    make_splits(fake_dataset(), data_config(validation=validation))
  assert str(raised.value).startswith(f"data.validation: {validation!r} of the 230 training")


def test_validation_on_test_is_the_test_set():
  dataset = fake_dataset()
  splits = make_splits(dataset, data_config(validation="test"))
  assert np.array_equal(splits.validation, splits.test)
  assert np.array_equal(splits.train, np.arange(len(dataset.train.labels)))


def test_validation_on_the_first_official_file():
  n = 50_000
  labels = np.zeros(n, np.int32)
  ids = np.arange(n, dtype=np.int32)
  train = types.SimpleNamespace(labels=labels, ids=ids)
  test = types.SimpleNamespace(labels=labels[:7], ids=ids[:7])
  dataset = types.SimpleNamespace(name="cifar10", train=train, test=test)
  splits = make_splits(dataset, data_config(validation="batch_1"))
  assert np.array_equal(splits.validation, np.arange(10_000))
  assert np.array_equal(splits.train, np.arange(10_000, 50_000))


def test_validation_on_the_last_examples_as_keras_takes_them():
  splits = make_splits(fake_dataset(), data_config(validation="last:0.2"))
  assert splits.validation.tolist() == list(range(184, 230))
  assert splits.train.tolist() == list(range(184))


def test_a_random_split_ignores_classes_and_is_the_same_on_every_machine():
  dataset = fake_dataset(train=5000)
  splits = make_splits(dataset, data_config(validation="random:0.2"))
  assert len(splits.validation) == 1000 and np.all(np.diff(splits.validation) > 0)
  expected = np.random.RandomState(0).permutation(5000)[:1000]
  assert set(splits.validation) == set(expected.tolist())
  assert np.array_equal(splits.train, np.setdiff1d(np.arange(5000), expected))
  shares = np.bincount(dataset.train.labels[splits.validation]) / np.bincount(dataset.train.labels)
  assert np.ptp(shares) > 1 / 1000  # a stratified split has equal shares to one image


def test_each_official_file_is_repeated_to_the_wanted_size():
  ids = np.arange(50_000, dtype=np.int32)
  train = types.SimpleNamespace(labels=np.zeros(50_000, np.int32), ids=ids)
  dataset = types.SimpleNamespace(name="cifar10", train=train, test=train)
  data = data_config(validation="batch_1", file_by_file=True, epoch_examples=20_000)
  stages = training_stages(dataset, make_splits(dataset, data), data)
  assert [len(stage) for stage in stages] == [20_000] * 4


@pytest.mark.parametrize(("wanted", "repeats"), [(0, 1), (207, 1), (310, 1), (311, 2), (1000, 5)])
def test_a_small_set_is_repeated_whole(wanted, repeats):
  dataset, data = fake_dataset(), data_config(epoch_examples=wanted)
  splits = make_splits(dataset, data)
  (stage,) = training_stages(dataset, splits, data)
  numbers, counts = np.unique(stage, return_counts=True)
  assert np.array_equal(numbers, splits.train) and set(counts) == {repeats}


def test_file_by_file_is_a_stage_for_each_official_file():
  ids = np.arange(50_000, dtype=np.int32)
  train = types.SimpleNamespace(labels=np.zeros(50_000, np.int32), ids=ids)
  test = types.SimpleNamespace(labels=np.zeros(10, np.int32), ids=ids[:10])
  dataset = types.SimpleNamespace(name="cifar10", train=train, test=test)
  data = data_config(validation="batch_1", file_by_file=True)
  splits = make_splits(dataset, data)
  stages = training_stages(dataset, splits, data)
  assert [stage.tolist() for stage in stages] == [
    list(range(start, start + 10_000)) for start in range(10_000, 50_000, 10_000)
  ]
  assert [official_file(dataset, stage[0]) for stage in stages] == [2, 3, 4, 5]
  assert len(training_stages(dataset, splits, data_config())) == 1
  data = data_config(validation=10, file_by_file=True)
  splits = make_splits(dataset, data)
  with pytest.raises(errors.UserError, match=r"data.file_by_file: needs whole official files"):
    training_stages(dataset, splits, data)


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
    make_splits(fake_dataset(), data_config(**fields))


@pytest.mark.parametrize("name", ["cifar100", "cifar100_coarse"])
def test_only_cifar10_has_official_files(name):
  train = types.SimpleNamespace(
    labels=np.zeros(50_000, np.int32), ids=np.arange(50_000, dtype=np.int32)
  )
  dataset = types.SimpleNamespace(name=name, train=train, test=train)
  with pytest.raises(errors.UserError, match=r"^data\.validation: 'batch_1' is an official file"):
    make_splits(dataset, data_config(validation="batch_1"))
  data = data_config(file_by_file=True)
  with pytest.raises(errors.UserError, match=r"^data\.file_by_file: needs whole official files"):
    training_stages(dataset, make_splits(dataset, data), data)
