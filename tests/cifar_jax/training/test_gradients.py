"""Gradients in several passes, and with blocks computed again: the same mathematics."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

import models
from cifar_jax import errors
from cifar_jax.training import gradients
from configs import default
from models import layers
from models.normalization import BatchNorm

BATCH = 16


class Dense(nn.Module):
  """A dense layer with dropout, and with batch norm if wanted."""

  axis_name: str | None = None
  has_norm: bool = False

  @nn.compact
  def __call__(self, images, train):
    x = images.reshape(len(images), -1)
    x = layers.Dropout(0.5, deterministic=not train, axis_name=self.axis_name)(x)
    if self.has_norm:
      x = BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axis_name)(x)
    return nn.Dense(3)(x)


def make_batch(size=4):
  generator = np.random.default_rng(0)
  labels = generator.integers(0, 3, BATCH)
  images = generator.normal(size=(BATCH, size, size, 3)).astype(np.float32)
  return {"image": images, "target": np.eye(3, dtype=np.float32)[labels], "label": labels}


def make_config(microbatch=0, remat=False):
  config = default.get_config()
  config.batch_size, config.microbatch, config.remat = BATCH, microbatch, remat
  config.dtype = "float32"
  config.loss.l2 = (("kernel", 1e-2),)
  return config


def compute(model, batch, microbatch=0, remat=False):
  """Return (gradient, outputs) at the initial weights, computed on one device."""
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(1), batch["image"])
  gradient = gradients.make_gradient(make_config(microbatch, remat), model)
  stats = variables.get("batch_stats", {})
  return jax.jit(gradient)(variables["params"], stats, batch, jax.random.key(2))


def assert_close(a, b, tolerance=1e-5):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=tolerance), a, b)


def test_passes_give_the_gradient_of_the_whole_batch_on_any_number_of_devices(monkeypatch):
  batch = make_batch()
  whole = compute(Dense(), batch)
  assert_close(compute(Dense(), batch, microbatch=4), whole)
  monkeypatch.setattr(gradients, "_has_fast_loops", lambda dtype: False)  # without a loop
  assert_close(compute(Dense(), batch, microbatch=4), whole)
  monkeypatch.undo()

  gradient = gradients.make_gradient(make_config(microbatch=4), Dense(axis_name="batch"))
  params = Dense().init(jax.random.key(1), batch["image"], train=False)["params"]
  shards = jax.tree.map(lambda x: x.reshape(2, BATCH // 2, *x.shape[1:]), batch)
  mapped = jax.pmap(
    lambda shard: gradient(params, {}, shard, jax.random.key(2)),
    axis_name="batch",
    devices=jax.devices()[:2],
  )
  grads, (loss, penalty, logits, _) = mapped(shards)
  assert_close(jax.tree.map(lambda x: x.mean(0), (grads, loss, penalty)), (whole[0], *whole[1][:2]))
  assert_close(logits.reshape(BATCH, 3), whole[1][2])


def test_batch_norm_takes_the_statistics_of_each_pass():
  batch = make_batch()
  _, (_, _, logits, stats) = compute(Dense(has_norm=True), batch, microbatch=4)
  _, (_, _, whole_logits, whole_stats) = compute(Dense(has_norm=True), batch)
  name = "BatchNorm_0"
  assert_close(stats[name]["mean"], whole_stats[name]["mean"])
  # The variance within passes leaves out the variance between them.
  assert np.all(np.asarray(stats[name]["var"]) <= np.asarray(whole_stats[name]["var"]) + 1e-6)
  assert not np.allclose(logits, whole_logits, atol=1e-3)


@pytest.mark.parametrize(
  ("fields", "num_blocks"),
  [
    ({"name": "resnet20"}, 9),
    ({"name": "resnet50"}, 16),
    ({"name": "preact_resnet18"}, 8),
    ({"name": "preact_resnet50"}, 16),
    ({"name": "wrn16_8"}, 6),
    ({"name": "pointwise_resnet"}, 12),
    ({"name": "elu_resnet18"}, 8),
    ({"name": "airbench94"}, 3),
  ],
  ids=lambda x: x["name"] if isinstance(x, dict) else "",
)
def test_every_block_is_computed_again(fields, num_blocks):
  model = models.create(fields, 3)
  images = make_batch(32)["image"]
  variables = jax.eval_shape(lambda: model.init(jax.random.key(1), images, train=False))

  trace = jax.make_jaxpr(
    lambda params, stats: gradients.apply_in_training(
      model, params, stats, images, jax.random.key(2), remat=True
    )
  )
  equations = trace(variables["params"], variables.get("batch_stats", {})).eqns
  assert sum(equation.primitive.name.startswith("remat") for equation in equations) == num_blocks


def test_a_network_without_blocks_is_one_line():
  with pytest.raises(errors.UserError, match=r"^remat: the network has no blocks to recompute"):
    compute(Dense(), make_batch(), remat=True)


@pytest.mark.parametrize(
  ("fields", "size"),
  [
    ({"name": "wide_resnet", "depth": 10, "width": 1, "dropout": 0.3}, 8),
    ({"name": "airbench", "widths": (4, 4, 4)}, 32),
  ],
  ids=["wide_resnet", "airbench"],
)
@pytest.mark.usefixtures("quick_compilation")
def test_the_gradient_is_the_same_with_blocks_computed_again(fields, size):
  model, batch = models.create(fields, 3), make_batch(size)
  assert_close(compute(model, batch, remat=True), compute(model, batch))
