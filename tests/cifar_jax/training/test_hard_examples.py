"""Training on a proxy's hardest examples: against NumPy, on eight devices, resumed."""

import contextlib
import functools
import re
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

import train
from cifar_jax import errors
from cifar_jax.config import check_config
from cifar_jax.optim import schedules
from cifar_jax.training import compiled_steps, hard_examples, steps
from configs import default
from experiment import Experiment, resolve
from tuning import together

CLASSES = 5


class Network(nn.Module):
  """A small proxy whose batch norm makes each loss depend on the whole batch."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    x = images.reshape(len(images), -1)
    x = nn.Dense(7, name="first")(x)
    x = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name, name="norm")(x)
    return nn.Dense(CLASSES, name="head")(nn.relu(x))


def config_of(**fields):
  config = default.get_config()
  config.batch_size = 16
  config.loss.label_smoothing = 0.2
  config.loss.l2 = (("kernel$", 0.01),)
  config.optimizer.momentum = 0.9
  config.proxy.keep, config.proxy.learn_every = 8, 2
  for name, value in fields.items():
    config.proxy[name] = value
  return config


def batch_of(seed, size=16):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, CLASSES, size)
  image = rng.normal(size=(size, 2, 2, 3)).astype(np.float32)
  return {"image": image, "label": label, "target": np.eye(CLASSES, dtype=np.float32)[label]}


def state_of(config, tx, seed=0):
  images = jnp.zeros((1, 2, 2, 3))
  proxy_state = hard_examples.init_proxy(config, Network(), tx, jnp.int32(seed), images)
  return steps.TrainState(
    step=jnp.int32(0),
    params={},
    batch_stats={},
    opt_state=(),
    average=None,
    slow=None,
    lr_scale=jnp.float32(0.5),
    sums=steps.Sums.zero(),
    key=jax.random.key_data(jax.random.key(seed)),
    proxy=proxy_state,
  )


def after_the_step(state):
  return state.replace(step=state.step + 1)


def optimizer(config):
  schedule = schedules.create({"name": "linear", "pct_start": 0.0}, 0.1, 10, 100)
  return hard_examples.make_optimizer(config, schedule, 10), schedule


def losses_in_numpy(params, batch):
  """Return the smoothed cross-entropy of each example, [b], with this batch's statistics."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x = batch["image"].reshape(len(batch["image"]), -1)
  x = x @ params["first"]["kernel"] + params["first"]["bias"]
  x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
  logits = np.maximum(x, 0) @ params["head"]["kernel"] + params["head"]["bias"]
  target = 0.8 * batch["target"] + 0.2 / CLASSES
  return -(target * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)


def test_the_hardest_are_kept_and_the_proxy_learns_from_them_at_every_other_step():
  config = config_of(freeze=("head/bias",))
  tx, schedule = optimizer(config)
  choose = jax.jit(hard_examples.make_choose(config, Network(), tx))
  state = state_of(config, tx)
  velocity, learned = None, []
  for step in range(4):
    batch, before = batch_of(step), state.proxy
    state, chosen = choose(state, batch)
    losses = losses_in_numpy(before.params, batch)
    hardest = np.sort(np.argsort(losses)[-8:])
    assert np.diff(np.sort(losses))[7] > 0  # no tie decides
    for name, leaf in batch.items():
      np.testing.assert_array_equal(chosen[name], leaf[hardest])
    if step % 2:
      jax.tree.map(np.testing.assert_array_equal, before.params, state.proxy.params)
      jax.tree.map(np.testing.assert_array_equal, before.opt_state, state.proxy.opt_state)
    else:  # the last layer's gradient, written out
      kernel = np.asarray(before.params["head"]["kernel"], np.float64)
      gradient = head_gradient(before.params, batch, hardest) + 2 * 0.01 * kernel
      rate = 0.5 * float(schedule(step))  # the run's step, not the proxy's update
      velocity = (0 if velocity is None else 0.9 * velocity) - rate * gradient
      np.testing.assert_allclose(
        state.proxy.params["head"]["kernel"], kernel + velocity, rtol=1e-4, atol=1e-6
      )
      learned.append(rate)
    state = after_the_step(state)
  assert learned[1] < learned[0]
  np.testing.assert_array_equal(state.proxy.params["head"]["bias"], np.zeros(CLASSES))


def head_gradient(params, batch, hardest):
  """Return the gradient of the hardest examples' mean loss by the last layer's kernel, in NumPy."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x = batch["image"].reshape(len(batch["image"]), -1)
  x = x @ params["first"]["kernel"] + params["first"]["bias"]
  x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
  x = np.maximum(x, 0)
  logits = x @ params["head"]["kernel"] + params["head"]["bias"]
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  error = p - (0.8 * batch["target"] + 0.2 / CLASSES)
  return x[hardest].T @ error[hardest] / len(hardest)


@pytest.mark.parametrize("keep", [8, 16])
def test_eight_devices_choose_and_learn_as_one(keep):
  config = config_of(keep=keep)
  tx, _ = optimizer(config)
  alone = jax.jit(hard_examples.make_choose(config, Network(), tx))
  model = Network(axis_name=compiled_steps.AXIS)
  choose = hard_examples.make_choose(config, model, tx, compiled_steps.AXIS)

  def gathered(state, shard, _):
    state, batch = choose(state, shard)
    assert len(batch["label"]) == keep // 8
    return state, jax.lax.all_gather(batch, compiled_steps.AXIS, tiled=True)

  together = compiled_steps.parallel(gathered, donate=False)
  one = eight = state_of(config, tx)
  for step in range(3):
    batch = batch_of(step)
    one, expected = alone(one, batch)
    shard = jax.tree.map(lambda leaf: leaf.reshape(8, 2, *leaf.shape[1:]), batch)
    eight, chosen = together(eight, shard, {})
    jax.tree.map(np.testing.assert_array_equal, chosen, expected)
    if keep == 16:
      jax.tree.map(np.testing.assert_array_equal, chosen, batch)
    one, eight = after_the_step(one), after_the_step(eight)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, eight.proxy, one.proxy)


def test_seeds_together_choose_as_alone():
  config = config_of()
  tx, _ = optimizer(config)
  choose = hard_examples.make_choose(config, Network(), tx)
  states = [state_of(config, tx, seed) for seed in (0, 1)]
  both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
  mapped, alone = jax.jit(jax.vmap(choose, (0, None))), jax.jit(choose)
  for step in range(2):  # one with and one without learning
    batch = batch_of(step)
    both, chosen = mapped(both, batch)
    for i in range(2):
      states[i], expected = alone(states[i], batch)
      np.testing.assert_array_equal(chosen["image"][i], expected["image"])
      states[i] = after_the_step(states[i])
    both = after_the_step(both)
  first = both.proxy.params["first"]["kernel"]
  np.testing.assert_allclose(first[1], states[1].proxy.params["first"]["kernel"], rtol=1e-5)
  assert not np.array_equal(first[0], first[1])


# Whole runs: simple_cnn of digits with another simple_cnn for its proxy.

PROXY = {
  "proxy.keep": 40,
  "proxy.learn_every": 2,
  "proxy.model.name": "simple_cnn",
  "proxy.model.widths": (4, 4, 4),
  "proxy.model.dense": (8,),
  "data.train_examples": 320,
  "num_epochs": 2,
}


def compiled_once(config):
  """Return a function that gives every run of a config the same Experiment, compiled once."""
  experiment = Experiment(resolve(config))
  first = experiment.init()
  compiled = experiment.compile_steps()
  experiment.init = lambda weights: jax.tree.map(jnp.copy, first)
  experiment.compile_steps = lambda: compiled
  return lambda config: experiment


@pytest.mark.usefixtures("quick_compilation")
def test_a_run_stopped_and_resumed_ends_with_the_same_bits(tmp_path, monkeypatch):
  config = small_runs.config(tmp_path / "data", **PROXY)
  run = functools.partial(train.train_and_evaluate, config, make_experiment=compiled_once(config))
  full = run(str(tmp_path / "full"))
  with (
    monkeypatch.context() as patch
  ):  # the signal arrives before the first step, so one step is taken
    patch.setattr(train, "stop_signals", lambda: contextlib.nullcontext([signal.SIGTERM]))
    with pytest.raises(train.Interrupted):
      run(str(tmp_path / "stopped"))
  stopped = small_runs.final_state(tmp_path / "stopped")
  assert stopped["state.step"] == 1
  assert stopped["state.sums.examples"] == 40  # of 80 in the batch
  resumed = run(str(tmp_path / "stopped"))
  small_runs.assert_same(
    small_runs.final_state(tmp_path / "full"), small_runs.final_state(tmp_path / "stopped")
  )
  assert resumed["test_loss"] == full["test_loss"]
  # The best weights are the network's alone, and so is the number of parameters.
  best = small_runs.checkpoint(tmp_path / "full" / "checkpoints" / "best")
  assert {path.split(".")[0] for path in best} == {"params", "batch_stats"}
  trainable = sum(leaf.size for path, leaf in best.items() if path.startswith("params"))
  assert trainable == full["parameters"]["trainable"]


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"proxy.keep": 81}, "proxy.keep: 81 is more than the 80 examples of a batch"),
    ({"proxy.keep": 12}, "proxy.keep: 12 does not divide over 8 devices; take a multiple of 8"),
    ({"proxy.learn_every": 0}, "proxy.learn_every: 0 must be at least 1"),
    ({"proxy.model.name": "simple_cmm"}, "proxy.model.name: unknown model 'simple_cmm'; did you"),
    ({"proxy.model.width": 3}, "proxy.model.width: 'simple_cnn' takes no such argument"),
    ({"proxy.freeze": ("whiten",)}, "proxy.freeze: pattern 'whiten' matches no parameter"),
    ({"loss.l2": (("dense2", 1.0),)}, "loss.l2: "),
  ],
)
def test_invalid_fields_are_refused_before_training(tmp_path, fields, message):
  with pytest.raises(errors.UserError, match=f"^{re.escape(message)}"):
    Experiment(resolve(small_runs.config(tmp_path, **(PROXY | fields))))


def test_trials_with_a_proxy_train_one_by_one():
  config = config_of()
  other = config_of()
  other.seed = 1
  check_config(config, default.get_config())
  assert together._group_key(config) != together._group_key(other)
  config.proxy.keep = other.proxy.keep = 0
  assert together._group_key(config) == together._group_key(other)
