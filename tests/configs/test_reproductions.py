"""The configs of the reports: docstrings, networks, penalties, and how variants differ."""

import ast
import functools
import re

import jax
import jax.numpy as jnp
import pytest
import small_runs
from flax import traverse_util
from reproductions import ABSENT, NAMES, SIDES, config_of, fields, module, variables_of

import models
from cifar_jax.optim import optimizers


@pytest.mark.parametrize("name", NAMES)
def test_every_docstring_names_the_report_the_command_and_the_results(name):
  report = module(name)
  assert report.__doc__.startswith(f"Report {name[6:9]}")
  assert f"  python main.py --config=configs/reproductions/{name}.py " in report.__doc__
  assert f"--workdir=runs/{name}" in report.__doc__
  recorded = (small_runs.ROOT / "benchmarks" / "results" / name).exists()
  assert (f"(benchmarks/results/{name})" in report.__doc__) == recorded
  assert isinstance(report.REPORTED, str) and report.REPORTED
  # Figures in the first line of the docstring are those of REPORTED.
  printed = re.findall(r"\d+(?:\.\d+)?(?= %)", report.REPORTED)
  first_line = report.__doc__.splitlines()[0]
  for figure in re.findall(r"\d+(?:\.\d+)?(?= % (?:test|validation))", first_line):
    assert figure in printed


# Totals of parameters: those that the report prints, else Keras' counts in the same layers.
# test_configs.py has the configs that are missing here.

PRINTED = {
  "report002_dropout": 1_668_906,
  "report002_l2_0": 1_668_906,
  "report002_l2_5e2": 1_668_906,
  "report002_l2_5e4": 1_668_906,
  "report002_l2_5e5": 1_668_906,
  "report002_model1_rmsprop": 2_233_898,
  "report002_model1_summary": 2_233_898,
}
PHOTOS = {"dense": (512,), "units": 1, "padding": "valid"}
VGG16 = ("vgg", {"stages": (2, 2, 3, 3, 3), "units": 1})
VGG19 = ("vgg", {"stages": (2, 2, 4, 4, 4), "dense": (512, 512)})
BOTTLENECKS = {"stages": (3, 4, 6, 3), "bottleneck": True}
TWINS = {
  "report001_basic_cnn_128": ("basic_cnn", {"widths": (128, 128, 128), "padding": "valid"}),
  "report001_cats_vs_dogs": ("basic_cnn", PHOTOS | {"widths": (32, 32, 32)}),
  "report001_cats_vs_dogs_1e4": ("basic_cnn", PHOTOS | {"widths": (32, 32, 32)}),
  "report001_cats_vs_dogs_64": ("basic_cnn", PHOTOS | {"widths": (64, 64, 64)}),
  "report001_cats_vs_dogs_64_1e4": ("basic_cnn", PHOTOS | {"widths": (64, 64, 64)}),
  "report001_residual_as_printed": ("residual_cnn", {"as_printed": True}),
  "report001_vgg16_augmented": VGG16,
  "report001_vgg16_frozen": VGG16,
  "report001_vgg16_unfrozen": VGG16,
  "report003_cifar10_corrected": ("elu_resnet", {}),
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
IN_TEST_CONFIGS = {
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
  """Return a function that builds the Keras network of a config of TWINS, each one once."""
  import report_twins  # imports Keras, which is slow

  @functools.cache
  def build(kind, side, arguments):
    return getattr(report_twins, kind)(side, **ast.literal_eval(arguments))

  def twin_of(name):
    kind, arguments = TWINS[name]
    side = SIDES.get(config_of(name).data.name, 32)
    return build(kind, side, repr(arguments))

  return twin_of


def test_every_config_has_its_total():
  assert sorted([*PRINTED, *TWINS, *IN_TEST_CONFIGS]) == NAMES


@pytest.mark.parametrize("name", PRINTED)
def test_printed_totals(name):
  assert models.count_parameters(variables_of(name)) == (PRINTED[name], 0)


@pytest.mark.parametrize("name", TWINS)
def test_totals_of_keras(twin, name):
  network = twin(name)
  trainable = sum(weight.value.size for weight in network.trainable_weights)
  assert models.count_parameters(variables_of(name)) == (
    trainable,
    network.count_params() - trainable,
  )


# Penalties.


def coefficients(name):
  """Return the L2 coefficient of each parameter that has one, by path."""
  # With a single 1 in place of each parameter, the derivative of the penalty is 2 × coefficient.
  ones = jax.tree.map(lambda leaf: jnp.ones(()), variables_of(name)["params"])
  rules = config_of(name).loss.l2
  gradients = jax.grad(lambda params: optimizers.l2_penalty(params, rules))(ones)
  flat = traverse_util.flatten_dict(gradients, sep=".")
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


# The fields that a config changes in the config it starts from.

NO_DROPOUT = {"model.conv_dropout": 0.0, "model.dense_dropout": 0.0}
ELU_L2 = (("(stem_conv|shortcut_conv|conv3)/kernel$", 1e-5), ("conv.?/kernel$", 1e-4))
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
      "model.padding": ABSENT,
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
  "report002_model1_summary": ("report002_model1", {"model.linear_convs": (2, 3, 4)}),
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
      "eval_transform": "",
      "loss.l2": (),
      "plateau.monitor": "",
    },
  ),
  "report003_cifar10_corrected": (
    "report003_cifar10",
    {"augment": "random_crop(padding=4) | random_flip()", "eval_transform": ""},
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


def test_the_grid_is_complete():
  points = {
    (config.model.widths[0], config.optimizer.learning_rate)
    for config in map(config_of, (n for n in NAMES if n.startswith("report001_cats_vs_dogs")))
  }
  assert points == {(32, 1e-3), (32, 1e-4), (64, 1e-3), (64, 1e-4)}


def test_the_search_for_l2_is_complete():
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
