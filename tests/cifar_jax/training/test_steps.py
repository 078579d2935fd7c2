"""Single steps against NumPy and scikit-learn."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from sklearn import metrics as sklearn_metrics

import models
from cifar_jax.optim import averages, optimizers, schedules
from cifar_jax.training import steps


class Linear:
  """A model without layers: logits = flattened image @ kernel."""

  @staticmethod
  def apply(variables, images, train, rngs=None, mutable=None):
    logits = images.reshape(len(images), -1) @ variables["params"]["dense"]["kernel"]
    return (logits, {"batch_stats": {}}) if train else logits


def linear_state(kernel, tx, ema=False):
  params = {"dense": {"kernel": jnp.asarray(kernel)}}
  return steps.TrainState(
    step=jnp.int32(0),
    params=params,
    batch_stats={},
    opt_state=tx.init(params),
    average={"params": params, "batch_stats": {}} if ema else None,
    slow=None,
    lr_scale=jnp.float32(0.5),
    sums=steps.Sums.zero(),
    key=jax.random.key_data(jax.random.key(0)),
  )


def test_train_step_is_the_gradient_step_written_out_in_numpy():
  config = small_runs.config(
    pathlib.Path(), loss__label_smoothing=0.2, loss__l2=(("kernel$", 0.01),)
  )
  tx = optimizers.create({"name": "sgd"}, schedules.create({"name": "constant"}, 0.1, 10, 100))
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(12, 8)).astype(np.float32)
  image = rng.normal(size=(6, 2, 2, 3)).astype(np.float32)
  label = rng.integers(0, 8, 6)
  step = jax.jit(steps.make_train_step(config, Linear, tx))
  batch = {"image": image, "target": np.eye(8, dtype=np.float32)[label], "label": label}
  state, metrics = step(linear_state(kernel, tx), batch)

  x = image.reshape(6, 12)
  logits = x @ kernel
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  target = 0.8 * np.eye(8)[label] + 0.2 / 8
  gradient = x.T @ (p - target) / 6 + 2 * 0.01 * kernel
  np.testing.assert_allclose(metrics["loss"], -(target * np.log(p)).sum(1).mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics["penalty"], 0.01 * (kernel**2).sum(), rtol=1e-5)
  assert metrics["correct"] == (logits.argmax(1) == label).sum()
  ranks = (logits > logits[np.arange(6), label][:, None]).sum(1)
  assert metrics["top5"] == (ranks < 5).sum() < 6
  expected = kernel - 0.5 * 0.1 * gradient  # lr_scale times the learning rate
  np.testing.assert_allclose(state.params["dense"]["kernel"], expected, rtol=1e-5, atol=1e-6)
  assert state.step == 1


def test_moving_average_of_the_weights_is_what_is_evaluated():
  config = small_runs.config(pathlib.Path(), ema_decay=0.5)
  tx = optimizers.create({"name": "sgd"}, schedules.create({"name": "constant"}, 0.1, 10, 100))
  kernel = np.zeros((12, 5), np.float32)
  batch = {
    "image": np.ones((2, 2, 2, 3), np.float32),
    "target": np.eye(5, dtype=np.float32)[:2],
    "label": np.arange(2),
  }
  before = linear_state(kernel, tx, ema=True)
  after, _ = steps.make_train_step(config, Linear, tx)(before, batch)
  expected = averages.update_ema(before.average["params"], after.params, 0, 0.5)
  np.testing.assert_allclose(
    after.variables()["params"]["dense"]["kernel"], expected["dense"]["kernel"]
  )
  assert not np.array_equal(
    after.variables()["params"]["dense"]["kernel"], after.params["dense"]["kernel"]
  )


def test_eval_step_counts_unmasked_rows_as_scikit_learn_does():
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(12, 20)).astype(np.float32)
  image = rng.normal(size=(50, 2, 2, 3)).astype(np.float32)
  label = rng.integers(0, 20, 50)
  mask = np.arange(50) < 37
  variables = {"params": {"dense": {"kernel": kernel}}}
  sums = steps.make_eval_step(Linear)(variables, {"image": image, "label": label, "mask": mask})
  logits = image.reshape(50, 12) @ kernel
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  classes = np.arange(20)
  assert sums["examples"] == 37
  np.testing.assert_allclose(
    sums["loss"] / 37, sklearn_metrics.log_loss(label[:37], p[:37], labels=classes), rtol=1e-5
  )
  for name, k in (("correct", 1), ("top5", 5)):
    share = sklearn_metrics.top_k_accuracy_score(label[:37], logits[:37], k=k, labels=classes)
    np.testing.assert_allclose(sums[name] / 37, share, rtol=1e-6)


def test_equal_and_undefined_logits_earn_nothing():
  logits = np.zeros((8, 20), np.float32)
  logits[4:] = [[np.nan], [np.inf], [-np.inf], [0.0]]
  logits[7, 3] = np.nan  # not the label's
  labels = np.array([0, 4, 5, 19, 0, 0, 0, 0])
  ranks = steps.rank_of_label(logits, labels)
  last = np.iinfo(np.int32).max
  np.testing.assert_array_equal(ranks, [0, 4, 5, 19, last, last, last, last])
  for value, correct, top5 in ((0.0, 1, 5), (np.nan, 0, 0)):
    kernel = np.full((12, 20), value, np.float32)
    image, labels = np.ones((20, 2, 2, 3), np.float32), np.arange(20)
    batch = {"image": image, "label": labels, "mask": np.ones(20, bool)}
    sums = steps.make_eval_step(Linear)({"params": {"dense": {"kernel": kernel}}}, batch)
    assert (sums["correct"], sums["top5"]) == (correct, top5)
    tx = optimizers.create({"name": "sgd"}, schedules.create({"name": "constant"}, 0.1, 10, 100))
    step = steps.make_train_step(small_runs.config(pathlib.Path(), loss__l2=()), Linear, tx)
    batch |= {"target": np.eye(20, dtype=np.float32)}
    _, metrics = step(linear_state(kernel, tx), batch)
    assert metrics["correct"] == correct


@pytest.mark.usefixtures("quick_compilation")
def test_a_network_learns_a_batch_by_heart_and_the_old_state_stays():
  config = small_runs.config(pathlib.Path(), lookahead__every=0)
  model = models.create(config.model, 10)
  tx = optimizers.create(config.optimizer, schedules.create({"name": "constant"}, 0.05, 10, 100))
  init = jax.jit(functools.partial(steps.init_state, config, model, tx))
  state = init(jnp.int32(0), jnp.zeros((1, 8, 8, 3)))
  rng = np.random.default_rng(2)
  label = np.arange(10)
  batch = {
    "image": rng.normal(size=(10, 8, 8, 3)).astype(np.float32),
    "target": np.eye(10, dtype=np.float32),
    "label": label,
  }
  step = jax.jit(steps.make_train_step(config, model, tx))
  first = jax.tree.map(np.array, state)
  losses = []
  later = state
  for _ in range(60):
    later, metrics = step(later, batch)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.6 * losses[0]
  assert metrics["correct"] >= 9
  jax.tree.map(np.testing.assert_array_equal, first, jax.tree.map(np.array, state))
  changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), state, later)
  assert all(jax.tree.leaves(changed.params)) and all(jax.tree.leaves(changed.batch_stats))
