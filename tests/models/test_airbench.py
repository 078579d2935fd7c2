"""The speedruns' networks against the published ones, rewritten in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from airbench_images import patches_of, smooth_images

import models
from cifar_jax import errors
from models import airbench


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
  # The outputs' second moments are the identity where eps does not matter.
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
  outputs = layer.apply({"params": params | {"bias": bias}}, images)
  assert outputs.shape == (2, 4, 4, 24)
  corner = images[:, :2, :2].reshape(2, 12) @ np.asarray(params["kernel"]).reshape(12, 24) + bias
  np.testing.assert_allclose(outputs[:, 0, 0], corner, rtol=1e-4, atol=1e-4)


def test_the_whitenings_bias_can_be_drawn_as_pytorch_draws_it():
  layer = airbench.Whitening(jnp.float32, draw_bias=True)
  biases = np.concatenate(
    [layer.init(jax.random.key(seed), smooth_images(4))["params"]["bias"] for seed in range(20)]
  )
  limit = 1 / np.sqrt(2 * 2 * 3)  # an output has this many inputs
  assert 0.95 * limit < np.abs(biases).max() <= limit
  assert abs(biases.mean()) < 4 * limit / np.sqrt(3 * len(biases))


@pytest.mark.parametrize(
  ("name", "momentum"), [("airbench94", 0.6), ("airbench95", 0.6), ("airbench96", 0.9)]
)
def test_moving_statistics_keep_the_published_share(name, momentum):
  model = models.create({"name": name}, 10)
  assert model.momentum == momentum


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 8), (8, 3)])
def test_dirac_copies_its_inputs_and_draws_the_rest(inputs, outputs):
  kernel = airbench.dirac(jax.random.key(0), (3, 3, inputs, outputs))
  x = np.random.default_rng(0).normal(size=(1, 6, 6, inputs)).astype(np.float32)
  outputs_of_x = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  copies = min(inputs, outputs)
  np.testing.assert_allclose(outputs_of_x[..., :copies], x[..., :copies], atol=1e-5)
  drawn = np.asarray(kernel[..., copies:])
  bound = 1 / np.sqrt(9 * inputs)
  assert drawn.size == 0 or 0.9 * bound < np.abs(drawn).max() <= bound


def numpy_network(variables, x, residual):
  """Return the logits of the published network in training, NHWC in float64."""
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


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("residual", [False, True])
def test_the_network_in_training_is_the_published_one(residual):
  config = {"name": "airbench", "widths": (24, 26, 28), "residual": residual}
  model = models.create(config, 10)
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(0), smooth_images(40))
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
