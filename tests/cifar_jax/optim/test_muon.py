"""Muon against Keras, SciPy and the published update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from optimizer_traces import (
  UPDATES,
  assert_same,
  make_constant,
  make_gradients,
  make_params,
  train,
  train_keras,
)

from cifar_jax.optim import optimizers, schedules


def test_muon_is_keras_on_matrices(keras_optimizers):
  # Keras' Muon does not orthogonalise convolutions, and its Nesterov momentum differs from optax's.
  params = {"Dense_0": make_params()["Dense_0"], "Dense_1": {"kernel": jnp.ones((3, 7)) / 3}}
  gradients = make_gradients(params)
  config = {"name": "muon", "nesterov": False, "adam_lr_ratio": 0.1, "weight_decay": 0.1}
  ours = train(optimizers.create(config, make_constant(0.02)), params, gradients)
  keras = keras_optimizers.Muon(
    0.02, nesterov=False, adam_lr_ratio=0.1, weight_decay=0.1, adam_weight_decay=None
  )
  assert_same(ours, train_keras(keras, params, gradients), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("consistent_rms", [0.0, 0.2])
def test_muon_orthogonalises_convolutions_as_matrices(consistent_rms):
  params = make_params()
  config = {"name": "muon", "consistent_rms": consistent_rms}
  optimizer = optimizers.create(config, make_constant(1.0))
  updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
  polar, _ = scipy.linalg.polar(np.asarray(params["Conv_0"]["kernel"]).reshape(18, 4))
  update = -np.asarray(updates["Conv_0"]["kernel"]).reshape(18, 4)
  if consistent_rms:
    np.testing.assert_allclose(np.sqrt(np.mean(update**2)), 0.2, atol=0.05)
    update /= consistent_rms * np.sqrt(18)
  # Jordan's five iterations leave singular values between about 0.7 and 1.2.
  assert np.all(np.abs(np.linalg.svd(update, compute_uv=False) - 1) < 0.35)
  assert np.sum(polar * update) > 0.97 * np.linalg.norm(polar) * np.linalg.norm(update)
  # Adam's first update is a step of the learning rate against the gradient's sign.
  bias = updates["BatchNorm_0"]["bias"]
  np.testing.assert_allclose(bias, -np.sign(params["BatchNorm_0"]["bias"]), rtol=1e-4)


@pytest.mark.parametrize("name", ["muon", "muon_sgd"])
def test_a_whole_number_of_iterations_may_be_a_float(name):
  params = make_params()
  updates = []
  for ns_steps in (3, 3.0):
    optimizer = optimizers.create({"name": name, "ns_steps": ns_steps}, make_constant(0.1))
    updates.append(optimizer.update(params, optimizer.init(params), params)[0])
  jax.tree.map(np.testing.assert_array_equal, *updates)


@pytest.mark.parametrize("multiplier", [1e-3, 0.5, 2.0])
def test_muon_sgd_normalises_kernels_whatever_their_rate(multiplier):
  params = make_params()
  zeros = jax.tree.map(jnp.zeros_like, params)
  gradient = make_gradients(params)[0]
  rules = (("Conv_0/kernel", multiplier),)
  one, multiplied = (
    optimizers.create({"name": "muon_sgd", "lr_multipliers": rules}, make_constant(rate))
    for rate, rules in ((0.1 * multiplier, ()), (0.1, rules))
  )

  def move(optimizer, gradient):
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    return params["Conv_0"]["kernel"] + updates["Conv_0"]["kernel"]

  kernel = params["Conv_0"]["kernel"]
  np.testing.assert_allclose(
    move(multiplied, zeros), kernel * 2 / np.linalg.norm(kernel), rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(move(multiplied, gradient), move(one, gradient), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "freezing", [{"freeze": ("Conv_0",)}, {"freeze_after": (("Conv_0", 0),)}], ids=str
)
def test_muon_sgd_does_not_normalise_frozen_kernels(freezing):
  params = make_params()
  optimizer = optimizers.create({"name": "muon_sgd", **freezing}, make_constant(0.1))
  updates, _ = optimizer.update(params, optimizer.init(params), params)
  assert not np.any(updates["Conv_0"]["kernel"])
  assert np.all(updates["Dense_0"]["kernel"])


def test_muon_sgd_is_the_published_update_written_out_in_numpy():
  params = make_params()
  params["Conv_1"] = {"kernel": params["Conv_0"]["kernel"][::-1]}  # of the same shape
  params["Conv_2"] = {"kernel": jnp.ones((1, 1, 2, 6)) + jnp.arange(6.0)}  # wide
  gradients = make_gradients(params)
  schedule = schedules.create({"name": "linear"}, 0.24, 1, UPDATES)
  ours = train(optimizers.create({"name": "muon_sgd"}, schedule), params, gradients)

  def orthogonalise(matrix):
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    for _ in range(3):
      x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return x

  def train_parameter(w, gradients):
    w, velocity, trace = np.asarray(w, np.float64), 0.0, []
    beta = 0.6 if w.ndim == 4 else 0.85
    for step, gradient in enumerate(gradients):
      rate = 0.24 * (1 - step / UPDATES)
      velocity = beta * velocity + np.asarray(gradient, np.float64)
      update = gradient + beta * velocity
      if w.ndim == 4:
        outputs = w.shape[-1]
        w = w * np.sqrt(outputs) / np.linalg.norm(w)
        update = orthogonalise(np.reshape(update, (-1, outputs)).T).T.reshape(w.shape)
      w = w - rate * update
      trace.append(w)
    return trace

  for path, start in jax.tree.leaves_with_path(params):
    layer, name = (key.key for key in path)
    expected = train_parameter(start, [gradient[layer][name] for gradient in gradients])
    assert_same([after[layer][name] for after in ours], expected, rtol=1e-3, atol=1e-4)
