"""The order of an epoch, and preprocessing that does not depend on how a batch is shared."""

import jax
import numpy as np
import pytest
from fakes import fake_dataset

import input_pipeline
from cifar_jax import errors
from cifar_jax.data import datasets
from configs import default


def test_another_dataset_is_used_if_the_wanted_one_is_unavailable(monkeypatch, log_lines):
  loaded = []

  def load(name, data_dir=None, source=None, options=None):
    loaded.append((name, data_dir))
    if name == "cifar10":
      raise datasets.Unavailable("cifar10: unavailable")
    return fake_dataset()

  monkeypatch.setattr(datasets, "load", load)
  config = default.get_config()
  config.data.dir = "/data"
  with pytest.raises(datasets.Unavailable):
    input_pipeline._load_or_fall_back(config)
  config.data.fallback = "digits"
  input_pipeline._load_or_fall_back(config)
  assert loaded[1:] == [("cifar10", "/data"), ("digits", "/data")]
  assert "Training on 'digits' instead" in log_lines[-1]
  config.data.fallback = "digit"
  with pytest.raises(errors.UserError, match=r"^data\.fallback: unknown dataset 'digit'; did you"):
    input_pipeline._load_or_fall_back(config)


def test_order_is_a_permutation_and_a_function_of_seed_and_epoch():
  examples = np.arange(5, 105)
  first = input_pipeline.epoch_order(jax.random.key(0), 0, examples)
  assert sorted(first.tolist()) == examples.tolist()
  assert first.tolist() == input_pipeline.epoch_order(jax.random.key(0), 0, examples).tolist()
  assert first.tolist() != input_pipeline.epoch_order(jax.random.key(0), 1, examples).tolist()
  assert first.tolist() != input_pipeline.epoch_order(jax.random.key(1), 0, examples).tolist()


def test_preprocess_does_not_depend_on_how_a_batch_is_shared():
  config = default.get_config()
  config.batch_size = 16
  config.augment = "random_crop(padding=1) | random_flip() | cutout(size=2) | alternating_flip()"
  dataset = fake_dataset()
  train = input_pipeline.make_preprocess(config, dataset, steps_per_epoch=14).train
  key, rows = jax.random.key(0), np.arange(16)
  images, labels = dataset.train.images[:16], dataset.train.labels[:16]
  examples = rows + 30
  batch = train(key, 20, rows, examples, images, labels)
  half = train(key, 20, rows[8:], examples[8:], images[8:], labels[8:])
  np.testing.assert_array_equal(batch["image"][8:], half["image"])
  later = train(key, 21, rows, examples, images, labels)
  assert not np.array_equal(batch["image"], later["image"])


def test_alternating_flip_is_by_example_and_epoch_and_seed_wherever_the_example_stands():
  config = default.get_config()
  config.batch_size, config.augment = 16, "alternating_flip()"
  dataset = fake_dataset()
  train, _, normalize = input_pipeline.make_preprocess(config, dataset, steps_per_epoch=14)
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
    is_flipped = np.empty(64, bool)
    is_flipped[order] = (batch["image"] == plain[order][:, :, ::-1]).all(axis=(1, 2, 3))
    same = (batch["image"] == plain[order]).all(axis=(1, 2, 3))
    assert np.array_equal(is_flipped[order], ~same)
    return is_flipped

  in_order, shuffled = np.arange(64), np.random.default_rng(0).permutation(64)
  first = flipped(0, 3, in_order)
  assert 16 <= first.sum() <= 48
  np.testing.assert_array_equal(flipped(0, 13, shuffled), first)  # another step of epoch 0
  np.testing.assert_array_equal(flipped(0, 14, shuffled), ~first)  # epoch 1
  np.testing.assert_array_equal(flipped(0, 2 * 14 + 5, shuffled), first)  # epoch 2
  assert not np.array_equal(flipped(1, 3, in_order), first)
