"""What rules by patterns of paths do to parameters: multipliers, freezing and the L2 penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizer_traces import (
  assert_same,
  make_constant,
  make_gradients,
  make_params,
  train,
)

from cifar_jax import errors
from cifar_jax.optim import optimizers


def test_lr_multipliers_equal_training_at_the_multiplied_rate():
  params = make_params()
  gradients = make_gradients(params)
  config = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}
  rules = (("BatchNorm", 64.0), ("bias$", 0.5))
  ours = train(
    optimizers.create(config | {"lr_multipliers": rules}, make_constant(0.01)), params, gradients
  )
  for factor, layer, name in (
    (64.0, "BatchNorm_0", "scale"),
    (64.0, "BatchNorm_0", "bias"),
    (0.5, "Conv_0", "bias"),
    (1.0, "Dense_0", "kernel"),
  ):
    alone = train(optimizers.create(config, make_constant(0.01 * factor)), params, gradients)
    trace, expected = ([params[layer][name] for params in after] for after in (ours, alone))
    assert_same(trace, expected, rtol=1e-4, atol=1e-6)


def test_freeze_after_stops_a_parameter():
  params = make_params()
  gradients = make_gradients(params)
  config = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}
  free = train(optimizers.create(config, make_constant(0.1)), params, gradients)
  rules = (("Conv_0/bias", 2.5), ("Dense_0", 0))
  tx = optimizers.create(config | {"freeze_after": rules}, make_constant(0.1), steps_per_epoch=2)
  ours = train(tx, params, gradients)
  for i, (a, b) in enumerate(zip(ours, free, strict=True)):
    np.testing.assert_array_equal(a["Conv_0"]["bias"], free[min(i, 4)]["Conv_0"]["bias"])
    np.testing.assert_array_equal(a["Dense_0"]["kernel"], params["Dense_0"]["kernel"])
    np.testing.assert_array_equal(a["Conv_0"]["kernel"], b["Conv_0"]["kernel"])


def test_freeze_after_more_steps_than_int32_holds_never_stops_a_parameter():
  params = make_params()
  config = {"name": "sgd", "freeze_after": (("Conv_0/bias", 3e8), ("Dense_0", 3e38))}
  tx = optimizers.create(config, make_constant(0.1), steps_per_epoch=16)
  updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
  jax.tree.map(lambda u, w: np.testing.assert_allclose(u, -0.1 * w, rtol=1e-6), updates, params)


@pytest.mark.parametrize("field", ["lr_multipliers", "freeze_after"])
def test_bad_rules_raise_when_parameters_are_known(field):
  tx = optimizers.create({"name": "sgd", field: (("kernal", 2.0),)}, make_constant(0.1))
  with pytest.raises(errors.UserError, match=rf"^optimizer.{field}: pattern 'kernal' matches no p"):
    tx.init(make_params())
  tx = optimizers.create({"name": "sgd", field: (("kernel", -1.0),)}, make_constant(0.1))
  with pytest.raises(errors.UserError, match=rf"^optimizer.{field}: must be a number >= 0 for 'k"):
    tx.init(make_params())


def test_frozen_parameters_never_change_and_the_others_train_as_without():
  params = {"base": {"conv": {"kernel": jnp.ones((3, 2))}}, "head": {"kernel": jnp.ones((2, 4))}}
  gradients = jax.tree.map(lambda leaf: 0.5 * leaf, params)

  def train_three_steps(**fields):
    config = {"name": "adam", "weight_decay": 0.1, **fields}
    tx = optimizers.create(config, lambda step: 0.1)
    state, trained = tx.init(params), params
    for _ in range(3):
      updates, state = tx.update(gradients, state, trained, lr_scale=0.5)
      trained = optax.apply_updates(trained, updates)
    return trained

  frozen, free = train_three_steps(freeze=("^base/",)), train_three_steps()
  np.testing.assert_array_equal(frozen["base"]["conv"]["kernel"], params["base"]["conv"]["kernel"])
  np.testing.assert_allclose(frozen["head"]["kernel"], free["head"]["kernel"], rtol=1e-6)
  assert not np.array_equal(free["base"]["conv"]["kernel"], params["base"]["conv"]["kernel"])
  with pytest.raises(errors.UserError, match=r"optimizer.freeze: pattern 'bsae' matches no param"):
    train_three_steps(freeze=("bsae",))


def test_further_frozen_patterns_add_to_freeze_and_name_their_field():
  params = make_params()
  config = {"name": "sgd", "freeze": ("Conv_0",)}
  tx = optimizers.create(config, make_constant(0.1), more_frozen={"proxy.freeze": ("Dense_0",)})
  updates, _ = tx.update(params, tx.init(params), params)
  changed = {layer for layer, leaves in updates.items() if any(map(np.any, leaves.values()))}
  assert changed == {"BatchNorm_0"}
  tx = optimizers.create(config, make_constant(0.1), more_frozen={"proxy.freeze": ("Dens_0",)})
  with pytest.raises(errors.UserError, match=r"^proxy\.freeze: pattern 'Dens_0' matches no param"):
    tx.init(params)


def test_l2_penalty_is_keras_kernel_regularizer():
  import keras

  l2 = keras.regularizers.l2
  model = keras.Sequential(
    [
      keras.Input((8, 8, 3)),
      keras.layers.Conv2D(4, 3, kernel_regularizer=l2(1e-2)),
      keras.layers.BatchNormalization(),
      keras.layers.Flatten(),
      keras.layers.Dense(6, kernel_regularizer=l2(3e-3)),
      keras.layers.Dense(2),
    ]
  )
  names = ("Conv_0", "Dense_0", "Dense_1")
  layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
  params = {
    name: {
      "kernel": np.asarray(layer.kernel.value),
      "bias": np.asarray(layer.bias.value) + 1,
    }
    for name, layer in zip(names, layers, strict=True)
  }
  rules = (("Conv_0/kernel$", 1e-2), ("Dense_0/kernel$", 3e-3))
  penalty = jax.jit(lambda p: optimizers.l2_penalty(p, rules))(params)
  assert penalty.dtype == jnp.float32 and penalty.shape == ()
  np.testing.assert_allclose(penalty, sum(model.losses), rtol=1e-6)


def test_l2_penalty_uses_the_first_match_and_is_zero_without_rules():
  params = make_params()
  kernels = {layer: float(jnp.sum(params[layer]["kernel"] ** 2)) for layer in ("Conv_0", "Dense_0")}
  rules = (("Dense", 0.0), ("kernel", 0.5))
  np.testing.assert_allclose(
    optimizers.l2_penalty(params, rules), 0.5 * kernels["Conv_0"], rtol=1e-6
  )
  np.testing.assert_allclose(
    optimizers.l2_penalty(params, [("kernel", 0.5)]), 0.5 * sum(kernels.values()), rtol=1e-6
  )
  assert float(optimizers.l2_penalty(params, ())) == 0


def test_l2_penalty_of_half_the_coefficient_is_pytorchs_weight_decay():
  params = make_params()
  gradient = jax.grad(lambda p: optimizers.l2_penalty(p, [("kernel", 0.05)]))(params)
  np.testing.assert_allclose(
    gradient["Dense_0"]["kernel"], 0.1 * params["Dense_0"]["kernel"], rtol=1e-6
  )
  assert not np.any(gradient["Dense_0"]["bias"])


@pytest.mark.parametrize(
  "rules,message",
  [
    (
      [("kernal", 1e-4)],
      "loss.l2: pattern 'kernal' matches no parameter; parameters: BatchNorm_0/bias, "
      "BatchNorm_0/scale, Conv_0/bias, Conv_0/kernel, Dense_0/bias, …",
    ),
    (
      [("kernel", 1e-4), ("Dense_0/kernel", 0.0)],
      "loss.l2: pattern 'Dense_0/kernel' matches only parameters that an earlier pattern matches; ",
    ),
    ([("(", 1e-4)], "loss.l2: '(' is not a regular expression: "),
    ([("kernel", -1e-4)], "loss.l2: must be a number >= 0 for 'kernel', got -0.0001"),
    (
      ("kernel", 1e-4),
      "loss.l2: must be (pattern, number) pairs such as (('kernel', 1e-4),), got 'kernel'",
    ),
  ],
)
def test_l2_penalty_bad_rules(rules, message):
  with pytest.raises(errors.UserError) as raised:
    optimizers.l2_penalty(make_params(), rules)
  assert str(raised.value).startswith(message)
