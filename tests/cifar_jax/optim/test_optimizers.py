"""Optimizers against Keras' on its JAX backend, update by update, and against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizer_traces import (
  KERNELS,
  UPDATES,
  assert_same,
  make_constant,
  make_gradients,
  make_params,
  train,
  train_keras,
)

from cifar_jax import errors
from cifar_jax.optim import optimizers, schedules


@pytest.mark.parametrize(
  "config,keras_name,keras_arguments",
  [
    ({"name": "sgd"}, "SGD", {}),
    ({"name": "sgd", "momentum": 0.9}, "SGD", {"momentum": 0.9}),
    (
      {"name": "sgd", "momentum": 0.9, "nesterov": True},
      "SGD",
      {"momentum": 0.9, "nesterov": True},
    ),
    (
      {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1, "clip_norm": 0.5},
      "SGD",
      {"momentum": 0.9, "weight_decay": 0.1, "global_clipnorm": 0.5},
    ),
    ({"name": "adam"}, "Adam", {}),
    (
      {"name": "adam", "b1": 0.8, "b2": 0.95, "eps": 1e-3},
      "Adam",
      {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3},
    ),
    ({"name": "adamw"}, "AdamW", {}),
    ({"name": "adamw", "weight_decay": 0.3}, "AdamW", {"weight_decay": 0.3}),
    ({"name": "rmsprop"}, "RMSprop", {}),
    (
      {"name": "rmsprop", "rho": 0.8, "momentum": 0.5, "eps": 1e-3},
      "RMSprop",
      {"rho": 0.8, "momentum": 0.5, "epsilon": 1e-3},
    ),
  ],
)
def test_is_keras(keras_optimizers, config, keras_name, keras_arguments):
  params = make_params()
  gradients = make_gradients(params)
  ours = train(optimizers.create(config, make_constant(0.01)), params, gradients)
  keras = getattr(keras_optimizers, keras_name)(learning_rate=0.01, **keras_arguments)
  assert_same(ours, train_keras(keras, params, gradients, decayed=KERNELS))


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_momentum_is_keras_when_the_rate_changes(keras_optimizers, name):
  # The rate changes by the schedule and by lr_scale; Keras' velocity keeps earlier steps' rates.
  rates = np.where(np.arange(UPDATES) < 5, 0.01, 0.001) * np.where(np.arange(UPDATES) < 8, 1, 0.5)
  schedule = schedules.create({"name": "step", "boundaries": (5,)}, 0.01, 1, UPDATES)
  params = make_params()
  gradients = make_gradients(params)
  config = {"name": name, "momentum": 0.9, "weight_decay": 0.1}
  scales = np.where(np.arange(UPDATES) < 8, 1, 0.5).astype(np.float32)
  ours = train(optimizers.create(config, schedule), params, gradients, scales)
  classes = {"sgd": keras_optimizers.SGD, "rmsprop": keras_optimizers.RMSprop}
  keras = classes[name](0.01, momentum=0.9, weight_decay=0.1)
  assert_same(ours, train_keras(keras, params, gradients, KERNELS, rates.tolist()))


@pytest.mark.parametrize("eps_in_root", [False, True])
def test_rmsprop_by_hand(eps_in_root):
  # Gradients so small that the place of eps decides the step.
  gradients = [1e-4, -2e-4, 5e-5]
  eps, rate, moment, w = 1e-7, 0.01, 0.0, 0.5
  optimizer = optimizers.create(
    {"name": "rmsprop", "eps_in_root": eps_in_root}, make_constant(rate)
  )
  params = {"w": jnp.float32(w)}
  state = optimizer.init(params)
  for gradient in gradients:
    updates, state = optimizer.update({"w": jnp.float32(gradient)}, state, params)
    params = optax.apply_updates(params, updates)
    moment = 0.9 * moment + 0.1 * gradient**2
    root = np.sqrt(moment + eps) if eps_in_root else np.sqrt(moment) + eps
    w -= rate * gradient / root
    np.testing.assert_allclose(params["w"], w, rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_the_rate_outside_the_velocity_is_optax(nesterov):
  params = make_params()
  gradients = make_gradients(params)
  schedule = schedules.create({"name": "linear", "pct_start": 0.3, "final": 0.1}, 0.2, 1, UPDATES)
  config = {"name": "sgd", "momentum": 0.85, "nesterov": nesterov, "lr_in_velocity": False}
  theirs = optax.sgd(schedule, momentum=0.85, nesterov=nesterov)
  assert_same(
    train(optimizers.create(config, schedule), params, gradients),
    train(theirs, params, gradients),
    rtol=1e-5,
  )


# test_muon.py tests muon_sgd, which moves kernels even if the gradient is zero.
@pytest.mark.parametrize("name", sorted(optimizers.METHODS.keys() - {"muon_sgd"}))
def test_weight_decay_is_decoupled_and_on_kernels_only(name):
  params = make_params()
  zeros = jax.tree.map(jnp.zeros_like, params)
  optimizer = optimizers.create({"name": name, "weight_decay": 0.5}, make_constant(0.1))
  updates, _ = optimizer.update(zeros, optimizer.init(params), params, lr_scale=0.5)
  expected = {
    layer: {n: -0.1 * 0.5 * 0.5 * w if n == "kernel" else 0 * w for n, w in leaves.items()}
    for layer, leaves in params.items()
  }
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


def stack(trees):
  """Return the trees as one, whose leaves have a new first axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize("name", sorted(optimizers.METHODS))
def test_vmap_over_seeds_is_one_by_one(name):
  config = {"name": name, "weight_decay": 0.01, "clip_norm": 1.0}
  seeds = [make_params(seed) for seed in (0, 7)]
  gradients = [make_gradients(params, seed)[:2] for seed, params in enumerate(seeds)]
  scales = jnp.array([1.0, 0.5])

  def two_updates(params, first, second, learning_rate, lr_scale):
    optimizer = optimizers.create(config, make_constant(learning_rate))
    state = optimizer.init(params)
    for gradient in (first, second):
      updates, state = optimizer.update(gradient, state, params, lr_scale=lr_scale)
      params = optax.apply_updates(params, updates)
    return params, state

  rates = jnp.array([0.1, 0.01])
  two_updates = jax.jit(two_updates)
  alone = [two_updates(seeds[i], *gradients[i], rates[i], scales[i]) for i in (0, 1)]
  together = jax.vmap(two_updates)(
    stack(seeds), *(stack(pair) for pair in zip(*gradients, strict=True)), rates, scales
  )
  for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(stack(alone)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_clipping_is_by_global_norm_and_comes_first():
  params = make_params()
  gradient = jax.tree.map(lambda w: 10 * w, params)
  optimizer = optimizers.create({"name": "sgd", "clip_norm": 2.0}, make_constant(1.0))
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  np.testing.assert_allclose(optax.tree.norm(updates), 2.0, rtol=1e-5)
  small = jax.tree.map(lambda w: 1e-3 * w, params)
  updates, _ = optimizer.update(small, optimizer.init(params), params)
  jax.tree.map(lambda u, g: np.testing.assert_array_equal(u, -g), updates, small)


def test_none_is_the_default_and_learning_rate_is_ignored():
  config = dict.fromkeys(["momentum", "nesterov", "weight_decay", "clip_norm"])
  params = make_params()
  optimizer = optimizers.create({**config, "name": "sgd", "learning_rate": 9.0}, make_constant(0.1))
  updates, state = optimizer.update(params, optimizer.init(params), params)
  jax.tree.map(lambda u, w: np.testing.assert_allclose(u, -0.1 * w, rtol=1e-6), updates, params)
  assert int(state.step) == 1


@pytest.mark.parametrize(
  "config,message",
  [
    (
      {"name": "sdg"},
      "optimizer.name: unknown optimizer 'sdg'; did you mean 'sgd'? "
      "known: adam, adamw, muon, muon_sgd, rmsprop, sgd",
    ),
    (
      {"name": "sgd", "momentun": 0.9},
      "optimizer.momentun: 'sgd' takes no such argument; "
      "it takes: momentum, nesterov, lr_in_velocity, weight_decay, clip_norm",
    ),
    ({"name": "sgd", "momentum": 1}, "optimizer.momentum: must be a number in [0, 1), got 1"),
    ({"name": "sgd", "momentum": "0.9"}, "optimizer.momentum: must be a number in [0, 1)"),
    ({"name": "sgd", "momentum": 0.9, "nesterov": 1}, "optimizer.nesterov: must be True or False"),
    ({"name": "sgd", "nesterov": True}, "optimizer.nesterov: needs a momentum; set optimizer.m"),
    ({"name": "sgd", "weight_decay": -1e-4}, "optimizer.weight_decay: must be a number >= 0"),
    ({"name": "sgd", "clip_norm": -1}, "optimizer.clip_norm: must be a number >= 0"),
    ({"name": "adam", "b1": -0.1}, "optimizer.b1: must be a number in [0, 1)"),
    ({"name": "adam", "b2": 1.0}, "optimizer.b2: must be a number in [0, 1)"),
    ({"name": "adam", "eps": 0.0}, "optimizer.eps: must be a number > 0"),
    ({"name": "rmsprop", "rho": 2}, "optimizer.rho: must be a number in [0, 1)"),
    ({"name": "muon_sgd", "beta": 1}, "optimizer.beta: must be a number in [0, 1)"),
    ({"name": "muon", "ns_steps": 0}, "optimizer.ns_steps: must be a whole number in [1, 100]"),
    ({"name": "muon_sgd", "ns_steps": 2**31 - 1}, "optimizer.ns_steps: must be a whole number in"),
    ({"name": "muon", "adam_lr_ratio": 0}, "optimizer.adam_lr_ratio: must be a number > 0"),
    ({"name": "muon", "consistent_rms": -1}, "optimizer.consistent_rms: must be a number >= 0"),
  ],
)
def test_bad_values_name_the_field(config, message):
  with pytest.raises(errors.UserError) as raised:
    optimizers.create(config, make_constant(0.1))
  assert str(raised.value).startswith(message)
  assert "\n" not in str(raised.value)
