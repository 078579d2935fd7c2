"""The recipes in configs/reproductions/, against their reports and against each other."""

import ast
import functools
import importlib
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from flax import traverse_util

import models
from benchmarks import three_epochs
from cifar_jax.augment import chain
from cifar_jax.config import check_config
from cifar_jax.optim import optimizers, schedules
from configs import default

NAMES = sorted(
  path.stem for path in (small_runs.ROOT / "configs" / "reproductions").glob("report*.py")
)
SIDES = {"cats_vs_dogs": 150}  # pixels; all other data sets have 32
CLASSES = {"cats_vs_dogs": 2, "cifar100": 100}  # all others have 10


def module(name):
  return importlib.import_module(f"configs.reproductions.{name}")


def config_of(name):
  return module(name).get_config()


@functools.cache
def params_of(name):
  """The shapes of a config's variables on its own data set."""
  config = config_of(name)
  model = models.create(config.model, CLASSES.get(config.data.name, 10))
  side = SIDES.get(config.data.name, 32)
  images = jnp.zeros((1, side, side, 3))
  return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def fields(name):
  return traverse_util.flatten_dict(config_of(name).to_dict(), sep=".")


# What every file has.


@pytest.mark.parametrize("name", NAMES)
def test_every_docstring_names_the_report_the_command_and_the_results(name):
  report = module(name)
  assert report.__doc__.startswith(f"Report {name[6:9]}")
  assert f"  python main.py --config=configs/reproductions/{name}.py " in report.__doc__
  assert f"--workdir=runs/{name}" in report.__doc__
  recorded = (small_runs.ROOT / "benchmarks" / "results" / name).exists()
  assert (f"(benchmarks/results/{name})" in report.__doc__) == recorded
  assert isinstance(report.REPORTED, str) and report.REPORTED
  # A figure of REPORTED is the docstring's too, if the docstring's first line has one.
  printed = re.findall(r"\d+(?:\.\d+)?(?= %)", report.REPORTED)
  first_line = report.__doc__.splitlines()[0]
  for figure in re.findall(r"\d+(?:\.\d+)?(?= % (?:test|validation))", first_line):
    assert figure in printed


# Parameters: as the report prints them, else as Keras counts them in the same layers. Configs whose
# totals are in test_main.py are not here.

PRINTED = {
  "report002_dropout": 1_668_906,
  "report002_l2_0": 1_668_906,
  "report002_l2_5e2": 1_668_906,
  "report002_l2_5e4": 1_668_906,
  "report002_l2_5e5": 1_668_906,
  "report002_model1_rmsprop": 2_233_898,
}
PHOTOS = {"dense": (512,), "units": 1}
VGG16 = ("vgg", {"stages": (2, 2, 3, 3, 3), "units": 1})
VGG19 = ("vgg", {"stages": (2, 2, 4, 4, 4), "dense": (512, 512)})
BOTTLENECKS = {"stages": (3, 4, 6, 3), "bottleneck": True}
TWINS = {
  "report001_basic_cnn_128": ("basic_cnn", {"widths": (128, 128, 128)}),
  "report001_cats_vs_dogs": ("basic_cnn", PHOTOS | {"widths": (32, 32, 32)}),
  "report001_cats_vs_dogs_1e4": ("basic_cnn", PHOTOS | {"widths": (32, 32, 32)}),
  "report001_cats_vs_dogs_64": ("basic_cnn", PHOTOS | {"widths": (64, 64, 64)}),
  "report001_cats_vs_dogs_64_1e4": ("basic_cnn", PHOTOS | {"widths": (64, 64, 64)}),
  "report001_residual_as_printed": ("residual_cnn", {"as_printed": True}),
  "report001_vgg16_augmented": VGG16,
  "report001_vgg16_frozen": VGG16,
  "report001_vgg16_unfrozen": VGG16,
  "report003_cifar100": ("elu_resnet", {"classes": 100}),
  "report003_cifar100_resnet110": ("elu_resnet", {"stages": (18, 18, 18), "classes": 100}),
  "report003_cifar100_resnet50": ("elu_resnet", BOTTLENECKS | {"classes": 100}),
  "report003_highway": ("elu_resnet", {"block": "highway"}),
  "report003_resnet20": ("elu_resnet", {"stages": (3, 3, 3)}),
  "report003_resnet50": ("elu_resnet", BOTTLENECKS),
  "report003_sparse": ("elu_resnet", {"block": "sparse"}),
  "report003_super_convergence": ("elu_resnet", {}),
  "report003_vgg19": VGG19,
  "report003_vgg19_steps": VGG19,
}
IN_TEST_MAIN = {
  "report000_resnet_plateau",
  "report000_resnet_restarts",
  "report000_simple_cnn",
  "report001_basic_cnn",
  "report001_inception",
  "report001_residual",
  "report002_final",
  "report002_model1",
  "report002_model2",
  "report002_model3",
  "report003_cifar10",
  "report004_a",
  "report004_b",
  "report004_c",
}


@pytest.fixture(scope="module")
def twin():
  """The Keras network of a config of TWINS; each is built once."""
  import report_twins  # imports Keras, which is slow

  @functools.cache
  def build(kind, side, arguments):
    return getattr(report_twins, kind)(side, **ast.literal_eval(arguments))

  def of(name):
    kind, arguments = TWINS[name]
    side = SIDES.get(config_of(name).data.name, 32)
    return build(kind, side, repr(arguments))

  return of


def test_every_config_has_its_total():
  assert sorted([*PRINTED, *TWINS, *IN_TEST_MAIN]) == NAMES


@pytest.mark.parametrize("name", PRINTED)
def test_printed_totals(name):
  assert models.count_parameters(params_of(name)) == (PRINTED[name], 0)


@pytest.mark.parametrize("name", TWINS)
def test_totals_of_keras(twin, name):
  network = twin(name)
  trainable = sum(weight.value.size for weight in network.trainable_weights)
  assert models.count_parameters(params_of(name)) == (trainable, network.count_params() - trainable)


# Penalties.


def coefficients(name):
  """The L2 coefficient of each parameter that has one."""
  # The penalty of a single 1 in the place of each parameter, whose derivative is 2 × coefficient.
  ones = jax.tree.map(lambda leaf: jnp.ones(()), params_of(name)["params"])
  rules = config_of(name).loss.l2
  found = jax.grad(lambda params: optimizers.l2_penalty(params, rules))(ones)
  flat = traverse_util.flatten_dict(found, sep=".")
  return {path: float(value) / 2 for path, value in flat.items() if value}


@pytest.mark.parametrize(
  "name", [name for name in TWINS if name.startswith(("report001", "report003"))]
)
def test_penalties_are_those_of_the_listing(twin, name):
  expected = {
    f"{layer.name}.kernel": float(layer.kernel_regularizer.l2)
    for layer in twin(name).layers
    if getattr(layer, "kernel_regularizer", None)
  }
  assert coefficients(name) == pytest.approx(expected)
  assert bool(expected) == (TWINS[name][0] == "elu_resnet")


# What a config changes in the one that it starts from, and nothing else.

NO_DROPOUT = {"model.conv_dropout": 0.0, "model.dense_dropout": 0.0}
ELU_L2 = (("(stem_conv|shortcut_conv|conv3)/kernel$", 1e-5), ("conv.?/kernel$", 1e-4))
ABSENT = "absent"
VARIANTS = {
  "report001_basic_cnn_128": ("report001_basic_cnn", {"model.widths": (128, 128, 128)}),
  "report001_cats_vs_dogs_1e4": (
    "report001_cats_vs_dogs",
    {"optimizer.learning_rate": 1e-4},
  ),
  "report001_cats_vs_dogs_64": ("report001_cats_vs_dogs", {"model.widths": (64, 64, 64)}),
  "report001_cats_vs_dogs_64_1e4": (
    "report001_cats_vs_dogs",
    {"model.widths": (64, 64, 64), "optimizer.learning_rate": 1e-4},
  ),
  "report001_residual_as_printed": (
    "report001_residual",
    {"model.name": "residual_cnn_as_printed"},
  ),
  "report001_vgg16_frozen": (
    "report001_cats_vs_dogs",
    {
      "model.name": "vgg16",
      "model.widths": ABSENT,
      "model.pretrained": "timm",
      "optimizer.freeze": ("^base/",),
    },
  ),
  "report001_vgg16_unfrozen": (
    "report001_vgg16_frozen",
    {
      "model.pretrained": "runs/report001_vgg16_frozen",
      "num_epochs": 5,
      "optimizer.learning_rate": 1e-6,
      "optimizer.freeze": (),
    },
  ),
  "report001_vgg16_augmented": ("report001_vgg16_frozen", {"augment": ...}),
  "report002_model3": ("report002_model1", {"model.name": "lenet3"}),
  "report002_dropout": ("report002_model3", {"loss.l2": ()}),
  "report002_final": ("report002_model3", {"loss.l2": (("conv.*kernel$", 5e-4),)}),
  "report002_l2_0": ("report002_model3", NO_DROPOUT | {"loss.l2": ()}),
  **{
    f"report002_l2_{name}": (
      "report002_model3",
      NO_DROPOUT | {"loss.l2": (("conv.*kernel$", coefficient),)},
    )
    for name, coefficient in (("5e5", 5e-5), ("5e4", 5e-4), ("5e2", 5e-2))
  },
  "report003_vgg19": (
    "report003_cifar10",
    {
      "model.name": "vgg19_cifar",
      "model.head_dropout": ABSENT,
      "model.spatial_dropout": ABSENT,
      "augment": "",
      "loss.l2": (),
      "plateau.monitor": "",
    },
  ),
  "report003_vgg19_steps": (
    "report003_vgg19",
    {
      "schedule.name": "exponential",
      "schedule.decay_epochs": 20,
      "schedule.rate": 0.5,
      "schedule.staircase": True,
    },
  ),
  "report003_resnet20": (
    "report003_cifar10",
    {
      "model.name": "elu_resnet20",
      "model.block_dropout": 0.0,
      "model.head_dropout": 0.0,
      "plateau.monitor": "",
    },
  ),
  "report003_resnet50": (
    "report003_resnet20",
    {"model.name": "elu_resnet50", "loss.l2": ELU_L2},
  ),
  "report003_cifar100_resnet110": ("report003_cifar100", {"model.name": "elu_resnet110"}),
  "report003_cifar100_resnet50": (
    "report003_cifar100",
    {"model.name": "elu_resnet50", "loss.l2": ELU_L2},
  ),
  "report003_super_convergence": (
    "report003_cifar10",
    {
      "optimizer.learning_rate": 4e-3,
      "schedule.name": "cyclical",
      "plateau.monitor": "",
    },
  ),
  "report003_sparse": ("report003_cifar10", {"model.block": "sparse"}),
  "report003_highway": ("report003_cifar10", {"model.block": "highway"}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_only_what_it_names(name):
  base, changes = VARIANTS[name]
  old, new = fields(base), fields(name)
  changed = {
    field: new.get(field, ABSENT)
    for field in old.keys() | new.keys()
    if old.get(field, ABSENT) != new.get(field, ABSENT)
  }
  expected = {field: changed.get(field) if v is ... else v for field, v in changes.items()}
  assert changed == expected


def test_the_grid_is_whole():
  points = {
    (config.model.widths[0], config.optimizer.learning_rate)
    for config in map(config_of, (n for n in NAMES if n.startswith("report001_cats_vs_dogs")))
  }
  assert points == {(32, 1e-3), (32, 1e-4), (64, 1e-3), (64, 1e-4)}


def test_the_search_for_l2_is_whole():
  points = {
    name: dict(config_of(name).loss.l2).get("conv.*kernel$", 0)
    for name in NAMES
    if name.startswith("report002_l2_")
  }
  assert sorted(points.values()) == [0, 5e-5, 5e-4, 5e-2]
  kernels = {f"stage{stage}_conv{index}.kernel" for stage in (1, 2, 3) for index in (1, 2)}
  for name, coefficient in points.items():
    expected = dict.fromkeys(kernels, coefficient) if coefficient else {}
    assert coefficients(name) == pytest.approx(expected)


# VGG-16.


@pytest.mark.parametrize(
  ("name", "trained"),
  [
    # Of the 18,910,017 the base has 14,714,688.
    ("report001_vgg16_frozen", 4_195_329),
    ("report001_vgg16_augmented", 4_195_329),
    ("report001_vgg16_unfrozen", 18_910_017),
  ],
)
def test_what_is_frozen(name, trained):
  config = config_of(name)
  schedule = schedules.create(config.schedule, config.optimizer.learning_rate, 100, 1000)
  tx = optimizers.create(config.optimizer, schedule)
  state = jax.eval_shape(tx.init, params_of(name)["params"])
  moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
  assert moments == 2 * trained  # Adam keeps two for each parameter that it changes


def test_the_unfrozen_run_continues_the_frozen_one():
  config = config_of("report001_vgg16_unfrozen")
  first = pathlib.Path(config.model.pretrained).name
  assert first in NAMES
  old, new = fields(first), fields("report001_vgg16_unfrozen")
  for field in old:
    if field.startswith(("data.", "model.")) and field != "model.pretrained":
      assert new[field] == old[field]  # the same network on the same split
  # In the docstring is the command that makes the folder which is the default.
  assert f"--workdir={config.model.pretrained} " in module("report001_vgg16_unfrozen").__doc__


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
  # Degrees in both: test_warp.py compares what they make of an angle.
  assert ours["shear"] == generator.shear_range
  # A flip of 0.2 is no probability: Keras flips where 0.2 or 0.0, by an even chance, is true.
  assert ours["flip"] is True
  flips = [
    bool(generator.get_random_transform((150, 150, 3), seed)["flip_horizontal"])
    for seed in range(1000)
  ]
  assert np.mean(flips) == pytest.approx(0.5, abs=0.05)


# Schedules.


def rates(name, epochs, steps_per_epoch=10):
  """The rate of the first step of each of the epochs."""
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
  found = rates("report003_super_convergence", [0, 2, 4, 8, 12, 196, 199])
  expected = [1e-3, 2.5e-3, 4e-3, 1e-3, 4e-3, 4e-3, 1.75e-3]
  assert found == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("report003")])
def test_a_plateau_goes_with_a_constant_rate(name):
  config = config_of(name)
  assert not config.plateau.monitor or config.schedule.name == "constant"
  assert config.plateau.monitor in ("", "val_objective")  # Keras' val_loss has the penalty in it


# benchmarks/three_epochs.py.


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
  told = set(three_epochs.CHANGES.get(name, {}))
  assert not {
    field
    for field in changed - told
    if field.startswith(("model.", "loss.", "optimizer.", "schedule.")) or field == "augment"
  }
