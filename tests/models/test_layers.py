"""models/layers.py against Flax's and Keras' layers, and the same masks on any device count."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from keras_weights import copy_weights, flax_weights, random_variables, shapes

from cifar_jax.errors import UserError
from cifar_jax.kernels import dropout
from models import basic_cnn, layers


def gradient(pool, x, cotangent):
  return jax.vjp(pool, x)[1](cotangent)[0]


@pytest.mark.parametrize(
  ("height", "width", "window", "dtype"),
  [(8, 8, 2, jnp.float32), (7, 5, 2, jnp.float32), (9, 8, 3, jnp.float32), (8, 8, 2, jnp.bfloat16)],
)
@pytest.mark.parametrize("levels", [3, 10**6])
def test_max_pool_has_the_value_and_gradient_of_flax_also_among_equal_values(
  height, width, window, dtype, levels
):
  # Three levels, half of them below zero before the ReLU: almost every window holds equal maxima.
  rng = np.random.default_rng(height * width)
  x = jnp.asarray(rng.integers(-levels, levels, (3, height, width, 4)) / levels, dtype)
  shape = (3, height // window, width // window, 4)
  cotangent = jnp.asarray(rng.normal(size=shape), dtype)

  def ours(x):
    return layers.max_pool(nn.relu(x), window)

  def flax(x):
    return nn.max_pool(nn.relu(x), (window, window), (window, window))

  assert ours(x).shape == shape
  np.testing.assert_array_equal(ours(x), flax(x))
  np.testing.assert_array_equal(gradient(ours, x, cotangent), gradient(flax, x, cotangent))
  # Without the ReLU, whose gradient at 0 would hide which of the equal zeros was chosen.
  ties = nn.relu(x)
  np.testing.assert_array_equal(
    gradient(lambda x: layers.max_pool(x, window), ties, cotangent),
    gradient(lambda x: nn.max_pool(x, (window, window), (window, window)), ties, cotangent),
  )


@pytest.mark.parametrize("place", range(4))
def test_max_pool_does_not_hide_a_nan(place):
  x = jnp.arange(4.0).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
  assert jnp.isnan(layers.max_pool(x)).all()


def test_the_maximum_of_relus_is_the_relu_of_the_maximum():
  # Three levels: many maxima are equal, or exactly 0.
  x = jnp.asarray(np.random.default_rng(1).integers(-1, 2, (5, 6, 7, 8)), jnp.float32)
  cotangent = jnp.asarray(np.random.default_rng(2).normal(size=(5, 3, 3, 8)), jnp.float32)

  def relu_first(x):
    return layers.max_pool(nn.relu(x))

  np.testing.assert_array_equal(layers.relu_max_pool(x), relu_first(x))
  np.testing.assert_array_equal(
    gradient(layers.relu_max_pool, x, cotangent), gradient(relu_first, x, cotangent)
  )


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)])
@pytest.mark.parametrize("shape", [(7, 33), (2, 3, 20)])
def test_dense_is_that_of_flax_with_its_gradients(dtype, tolerance, shape):
  rng = np.random.default_rng(3)
  x = jnp.asarray(rng.normal(size=shape), dtype)
  variables = nn.Dense(19).init(jax.random.key(0), x)
  cotangent = jnp.asarray(rng.normal(size=(*shape[:-1], 19)), jnp.float32)

  def run(layer, dtype):
    y, pullback = jax.vjp(layer(19, dtype=dtype).apply, variables, x)
    return y, pullback(cotangent.astype(dtype))

  ours, exact = run(layers.Dense, dtype), run(nn.Dense, jnp.float32)
  assert ours[0].dtype == dtype
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
    scale = np.abs(b).max()
    np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=0, atol=2 * tolerance * scale)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(3, 1), (4, 37), (5, 16, 16, 5)])
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.5])
def test_dropout_has_the_masks_of_jax_random(dtype, shape, rate):
  key, x = jax.random.key(5), 1 + jax.random.uniform(jax.random.key(6), shape, dtype)
  layer_key = []

  class Drop(layers.Dropout):
    def make_rng(self, name):
      layer_key.append(super().make_rng(name))
      return layer_key[-1]

  def ours(x):
    return Drop(rate).apply({}, x, rngs={"dropout": key})

  y, dx = ours(x), gradient(ours, x, x)
  for row in range(shape[0]):
    mask = jax.random.bernoulli(jax.random.fold_in(layer_key[0], row), 1 - rate, shape[1:])
    expected = np.where(mask, np.float32(x[row]) * (np.float32(1) / np.float32(1 - rate)), 0)
    np.testing.assert_array_equal(y[row], jnp.asarray(expected, dtype))
    np.testing.assert_array_equal(dx[row], jnp.asarray(expected, dtype))


def test_programs_for_accelerators_have_no_cpu_kernels():
  class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
      return layers.Dropout(0.5)(layers.relu_max_pool(layers.Dense(8)(x)))

  x = jnp.ones((2, 4, 4, 3))
  params = layers.Dense(8).init(jax.random.key(0), x)["params"]
  variables = {"params": {"Dense_0": params}}

  def loss(variables, x, key):
    return Network().apply(variables, x, rngs={"dropout": key}).sum()

  lowered = jax.jit(jax.grad(loss)).trace(variables, x, jax.random.key(1))
  program = lowered.lower(lowering_platforms=("cuda",)).as_text()
  assert "dropout_forward" not in program
  assert "convolution" not in program
  assert program.count("stablehlo.dot_general") == 2  # forward, and the gradient of the kernel


def drop(x, key, rate=0.4, axis_name=None, **kwargs):
  return layers.Dropout(rate, axis_name=axis_name, **kwargs).apply({}, x, rngs={"dropout": key})


@pytest.mark.parametrize("devices", [2, 4])
def test_dropout_is_the_same_however_many_devices_share_the_batch(devices):
  key = jax.random.key(3)
  x = jnp.ones((8, 5, 5, 2))
  alone = drop(x, key)
  assert len(np.unique(np.asarray(alone).reshape(8, -1), axis=0)) == 8  # all masks differ
  shared = jax.pmap(
    lambda x, key: drop(x, key, axis_name="batch"),
    axis_name="batch",
    in_axes=(0, None),
    devices=jax.devices()[:devices],
  )(x.reshape(devices, 8 // devices, 5, 5, 2), key)
  np.testing.assert_array_equal(np.asarray(shared).reshape(alone.shape), alone)


def test_dropout_under_vmap_over_seeds_is_each_seed_alone():
  keys = jax.random.split(jax.random.key(0), 3)
  x = jnp.ones((4, 50))
  together = jax.vmap(drop, in_axes=(None, 0))(x, keys)
  for key, result in zip(keys, together, strict=True):
    np.testing.assert_array_equal(result, drop(x, key))
  assert not np.array_equal(together[0], together[1])


def test_dropout_keeps_the_mean_and_drops_at_its_rate():
  rate, shape = 0.3, (16, 4000)
  y = np.asarray(drop(jnp.ones(shape), jax.random.key(1), rate))
  assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(1 - rate)}
  dropped = (y == 0).mean()
  assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / y.size)


def test_spatial_dropout_drops_whole_channels_of_single_examples():
  y = np.asarray(drop(jnp.ones((8, 3, 3, 64)), jax.random.key(2), 0.5, broadcast_dims=(1, 2)))
  channels = y.transpose(0, 3, 1, 2).reshape(8 * 64, 9)
  assert (channels.min(axis=1) == channels.max(axis=1)).all()
  assert abs((channels[:, 0] == 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(8 * 64)
  assert len(np.unique(y[:, 0, 0], axis=0)) == 8


def test_dropout_draws_anew_in_every_layer():
  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
      return layers.Dropout(0.5)(x), layers.Dropout(0.5)(x)

  first, second = Twice().apply({}, jnp.ones((2, 100)), rngs={"dropout": jax.random.key(0)})
  assert not np.array_equal(first, second)


def test_dropout_returns_its_input_when_not_training_or_at_rate_0_or_at_initialisation():
  x = jnp.ones((2, 10), jnp.bfloat16)
  assert layers.Dropout(0.5, deterministic=True).apply({}, x) is x
  assert layers.Dropout(0.0).apply({}, x) is x
  # A model is initialised without the axis and without a 'dropout' key.
  y, variables = layers.Dropout(0.5, axis_name="batch").init_with_output(jax.random.key(0), x)
  assert y is x
  assert not variables


def test_dropout_keeps_the_dtype():
  assert drop(jnp.ones((2, 10), jnp.bfloat16), jax.random.key(0)).dtype == jnp.bfloat16


def test_he_fan_out_scales_with_the_outputs():
  kernel = layers.he_fan_out(jax.random.key(0), (3, 3, 64, 128))
  assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.01)
  assert float(kernel.mean()) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(rate):
  with pytest.raises(UserError, match=r"^model\.dropout: .* give a number in \[0, 1\)$"):
    layers.check_rate("dropout", rate)


def test_a_single_logit_is_a_sigmoid_with_binary_cross_entropy():
  import report_twins as twins  # imports Keras, which is slow

  model = basic_cnn.BasicCNN(2, widths=(4, 5), dense=(6,), single_logit=True)
  rng = np.random.default_rng(4)
  images = jnp.asarray(rng.uniform(size=(6, 12, 12, 3)), jnp.float32)
  labels = jnp.asarray([0, 1, 1, 0, 1, 1])
  variables = random_variables(model, images)
  network = twins.basic_cnn(12, widths=(4, 5), dense=(6,), units=1)
  copy_weights(variables, network)

  def ours(params):
    logits, _ = model.apply(
      {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
    )
    return optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, 2)).mean()

  fixed = [weight.value for weight in network.non_trainable_variables]

  def theirs(trainable):
    logits, _ = network.stateless_call(trainable, fixed, images, training=True)
    probabilities = jax.nn.sigmoid(logits)
    return twins.keras.losses.BinaryCrossentropy()(labels[:, None], probabilities)

  loss, gradients = jax.jit(jax.value_and_grad(ours))(variables["params"])
  trainable = [weight.value for weight in network.trainable_variables]
  expected, keras_gradients = jax.jit(jax.value_and_grad(theirs))(trainable)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  by_path = {
    weight.path: gradient
    for weight, gradient in zip(network.trainable_variables, keras_gradients, strict=True)
  }
  for layer in network.layers:
    if layer.weights:
      of_layer = flax_weights({"params": gradients}, layer)
      for weight, gradient in zip(layer.trainable_weights, of_layer, strict=True):
        reference = by_path[weight.path]
        scale = np.abs(reference).max()
        np.testing.assert_allclose(gradient, reference, rtol=1e-3, atol=1e-4 * scale)


def test_a_single_logit_needs_two_classes():
  with pytest.raises(UserError, match=r"^model\.single_logit: .* dataset has 10; leave it False"):
    shapes({"name": "basic_cnn", "single_logit": True})


def test_dropout_under_vmap_over_rates_is_each_rate_alone():
  x = jax.random.normal(jax.random.key(0), (4, 100))
  keys = jax.random.key_data(jax.random.split(jax.random.key(1), 4))
  together = jax.vmap(lambda rate: dropout.dropout(x, keys, rate))(jnp.array([0.1, 0.9]))
  for got, rate in zip(together, (0.1, 0.9), strict=True):
    np.testing.assert_array_equal(got, dropout.dropout(x, keys, jnp.float32(rate)))


def test_dropout_leaves_other_generators_to_jax():
  x = jnp.ones((4, 10))
  keys = jax.random.key_data(jax.random.split(jax.random.key(1, impl="rbg"), 4))
  assert keys.shape == (4, 4) and not dropout._has_kernel(x, keys)
