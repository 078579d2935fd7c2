"""Optimizers against Keras' on its JAX backend, update by update, and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cifar_jax import errors
from cifar_jax.optim import averages, optimizers, schedules

UPDATES = 12


def constant(learning_rate):
  return schedules.create({"name": "constant"}, learning_rate, 1, UPDATES)


def make_params(seed=0):
  rng = np.random.default_rng(seed)
  shapes = {
    "Conv_0": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "Dense_0": {"kernel": (8, 5), "bias": (5,)},
    "BatchNorm_0": {"scale": (4,), "bias": (4,)},
  }
  return {
    layer: {
      name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in leaves.items()
    }
    for layer, leaves in shapes.items()
  }


def make_gradients(params, seed=1):
  """UPDATES different gradients, of sizes from 1e-6 to 1, so that eps shows."""
  rng = np.random.default_rng(seed)
  leaves, treedef = jax.tree.flatten(params)
  return [
    treedef.unflatten(
      [
        jnp.asarray(rng.normal(size=leaf.shape) * 10 ** rng.uniform(-6, 0), jnp.float32)
        for leaf in leaves
      ]
    )
    for _ in range(UPDATES)
  ]


def train(optimizer, params, gradients, lr_scales=None):
  """The parameters after each update."""
  state, trace = optimizer.init(params), []
  update = jax.jit(optimizer.update)
  for i, gradient in enumerate(gradients):
    extra = {} if lr_scales is None else {"lr_scale": lr_scales[i]}
    updates, state = update(gradient, state, params, **extra)
    params = optax.apply_updates(params, updates)
    trace.append(params)
  return trace


def keras_train(optimizer, params, gradients, decayed=None, learning_rates=None):
  """The same by a Keras optimizer; decayed: names of parameters that weight decay applies to."""
  import keras

  leaves, treedef = jax.tree.flatten(params)
  paths = [optimizers._name(path) for path, _ in jax.tree.leaves_with_path(params)]
  variables = [
    keras.Variable(np.array(leaf), name=path.replace("/", "_"))
    for path, leaf in zip(paths, leaves, strict=True)
  ]
  if decayed is not None:
    optimizer.exclude_from_weight_decay(
      var_list=[v for v, path in zip(variables, paths, strict=True) if path not in decayed]
    )
  optimizer.build(variables)
  trace = []
  for i, gradient in enumerate(gradients):
    if learning_rates is not None:
      optimizer.learning_rate = learning_rates[i]
    optimizer.apply(jax.tree.leaves(gradient))
    trace.append(treedef.unflatten([np.asarray(v.value) for v in variables]))
  return trace


def assert_same(ours, theirs, rtol=1e-5, atol=1e-7):
  assert len(ours) == len(theirs) == UPDATES
  for a, b in zip(ours, theirs, strict=True):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.fixture(scope="module")
def keras_optimizers():
  import keras

  return keras.optimizers


KERNELS = ("Conv_0/kernel", "Dense_0/kernel")


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
  ours = train(optimizers.create(config, constant(0.01)), params, gradients)
  keras = getattr(keras_optimizers, keras_name)(learning_rate=0.01, **keras_arguments)
  assert_same(ours, keras_train(keras, params, gradients, decayed=KERNELS))


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_momentum_is_keras_when_the_rate_changes(keras_optimizers, name):
  # Through the schedule and through lr_scale: Keras' velocity holds steps at the rates they had.
  rates = np.where(np.arange(UPDATES) < 5, 0.01, 0.001) * np.where(np.arange(UPDATES) < 8, 1, 0.5)
  schedule = schedules.create({"name": "step", "boundaries": (5,)}, 0.01, 1, UPDATES)
  params = make_params()
  gradients = make_gradients(params)
  config = {"name": name, "momentum": 0.9, "weight_decay": 0.1}
  scales = np.where(np.arange(UPDATES) < 8, 1, 0.5).astype(np.float32)
  ours = train(optimizers.create(config, schedule), params, gradients, scales)
  classes = {"sgd": keras_optimizers.SGD, "rmsprop": keras_optimizers.RMSprop}
  keras = classes[name](0.01, momentum=0.9, weight_decay=0.1)
  assert_same(ours, keras_train(keras, params, gradients, KERNELS, rates.tolist()))


def test_muon_is_keras_on_matrices(keras_optimizers):
  # Keras' Muon leaves convolutions as they are and looks ahead otherwise than optax's.
  params = {"Dense_0": make_params()["Dense_0"], "Dense_1": {"kernel": jnp.ones((3, 7)) / 3}}
  gradients = make_gradients(params)
  config = {"name": "muon", "nesterov": False, "adam_lr_ratio": 0.1, "weight_decay": 0.1}
  ours = train(optimizers.create(config, constant(0.02)), params, gradients)
  keras = keras_optimizers.Muon(
    0.02, nesterov=False, adam_lr_ratio=0.1, weight_decay=0.1, adam_weight_decay=None
  )
  assert_same(ours, keras_train(keras, params, gradients), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("consistent_rms", [0.0, 0.2])
def test_muon_orthogonalises_convolutions_as_matrices(consistent_rms):
  params = make_params()
  config = {"name": "muon", "consistent_rms": consistent_rms}
  optimizer = optimizers.create(config, constant(1.0))
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


# muon_sgd, which moves kernels without a gradient too, is tested apart.
@pytest.mark.parametrize("name", sorted(optimizers.METHODS.keys() - {"muon_sgd"}))
def test_weight_decay_is_decoupled_and_on_kernels_only(name):
  params = make_params()
  nothing = jax.tree.map(jnp.zeros_like, params)
  optimizer = optimizers.create({"name": name, "weight_decay": 0.5}, constant(0.1))
  updates, _ = optimizer.update(nothing, optimizer.init(params), params, lr_scale=0.5)
  expected = {
    layer: {n: -0.1 * 0.5 * 0.5 * w if n == "kernel" else 0 * w for n, w in leaves.items()}
    for layer, leaves in params.items()
  }
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


@pytest.mark.parametrize("name", sorted(optimizers.METHODS))
def test_vmap_over_seeds_is_one_by_one(name):
  config = {"name": name, "weight_decay": 0.01, "clip_norm": 1.0}
  seeds = [make_params(seed) for seed in (0, 7)]
  gradients = [make_gradients(params, seed)[:2] for seed, params in enumerate(seeds)]
  scales = jnp.array([1.0, 0.5])

  def two_updates(params, first, second, learning_rate, lr_scale):
    optimizer = optimizers.create(config, constant(learning_rate))
    state = optimizer.init(params)
    for gradient in (first, second):
      updates, state = optimizer.update(gradient, state, params, lr_scale=lr_scale)
      params = optax.apply_updates(params, updates)
    return params, state

  rates = jnp.array([0.1, 0.01])
  two_updates = jax.jit(two_updates)
  alone = [two_updates(seeds[i], *gradients[i], rates[i], scales[i]) for i in (0, 1)]
  stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
  together = jax.vmap(two_updates)(
    stack(*seeds), *(stack(*pair) for pair in zip(*gradients, strict=True)), rates, scales
  )
  for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(stack(*alone)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_clipping_is_by_global_norm_and_comes_first():
  params = make_params()
  gradient = jax.tree.map(lambda w: 10 * w, params)
  optimizer = optimizers.create({"name": "sgd", "clip_norm": 2.0}, constant(1.0))
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  np.testing.assert_allclose(optax.tree.norm(updates), 2.0, rtol=1e-5)
  small = jax.tree.map(lambda w: 1e-3 * w, params)
  updates, _ = optimizer.update(small, optimizer.init(params), params)
  jax.tree.map(lambda u, g: np.testing.assert_array_equal(u, -g), updates, small)


def test_none_and_learning_rate_are_left_out():
  config = dict.fromkeys(["momentum", "nesterov", "weight_decay", "clip_norm"])
  params = make_params()
  optimizer = optimizers.create({**config, "name": "sgd", "learning_rate": 9.0}, constant(0.1))
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
    ({"name": "sgd", "nesterov": True}, "optimizer.nesterov: needs optimizer.momentum > 0"),
    ({"name": "sgd", "weight_decay": -1e-4}, "optimizer.weight_decay: must be a number >= 0"),
    ({"name": "sgd", "clip_norm": -1}, "optimizer.clip_norm: must be a number >= 0"),
    ({"name": "adam", "b1": -0.1}, "optimizer.b1: must be a number in [0, 1)"),
    ({"name": "adam", "b2": 1.0}, "optimizer.b2: must be a number in [0, 1)"),
    ({"name": "adam", "eps": 0.0}, "optimizer.eps: must be a number > 0"),
    ({"name": "rmsprop", "rho": 2}, "optimizer.rho: must be a number in [0, 1)"),
    ({"name": "muon_sgd", "beta": 1}, "optimizer.beta: must be a number in [0, 1)"),
    ({"name": "muon", "ns_steps": 0}, "optimizer.ns_steps: must be a whole number >= 1"),
    ({"name": "muon", "adam_lr_ratio": 0}, "optimizer.adam_lr_ratio: must be a number > 0"),
    ({"name": "muon", "consistent_rms": -1}, "optimizer.consistent_rms: must be a number >= 0"),
  ],
)
def test_bad_values_name_the_field(config, message):
  with pytest.raises(errors.UserError) as raised:
    optimizers.create(config, constant(0.1))
  assert str(raised.value).startswith(message)
  assert "\n" not in str(raised.value)


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


def test_l2_penalty_first_rule_wins_and_no_rule_is_no_penalty():
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
      "loss.l2: pattern 'kernal' matches no parameter; parameters are: BatchNorm_0/bias, "
      "BatchNorm_0/scale, Conv_0/bias, Conv_0/kernel, Dense_0/bias, …",
    ),
    (
      [("kernel", 1e-4), ("Dense_0/kernel", 0.0)],
      "loss.l2: pattern 'Dense_0/kernel' matches no parameter but what an earlier pattern takes; ",
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


def test_ema_is_keras(keras_optimizers):
  params = make_params()
  gradients = make_gradients(params)
  keras = keras_optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
  weights = keras_train(keras, params, gradients)
  average = weights[0]  # Keras' average begins at the weights after the first update
  for step, new in enumerate(weights[1:]):
    average = averages.update_ema(average, new, step, 0.9, warmup=False)
  theirs = [average.value for average in keras._model_variables_moving_average]
  for a, b in zip(jax.tree.leaves(average), theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


arrays = hnp.arrays(np.float32, (3,), elements=st.floats(-100, 100, width=32))


@settings(max_examples=50, deadline=None)
@given(average=arrays, new=arrays, step=st.integers(0, 10**6), decay=st.floats(0, 1))
def test_ema_properties(average, new, step, decay):
  plain = np.asarray(averages.update_ema(average, new, step, decay, warmup=False))
  warm = np.asarray(averages.update_ema(average, new, step, decay, warmup=True))
  np.testing.assert_allclose(plain, decay * average + (1 - decay) * new, rtol=1e-4, atol=1e-4)
  lowest, highest = np.minimum(average, new) - 1e-4, np.maximum(average, new) + 1e-4
  assert np.all((lowest <= warm) & (warm <= highest))
  assert np.all(np.abs(warm - new) <= np.abs(plain - new) + 1e-4)  # warm-up forgets sooner
  if decay <= 0.1:  # the warm-up's decay starts at 0.1
    np.testing.assert_allclose(warm, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_the_rate_outside_the_velocity_is_optax_and_so_pytorchs(nesterov):
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


def test_muon_sgd_is_the_published_update_written_out_in_numpy():
  params = make_params()
  params["Conv_1"] = {"kernel": params["Conv_0"]["kernel"][::-1]}  # of the same shape
  params["Conv_2"] = {"kernel": jnp.ones((1, 1, 2, 6)) + jnp.arange(6.0)}  # wide
  gradients = make_gradients(params)
  schedule = schedules.create({"name": "linear"}, 0.24, 1, UPDATES)
  ours = train(optimizers.create({"name": "muon_sgd"}, schedule), params, gradients)

  def orthogonalised(matrix):
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    for _ in range(3):
      x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return x

  def one_by_one(w, gradients):
    w, velocity, trace = np.asarray(w, np.float64), 0.0, []
    beta = 0.6 if w.ndim == 4 else 0.85
    for step, gradient in enumerate(gradients):
      rate = 0.24 * (1 - step / UPDATES)
      velocity = beta * velocity + np.asarray(gradient, np.float64)
      update = gradient + beta * velocity
      if w.ndim == 4:
        outputs = w.shape[-1]
        w = w * np.sqrt(outputs) / np.linalg.norm(w)
        update = orthogonalised(np.reshape(update, (-1, outputs)).T).T.reshape(w.shape)
      w = w - rate * update
      trace.append(w)
    return trace

  for path, start in jax.tree.leaves_with_path(params):
    pick = lambda tree, path=path: tree[path[0].key][path[1].key]  # noqa: E731
    expected = one_by_one(start, list(map(pick, gradients)))
    assert_same(list(map(pick, ours)), expected, rtol=1e-3, atol=1e-4)


def test_lr_multipliers_are_groups_of_parameters_with_rates_of_their_own():
  params = make_params()
  gradients = make_gradients(params)
  config = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}
  rules = (("BatchNorm", 64.0), ("bias$", 0.5))
  ours = train(
    optimizers.create(config | {"lr_multipliers": rules}, constant(0.01)), params, gradients
  )
  for factor, pick in (
    (64.0, lambda tree: tree["BatchNorm_0"]),
    (0.5, lambda tree: tree["Conv_0"]["bias"]),
    (1.0, lambda tree: tree["Dense_0"]["kernel"]),
  ):
    alone = train(optimizers.create(config, constant(0.01 * factor)), params, gradients)
    assert_same(list(map(pick, ours)), list(map(pick, alone)), rtol=1e-4, atol=1e-6)


def test_freeze_after_stops_a_parameter_for_good():
  params = make_params()
  gradients = make_gradients(params)
  config = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}
  free = train(optimizers.create(config, constant(0.1)), params, gradients)
  rules = (("Conv_0/bias", 2.5), ("Dense_0", 0))
  tx = optimizers.create(config | {"freeze_after": rules}, constant(0.1), steps_per_epoch=2)
  ours = train(tx, params, gradients)
  for i, (a, b) in enumerate(zip(ours, free, strict=True)):
    np.testing.assert_array_equal(a["Conv_0"]["bias"], free[min(i, 4)]["Conv_0"]["bias"])
    np.testing.assert_array_equal(a["Dense_0"]["kernel"], params["Dense_0"]["kernel"])
    np.testing.assert_array_equal(a["Conv_0"]["kernel"], b["Conv_0"]["kernel"])


@pytest.mark.parametrize("field", ["lr_multipliers", "freeze_after"])
def test_rules_that_match_nothing_are_refused(field):
  tx = optimizers.create({"name": "sgd", field: (("kernal", 2.0),)}, constant(0.1))
  with pytest.raises(errors.UserError, match=rf"^optimizer.{field}: pattern 'kernal' matches no p"):
    tx.init(make_params())
  tx = optimizers.create({"name": "sgd", field: (("kernel", -1.0),)}, constant(0.1))
  with pytest.raises(errors.UserError, match=rf"^optimizer.{field}: must be a number >= 0 for 'k"):
    tx.init(make_params())


def test_lookahead_of_constant_decay_is_optax():
  params = make_params()
  gradients = make_gradients(params)
  theirs = optax.lookahead(optax.sgd(0.1), sync_period=3, slow_step_size=0.3)
  both = optax.LookaheadParams.init_synced(params)
  state, slow, fast = theirs.init(both), params, params
  for step, gradient in enumerate(gradients, start=1):
    updates, state = theirs.update(gradient, state, both)
    both = optax.apply_updates(both, updates)
    fast = jax.tree.map(lambda w, g: w - 0.1 * g, fast, gradient)
    slow, fast = averages.update_lookahead(slow, fast, step, UPDATES, every=3, decay=0.7, power=0.0)
    for a, b in ((slow, both.slow), (fast, both.fast)):
      jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_lookahead_grows_as_published_and_ends_with_the_slow_weights():
  slow, fast = jnp.float32(1.0), jnp.float32(3.0)
  options = {"every": 5, "decay": 0.95**5, "power": 3.0}
  for step in range(1, 13):
    new_slow, new_fast = averages.update_lookahead(slow, fast, step, 12, **options)
    if step in (5, 10):
      decay = 0.95**5 * (step / 12) ** 3
      np.testing.assert_allclose(new_slow, decay * 1 + (1 - decay) * 3, rtol=1e-6)
      assert new_fast == new_slow
    else:
      assert new_slow == 1
      assert new_fast == (1 if step == 12 else 3)


def test_frozen_parameters_stay_as_they_are_and_the_others_move_as_without():
  params = {"base": {"conv": {"kernel": jnp.ones((3, 2))}}, "head": {"kernel": jnp.ones((2, 4))}}
  gradients = jax.tree.map(lambda leaf: 0.5 * leaf, params)

  def after_three_steps(**fields):
    config = {"name": "adam", "weight_decay": 0.1, **fields}
    tx = optimizers.create(config, lambda step: 0.1)
    state, moved = tx.init(params), params
    for _ in range(3):
      updates, state = tx.update(gradients, state, moved, lr_scale=0.5)
      moved = optax.apply_updates(moved, updates)
    return moved

  frozen, free = after_three_steps(freeze=("^base/",)), after_three_steps()
  np.testing.assert_array_equal(frozen["base"]["conv"]["kernel"], params["base"]["conv"]["kernel"])
  np.testing.assert_allclose(frozen["head"]["kernel"], free["head"]["kernel"], rtol=1e-6)
  assert not np.array_equal(free["base"]["conv"]["kernel"], params["base"]["conv"]["kernel"])
  with pytest.raises(errors.UserError, match=r"optimizer.freeze: pattern 'bsae' matches no param"):
    after_three_steps(freeze=("bsae",))
