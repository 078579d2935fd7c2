"""The speedruns' recipes against the published numbers, and in short runs."""

import functools
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from airbench_images import patches_of, smooth_images

import models
import train
from cifar_jax.config import check_config
from cifar_jax.optim import optimizers, schedules
from cifar_jax.training import hard_examples, steps
from configs import airbench94, airbench94_muon, airbench96_subset, default
from experiment import Experiment, resolve


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


def small(data_dir, recipe=airbench94, **fields):
  """Return a speedrun's recipe with narrow groups, for scikit-learn's digits."""
  config = recipe.get_config()
  config.data.name, config.data.dir = "digits", str(data_dir)
  config.model.name, config.model.widths = "airbench", (24, 26, 28)
  config.batch_size, config.num_epochs = 400, 2
  config.update(fields)
  return resolve(config)


def test_every_seed_initialises_from_the_same_training_images(data_dir):
  experiment = Experiment(small(data_dir, num_seeds=2))
  state = experiment.init()
  kernels = np.asarray(state.params["whiten"]["kernel"])
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert not np.array_equal(*np.asarray(state.params["head"]["kernel"]))
  dataset = experiment.dataset
  images = dataset.train.images[experiment.splits.train]  # fewer than INIT_IMAGES, so all
  patches = patches_of((images / 255 - dataset.mean) / dataset.std)
  outputs = patches @ kernels[0].reshape(12, 24).astype(np.float64)
  # The digits are grey, so only the first four directions have any variance.
  assert np.mean(outputs[:, :2] ** 2, axis=0) == pytest.approx([1, 1], abs=1e-2)
  weights = jax.tree.map(lambda leaf: leaf[0], state.variables())
  state = Experiment(small(data_dir, seed=7)).init(jax.tree.map(lambda leaf: leaf + 1, weights))
  np.testing.assert_allclose(state.params["whiten"]["kernel"], kernels[0] + 1)


def test_the_recipe_is_pytorchs_with_the_published_numbers():
  """The updates equal those of PyTorch's SGD with the published decoupled numbers."""
  config = airbench94.get_config()
  spe, total, batch = 4, 16, 1024
  params = {
    "whiten": {"kernel": 1.0, "bias": 0.5},
    "group1": {"conv1": {"kernel": -0.7}, "norm1": {"bias": 0.3}},
  }
  params = jax.tree.map(np.float32, params)
  schedule = schedules.create(config.schedule, config.optimizer.learning_rate, spe, total)
  tx = optimizers.create(config.optimizer, schedule, spe)
  rng = np.random.default_rng(0)
  gradients = [jax.tree.map(lambda leaf: np.float32(rng.normal()), params) for _ in range(total)]

  ours, state = params, tx.init(params)
  for gradient in gradients:
    penalty = jax.grad(lambda p: optimizers.l2_penalty(p, config.loss.l2))(ours)
    updates, state = tx.update(jax.tree.map(np.add, gradient, penalty), state, ours)
    ours = optax.apply_updates(ours, updates)

  kilostep_scale = 1024 * (1 + 1 / (1 - 0.85))
  lr, wd = 11.5 / kilostep_scale, 0.0153 * batch / kilostep_scale

  def torch_sgd(w, gradients, lr, last=total):
    velocity, decay = 0.0, wd / lr
    for step, gradient in enumerate(gradients[:last]):
      top = int(total * 0.23)
      if step < top:
        part = 0.2 * (1 - step / top) + step / top
      else:
        part = 1 - 0.93 * (step - top) / (total - top)
      g = batch * gradient + decay * w  # the sum of the losses, not their mean
      velocity = 0.85 * velocity + g
      w -= lr * part * (g + 0.85 * velocity)
    return w

  flat = [jax.tree.leaves(gradient) for gradient in gradients]
  paths = ["group1/conv1/kernel", "group1/norm1/bias", "whiten/bias", "whiten/kernel"]
  start, end = jax.tree.leaves(params), jax.tree.leaves(ours)
  rates = [(lr, total), (64 * lr, total), (lr, 3 * spe), (lr, 0)]
  for i, (path, (rate, last)) in enumerate(zip(paths, rates, strict=True)):
    expected = torch_sgd(float(start[i]), [float(leaves[i]) for leaves in flat], rate, last)
    assert end[i] == pytest.approx(expected, rel=1e-4), path


@pytest.mark.parametrize(
  "name", ["airbench94", "airbench94_muon", "airbench95", "airbench96", "airbench96_subset"]
)
def test_configs_keep_the_protocol(name):
  config = importlib.import_module(f"configs.{name}").get_config()
  check_config(config, default.get_config())
  assert config.model.name == name.split("_")[0]
  assert config.data.validation == 0 and config.data.train_examples == 0
  assert not (config.select.monitor or config.early_stopping.monitor or config.plateau.monitor)
  assert config.tta == "multicrop"
  model = models.create(config.model, 10)
  init = functools.partial(model.init, train=False)
  params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
  tx = optimizers.create(config.optimizer, lambda step: 0.1, 48)
  jax.eval_shape(tx.init, params)  # fails if a pattern matches no parameter
  jax.eval_shape(lambda p: optimizers.l2_penalty(p, config.loss.l2), params)


def test_muons_recipe_has_the_published_rates_of_a_sum_of_losses():
  config = airbench94_muon.get_config()
  multipliers, l2 = dict(config.optimizer.lr_multipliers), dict(config.loss.l2)
  assert (config.batch_size, config.optimizer.learning_rate) == (2000, 0.24)
  for pattern, rate in (("^head/", 0.67), ("bias$", 0.053)):
    # PyTorch: w -= rate * (sum of 2,000 losses' gradients + weight_decay * w), of which
    # rate * weight_decay is 2e-6 * 2000; ours: of their mean.
    assert 0.24 * multipliers[pattern] == pytest.approx(rate * 2000)
    assert 0.24 * multipliers[pattern] * 2 * l2[pattern] == pytest.approx(2e-6 * 2000)
  model = models.create(config.model, 10)
  assert model.scale == 1 / 256 and model.unit_head and model.draw_whitening_bias


def test_the_hardest_half_has_the_published_rate_of_a_sum_of_losses():
  config = airbench96_subset.get_config()
  kilostep_scale = 1024 * (1 + 1 / (1 - 0.85))
  lr, wd = 9.0 / kilostep_scale, 0.012 * 1024 / kilostep_scale
  # PyTorch: w -= lr * (sum of 512 losses' gradients + wd / lr * w); ours: of their mean.
  assert config.optimizer.learning_rate == pytest.approx(lr * 512)
  assert dict(config.loss.l2)[""] == pytest.approx(wd / lr / 512 / 2)
  assert dict(config.loss.l2)["norm./bias$"] == pytest.approx(wd / (64 * lr) / 512 / 2)
  assert (config.proxy.keep, config.batch_size) == (512, 1024)
  images = jnp.zeros((1, 32, 32, 3))
  network = models.create(config.proxy.model, 10)
  tx = hard_examples.make_optimizer(config, lambda step: 0.1, 48)
  state = jax.eval_shape(
    lambda: hard_examples.init_proxy(config, network, tx, jnp.int32(0), images)
  )
  inputs, total = 24, 24 * 12 + 24 + 640
  for width in (32, 64, 64):
    total += 9 * inputs * width + 9 * width * width + 2 * width
    inputs = width
  assert models.count_parameters({"params": state.params})[0] == total


@pytest.mark.usefixtures("quick_compilation")
def test_two_seeds_of_a_speedrun_are_reported_with_mean_and_standard_error(data_dir, tmp_path):
  proxy = {"keep": 40, "learn_every": 2, "model": {"widths": (8, 8, 8)}}
  fields = {"batch_size": 80, "data": {"train_examples": 240}, "model": {"widths": (8, 8, 8)}}
  config = small(data_dir, airbench96_subset, num_seeds=2, proxy=proxy, **fields)
  results = train.train_and_evaluate(config, str(tmp_path))
  assert results == json.loads((tmp_path / "results.json").read_text())
  for name in ("test_accuracy", "test_tta_accuracy", "test_tta_loss"):
    values = [one[name] for one in results["per_seed"]]
    assert results[name] == pytest.approx(np.mean(values))
    assert results[f"{name}_standard_error"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(2))
  assert results["seeds"] == [0, 1] and results["tta"] == "multicrop"
  assert values[0] != values[1]
  (row, _) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
  assert row["step"] == 3 and [one["seed"] for one in row["seeds"]] == [0, 1]


def test_a_run_ends_with_lookaheads_slow_weights_and_frozen_whitening(data_dir):
  config = small(data_dir, num_epochs=4)
  experiment = Experiment(config)
  spe, total = experiment.steps_per_epoch, experiment.total_steps
  assert (spe, total) == (3, 12)
  state = experiment.init()
  model = models.create(config.model, 10)
  step = jax.jit(steps.make_train_step(config, model, experiment.tx, None, total))
  images = smooth_images(8, size=32)
  batch = {"image": images, "label": np.arange(8), "target": np.eye(10, dtype=np.float32)[:8]}
  kernel, biases = state.params["whiten"]["kernel"], []
  for _ in range(total):
    state, _ = step(state, batch)
    biases.append(np.asarray(state.params["whiten"]["bias"]))
  jax.tree.map(
    np.testing.assert_array_equal,
    {"params": state.params, "batch_stats": state.batch_stats},
    state.slow,
  )
  np.testing.assert_array_equal(state.params["whiten"]["kernel"], kernel)
  # The bias trains for three epochs. After that only Lookahead moves it, in steps 10 and 12.
  assert np.abs(np.diff(biases[: 3 * spe], axis=0)).max(1).min() > 0
  np.testing.assert_array_equal(biases[9], biases[10])
