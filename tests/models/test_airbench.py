"""The speedruns' network and recipe against the published ones, written again in NumPy."""

import functools
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import models
import train
from cifar_jax import errors
from cifar_jax.config import check_config
from cifar_jax.optim import optimizers, schedules
from cifar_jax.training import hard_examples, steps
from configs import airbench94, airbench96_subset, default
from experiment import Experiment, resolve
from models import airbench


def smooth_images(count, size=16, seed=0):
  """Images whose neighbouring pixels are alike, as in photographs."""
  noise = np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype(np.float32)
  noise += noise.mean(axis=-1, keepdims=True)
  return noise + np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2)


def patches_of(images):
  """[n, 12]: every 2×2 patch, each in the order row, column, channel."""
  height, width = images.shape[1:3]
  found = [
    images[:, y : y + 2, x : x + 2].reshape(len(images), 12)
    for y in range(height - 1)
    for x in range(width - 1)
  ]
  return np.concatenate(found).astype(np.float64)


# The network.


@pytest.mark.parametrize(
  ("name", "widths", "convolutions"),
  [
    ("airbench94", (64, 256, 256), 2),
    ("airbench95", (128, 384, 384), 2),
    ("airbench96", (128, 384, 512), 3),
  ],
)
def test_parameters_are_those_of_the_published_layers(name, widths, convolutions):
  total, inputs = 24 * 12 + 24, 24  # whitening
  for width in widths:
    shapes = [(inputs, width)] + [(width, width)] * (convolutions - 1)
    total += sum(9 * a * b + b for a, b in shapes)  # b: the bias of the batch norm that follows
    inputs = width
  total += 10 * inputs
  model = models.create({"name": name}, 10)
  init = functools.partial(model.init, train=False)
  shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  moving = 2 * convolutions * sum(widths)
  assert models.count_parameters(shapes) == (total, moving)
  assert f"{total:,}" in airbench.__doc__


def test_whitening_is_by_the_eigenvectors_of_the_patches():
  images = smooth_images(40)
  kernel = np.asarray(airbench.whitening_kernel(images), np.float64)
  assert kernel.shape == (2, 2, 3, 24)
  flat = kernel.reshape(12, 24)
  np.testing.assert_array_equal(flat[:, :12], -flat[:, 12:])
  patches = patches_of(images)
  moments = patches.T @ patches / len(patches)
  eigenvalues, vectors = np.linalg.eigh(moments)
  expected = (vectors / np.sqrt(eigenvalues + 5e-4))[:, ::-1]
  signs = np.sign(np.sum(expected * flat[:, :12], axis=0))
  np.testing.assert_allclose(flat[:, :12], signs * expected, rtol=0, atol=2e-3 * flat.max())
  # What it is for: outputs' second moments like the identity, where eps does not count.
  outputs = patches @ flat[:, :12]
  np.testing.assert_allclose(
    outputs.T @ outputs / len(patches),
    np.diag((eigenvalues / (eigenvalues + 5e-4))[::-1]),
    atol=5e-3,
  )


def test_the_whitening_layer_is_that_kernel_and_a_bias():
  images = smooth_images(2, size=5)
  layer = airbench.Whitening(jnp.float32)
  params = layer.init(jax.random.key(0), smooth_images(40))["params"]
  assert not params["bias"].any()
  bias = np.arange(24, dtype=np.float32)
  found = layer.apply({"params": params | {"bias": bias}}, images)
  assert found.shape == (2, 4, 4, 24)
  corner = images[:, :2, :2].reshape(2, 12) @ np.asarray(params["kernel"]).reshape(12, 24) + bias
  np.testing.assert_allclose(found[:, 0, 0], corner, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 8), (8, 3)])
def test_dirac_hands_its_inputs_on_and_draws_the_rest(inputs, outputs):
  kernel = airbench.dirac(jax.random.key(0), (3, 3, inputs, outputs))
  x = np.random.default_rng(0).normal(size=(1, 6, 6, inputs)).astype(np.float32)
  found = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  same = min(inputs, outputs)
  np.testing.assert_allclose(found[..., :same], x[..., :same], atol=1e-5)
  drawn = np.asarray(kernel[..., same:])
  bound = 1 / np.sqrt(9 * inputs)
  assert drawn.size == 0 or 0.9 * bound < np.abs(drawn).max() <= bound


def numpy_network(variables, x, residual):
  """The published network in training, NHWC in float64: logits."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])

  def conv(x, kernel, padding):
    x = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)

  def norm(x, bias):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-12) + bias

  def gelu(x):
    return x * 0.5 * (1 + scipy.special.erf(x / np.sqrt(2)))

  def pool(x, size):
    n, h, w, c = x.shape
    x = x[:, : h // size * size, : w // size * size]
    return x.reshape(n, h // size, size, w // size, size, c).max((2, 4))

  x = gelu(conv(x, params["whiten"]["kernel"], 0) + params["whiten"]["bias"])
  for number in (1, 2, 3):
    group = params[f"group{number}"]
    x = pool(conv(x, group["conv1"]["kernel"], 1), 2)
    x = shortcut = gelu(norm(x, group["norm1"]["bias"]))
    x = norm(conv(x, group["conv2"]["kernel"], 1), group["norm2"]["bias"])
    if residual:
      x = norm(conv(gelu(x), group["conv3"]["kernel"], 1), group["norm3"]["bias"]) + shortcut
    x = gelu(x)
  return pool(x, 3)[:, 0, 0] @ params["head"]["kernel"] / 9


@pytest.mark.parametrize("residual", [False, True])
def test_the_network_in_training_is_the_published_one(residual):
  config = {"name": "airbench", "widths": (24, 26, 28), "residual": residual}
  model = models.create(config, 10)
  variables = model.init(jax.random.key(0), smooth_images(40), train=False)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), variables["params"]
  )
  variables = variables | {"params": params}
  x = smooth_images(4, size=32, seed=2)
  logits, updated = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))(
    variables, x
  )
  expected = numpy_network(variables, x.astype(np.float64), residual)
  np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=2e-3 * np.abs(expected).max())
  means = updated["batch_stats"]["group3"]["norm1"]
  first = variables["batch_stats"]["group3"]["norm1"]
  assert first["var"].min() == 1 and "scale" not in params["group3"]["norm1"]
  assert not np.array_equal(means["mean"], first["mean"])


def test_images_too_small_for_the_groups_are_refused():
  model = models.create({"name": "airbench94"}, 10)
  with pytest.raises(errors.UserError, match=r"^model\.widths: 3 stages halve an image of 7x7"):
    model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  with pytest.raises(errors.UserError, match=r"^model\.momentum: 1 is not a momentum"):
    models.create({"name": "airbench", "momentum": 1}, 10)


# Initialised by data, in an experiment.


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


def small(data_dir, recipe=airbench94, **fields):
  """A speedrun's recipe on narrow groups and scikit-learn's digits."""
  config = recipe.get_config()
  config.data.name, config.data.dir = "digits", str(data_dir)
  config.model.name, config.model.widths = "airbench", (24, 26, 28)
  config.batch_size, config.num_epochs = 400, 2
  config.update(fields)
  return resolve(config)


def test_a_run_initialises_by_its_own_training_images_for_every_seed_alike(data_dir):
  experiment = Experiment(small(data_dir, num_seeds=2))
  state = experiment.init()
  kernels = np.asarray(state.params["whiten"]["kernel"])
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert not np.array_equal(*np.asarray(state.params["head"]["kernel"]))
  dataset = experiment.dataset
  images = dataset.train.images[experiment.splits.train]  # fewer than INIT_IMAGES, so all
  patches = patches_of((images / 255 - dataset.mean) / dataset.std)
  outputs = patches @ kernels[0].reshape(12, 24).astype(np.float64)
  # The digits are grey, so that only the first four directions have any variance.
  assert np.mean(outputs[:, :2] ** 2, axis=0) == pytest.approx([1, 1], abs=1e-2)
  weights = jax.tree.map(lambda leaf: leaf[0], state.variables())
  taken = Experiment(small(data_dir, seed=7)).init(jax.tree.map(lambda leaf: leaf + 1, weights))
  np.testing.assert_allclose(taken.params["whiten"]["kernel"], kernels[0] + 1)


# The recipe.


def test_the_recipe_is_pytorchs_with_the_published_numbers():
  """Steps of a quadratic, as PyTorch's SGD takes them from the published decoupled numbers."""
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
  start, found = jax.tree.leaves(params), jax.tree.leaves(ours)
  rates = [(lr, total), (64 * lr, total), (lr, 3 * spe), (lr, 0)]
  for i, (path, (rate, last)) in enumerate(zip(paths, rates, strict=True)):
    expected = torch_sgd(float(start[i]), [float(leaves[i]) for leaves in flat], rate, last)
    assert found[i] == pytest.approx(expected, rel=1e-4), path


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
  jax.eval_shape(tx.init, params)  # every pattern finds its parameters
  jax.eval_shape(lambda p: optimizers.l2_penalty(p, config.loss.l2), params)


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


def test_two_seeds_of_a_speedrun_are_reported_with_mean_and_standard_error(data_dir, tmp_path):
  chosen = {"keep": 40, "learn_every": 2, "model": {"widths": (8, 8, 8)}}
  fields = {"batch_size": 80, "data": {"train_examples": 240}, "model": {"widths": (8, 8, 8)}}
  config = small(data_dir, airbench96_subset, num_seeds=2, proxy=chosen, **fields)
  found = train.train_and_evaluate(config, str(tmp_path))
  assert found == json.loads((tmp_path / "results.json").read_text())
  for name in ("test_accuracy", "test_tta_accuracy", "test_tta_loss"):
    values = [one[name] for one in found["per_seed"]]
    assert found[name] == pytest.approx(np.mean(values))
    assert found[f"{name}_standard_error"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(2))
  assert found["seeds"] == [0, 1] and found["tta"] == "multicrop"
  assert values[0] != values[1]
  (row, _) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
  assert row["step"] == 3 and [one["seed"] for one in row["seeds"]] == [0, 1]


def test_a_run_ends_with_lookaheads_slow_weights_and_a_bias_that_has_stopped(data_dir):
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
  assert np.abs(np.diff(biases[: 3 * spe], axis=0)).max(1).min() > 0
