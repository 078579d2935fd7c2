"""The configs of the reports: what is trained, augmentation, schedules, and short versions."""

import pathlib
import re

import fakes
import jax
import numpy as np
import pytest
from flax import traverse_util
from reproductions import ABSENT, NAMES, config_of, fields, module, variables_of

from benchmarks.robustness import three_epochs
from cifar_jax.augment import chain
from cifar_jax.config import check_config
from cifar_jax.data import photo_recipe, splits
from cifar_jax.optim import optimizers, schedules
from configs import default


@pytest.mark.parametrize(
  ("name", "trained"),
  [
    # The base has 14,714,688 of the 18,910,017 parameters.
    ("report001_vgg16_frozen", 4_195_329),
    ("report001_vgg16_augmented", 4_195_329),
    ("report001_vgg16_unfrozen", 18_910_017),
  ],
)
def test_the_number_of_trained_parameters(name, trained):
  config = config_of(name)
  schedule = schedules.create(config.schedule, config.optimizer.learning_rate, 100, 1000)
  tx = optimizers.create(config.optimizer, schedule)
  state = jax.eval_shape(tx.init, variables_of(name)["params"])
  moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
  assert moments == 2 * trained  # Adam keeps two for each trained parameter


def test_the_unfrozen_run_continues_the_frozen_one():
  config = config_of("report001_vgg16_unfrozen")
  first = pathlib.Path(config.model.pretrained).name
  assert first in NAMES
  old, new = fields(first), fields("report001_vgg16_unfrozen")
  for field in old:
    if field.startswith(("data.", "model.")) and field != "model.pretrained":
      assert new[field] == old[field]  # the same network on the same split
  # The docstring has the command that creates the default folder.
  assert f"--workdir={config.model.pretrained} " in module("report001_vgg16_unfrozen").__doc__


@pytest.mark.parametrize(
  "name", [name for name in NAMES if "cats_vs_dogs" in name or "vgg16" in name]
)
def test_photos_are_split_60_20_20(name):
  data = config_of(name).data
  photos = range(data.options.per_class)
  each = [photo_recipe.assign_split(i, data.options.test_fraction) for i in photos]
  assert (each.count("train"), each.count("test")) == (1600, 400)
  dataset = fakes.fake_dataset(train=3200)
  parts = splits.make_splits(dataset, data)
  assert (len(parts.train), len(parts.validation)) == (2400, 800)


def test_augmented_photos_are_those_of_image_data_generator():
  from keras.src.legacy.preprocessing.image import ImageDataGenerator

  (call,) = chain.parse(config_of("report001_vgg16_augmented").augment).calls
  generator = ImageDataGenerator(
    rotation_range=40,
    width_shift_range=0.2,
    height_shift_range=0.2,
    shear_range=0.2,
    zoom_range=0.2,
    horizontal_flip=0.2,
    fill_mode="nearest",
  )
  assert call.name == "random_affine"
  ours = call.arguments
  assert ours["rotation"] == generator.rotation_range
  assert ours["shift"] == (generator.height_shift_range, generator.width_shift_range)
  assert [1 - ours["zoom"], 1 + ours["zoom"]] == generator.zoom_range
  assert ours["fill_mode"] == generator.fill_mode
  # Both are in degrees: test_affine.py compares the transforms.
  assert ours["shear"] == generator.shear_range
  # 0.2 is not a probability: Keras flips with an even chance if the argument is true.
  assert ours["flip"] is True
  flips = [
    bool(generator.get_random_transform((150, 150, 3), seed)["flip_horizontal"])
    for seed in range(1000)
  ]
  assert np.mean(flips) == pytest.approx(0.5, abs=0.05)


def test_the_reading_with_transformed_test_photos_is_spelt_out():
  text = module("report001_vgg16_augmented").__doc__.replace("\\\n", "")
  (spec,) = re.findall(r'--config\.eval_transform="(.*?)"', text)
  augment = config_of("report001_vgg16_augmented").augment
  assert chain.parse(spec).calls == chain.parse(augment).calls


def rates(name, epochs, steps_per_epoch=10):
  """Return the learning rate in the first step of each of the epochs."""
  config = config_of(name)
  total = config.num_epochs * steps_per_epoch
  rate = schedules.create(config.schedule, config.optimizer.learning_rate, steps_per_epoch, total)
  return [float(rate(epoch * steps_per_epoch)) for epoch in epochs]


def test_steps_of_vgg19():
  epochs = range(0, 200, 7)
  expected = [1e-3 * 0.5 ** (epoch // 20) for epoch in epochs]
  assert rates("report003_vgg19_steps", epochs) == pytest.approx(expected)
  assert rates("report003_vgg19", epochs) == pytest.approx([1e-3] * len(epochs))


def test_cycles_of_super_convergence():
  cycle = rates("report003_super_convergence", [0, 2, 4, 8, 12, 196, 199])
  expected = [1e-3, 2.5e-3, 4e-3, 1e-3, 4e-3, 4e-3, 1.75e-3]
  assert cycle == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("report003")])
def test_a_plateau_goes_with_a_constant_rate(name):
  config = config_of(name)
  assert not config.plateau.monitor or config.schedule.name == "constant"
  assert config.plateau.monitor in ("", "val_objective")  # as Keras' val_loss


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("report003")])
def test_the_crop_inside_the_network_also_acts_at_inference(name):
  config = config_of(name)
  crops = [call for call in chain.parse(config.augment).calls if call.name == "batch_crop"]
  (*_, after) = chain.parse(config.augment).calls or [None]
  assert bool(crops) == bool(config.eval_transform) == ("vgg19" not in name and "corr" not in name)
  if crops:
    assert crops[0].arguments == {"padding": 4} and after.name == "random_flip"
    assert chain.parse(config.eval_transform).calls == (("pad_and_resize", {"padding": 4}),)


def test_three_epochs_of_every_config():
  assert three_epochs.NAMES == NAMES
  assert set(three_epochs.CHANGES) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_three_epochs_keep_network_loss_and_optimizer(name):
  config = config_of(name)
  before = fields(name)
  for field, value in three_epochs.changes(name, config).items():
    *parents, leaf = field.split(".")
    section = config
    for parent in parents:
      section = section[parent]
    section[leaf] = value
  check_config(config, default.get_config())
  after = traverse_util.flatten_dict(config.to_dict(), sep=".")
  changed = {field for field in after if after[field] != before.get(field, ABSENT)}
  allowed = set(three_epochs.CHANGES.get(name, {}))
  assert not {
    field
    for field in changed - allowed
    if field.startswith(("model.", "loss.", "optimizer.", "schedule."))
    or field in ("augment", "eval_transform")
  }
