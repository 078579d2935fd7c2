"""Every config: its names exist, and the reproductions have their reports' parameter totals."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import pytest

import models
from cifar_jax.augment import chain
from cifar_jax.config import check_config
from cifar_jax.optim import optimizers, schedules
from configs import default

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(
  str(path.relative_to(ROOT))
  for path in (ROOT / "configs").rglob("*.py")
  if path.name not in ("__init__.py",) and path.parent.name != "sweeps"
)


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_names_only_what_there_is(path):
  config = importlib.import_module(path.removesuffix(".py").replace("/", ".")).get_config()
  check_config(config, default.get_config())
  chain.parse(config.augment)
  schedule = schedules.create(config.schedule, config.optimizer.learning_rate, 100, 1000)
  tx = optimizers.create(config.optimizer, schedule)
  classes, size = (2, 150) if config.data.name == "cats_vs_dogs" else (10, 32)
  model = models.create(config.model, classes)
  images = jnp.zeros((1, size, size, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
  jax.eval_shape(tx.init, variables["params"])
  jax.eval_shape(lambda params: optimizers.l2_penalty(params, config.loss.l2), variables["params"])


@pytest.mark.parametrize(
  ("name", "total", "trainable"),
  [
    ("report000_simple_cnn", 847_530, 846_634),
    ("report000_resnet_plateau", 10_489_674, 10_476_106),
    ("report000_resnet_restarts", 10_489_674, 10_476_106),
    ("report002_model1", 2_233_898, 2_233_898),
    ("report002_model2", 2_233_898, 2_233_898),
    ("report002_model3", 1_668_906, 1_668_906),
    ("report002_final", 1_668_906, 1_668_906),
    ("report004_a", 2_168_362, 2_168_362),
    ("report004_b", 2_168_362, 2_168_362),
    # Not printed; counted by Keras for the same layers.
    ("report004_c", 2_170_474, 2_169_066),
    ("report001_basic_cnn", 1_200_650, 1_199_114),
    ("report001_inception", 5_462_026, 5_460_490),
    ("report001_residual", 1_298_186, 1_296_650),
    ("report003_cifar10", 11_189_194, None),
  ],
)
def test_reproductions_have_their_reports_totals(name, total, trainable):
  config = importlib.import_module(f"configs.reproductions.{name}").get_config()
  model = models.create(config.model, 10)
  images = jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
  num_parameters = models.count_parameters(variables)
  assert sum(num_parameters) == total
  assert trainable is None or num_parameters[0] == trainable
