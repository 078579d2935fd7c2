"""Training on the examples of each batch that a small proxy network finds hardest.

From Jordan's airbench96_faster.py (KellerJordan/cifar10-airbench, 2024); choosing by a small
network's loss is Coleman et al. 2020 (arXiv:1906.11829), and learning from the largest losses of a
batch is Jiang et al. 2019 (arXiv:1910.00762).

The proxy looks at every augmented batch first. The network takes its step on the
`config.proxy.keep` examples with the largest loss under the proxy, and the proxy learns from the
same examples, but at every `config.proxy.learn_every`-th step only: looking costs a third of that.

The proxy trains beside the network, one step ahead. The published code trains it to its end first
and writes its choices down; they are the same, for the proxy learns nothing from the network. So
its state is a part of TrainState, which checkpoints hold, and there is nothing else to keep.

With several seeds the proxy computes its gradient at every step, used or not: under vmap both
branches of a condition run.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import struct

import input_pipeline
import models
from cifar_jax import errors
from cifar_jax.optim import optimizers
from cifar_jax.optim.schedules import Schedule

PyTree = Any


class ProxyState(struct.PyTreeNode):
  """What training changes of the proxy."""

  params: PyTree
  batch_stats: PyTree
  opt_state: PyTree


def create(
  config: ml_collections.ConfigDict, num_classes: int, dtype: jnp.dtype, axis_name: str | None
) -> Any:
  """The network that `config.proxy.model` describes; batch norm is synchronised as the model's.

  Raises:
    UserError: as models.create, of proxy.model.
  """
  described = dict(config.proxy.model) | {"sync_bn": config.model.sync_bn}
  try:
    return models.create(described, num_classes, dtype, axis_name)
  except errors.UserError as error:
    raise errors.UserError(f"proxy.{error}") from None


def optimizer(
  config: ml_collections.ConfigDict, schedule: Schedule, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
  """The network's optimizer, which leaves the parameters of `proxy.freeze` as they are too.

  It counts its own updates, of which there is one in `proxy.learn_every` steps.
  """
  every = config.proxy.learn_every
  described = dict(config.optimizer)
  described["freeze"] = (*config.optimizer.freeze, *config.proxy.freeze)
  return optimizers.create(described, lambda n: schedule(every * n), steps_per_epoch / every)


def init(
  config: ml_collections.ConfigDict,
  model: Any,
  tx: optax.GradientTransformation,
  seed: jax.Array,
  images: jax.Array,
) -> ProxyState:
  """The state before the first step, a function of `seed` [] int32 alone; as steps.init_state."""
  # The network's own initialisation has the number 0.
  key = input_pipeline.purpose_key(jax.random.key(seed), input_pipeline.INIT, 1)
  variables = model.init(key, images, train=False)
  params = variables["params"]
  optimizers.l2_penalty(params, config.loss.l2)  # patterns that match no parameter are told of now
  return ProxyState(params, variables.get("batch_stats", {}), tx.init(params))


def make_choose(
  config: ml_collections.ConfigDict,
  model: Any,
  tx: optax.GradientTransformation,
  axis_name: str | None = None,
) -> Callable[[Any, dict], tuple[Any, dict]]:
  """Returns choose(state, batch) -> (state, batch), which goes before a step of the network.

  It takes a TrainState, whose `proxy` moves on, and a device's batch as steps.make_train_step has
  it, [b, ...]. The batch it returns is the device's share, [keep / devices, ...], of the `keep`
  examples of all devices on `axis_name` whose loss under the proxy is largest; they stay in their
  order. The losses are those of the network's objective, without the L2 penalty, and of batch norm
  as in training.
  """
  keep, every = config.proxy.keep, config.proxy.learn_every

  def gathered(tree: PyTree) -> PyTree:
    return jax.lax.all_gather(tree, axis_name, tiled=True) if axis_name else tree

  def choose(state: Any, batch: dict) -> tuple[Any, dict]:
    proxy, rows = state.proxy, len(batch["label"])
    device = jax.lax.axis_index(axis_name) if axis_name else 0
    devices = jax.lax.axis_size(axis_name) if axis_name else 1
    target = optax.smooth_labels(batch["target"], config.loss.label_smoothing)
    key = jax.random.wrap_key_data(state.key)
    dropout_key = input_pipeline.purpose_key(key, input_pipeline.DROPOUT, state.step)

    def look(params: PyTree) -> tuple[jax.Array, jax.Array, PyTree]:
      logits, updated = model.apply(
        {"params": params, "batch_stats": proxy.batch_stats},
        batch["image"],
        train=True,
        rngs={"dropout": dropout_key},
        mutable=["batch_stats"],
      )
      losses = optax.softmax_cross_entropy(logits, target)
      _, hardest = jax.lax.top_k(gathered(jax.lax.stop_gradient(losses)), keep)
      return losses, jnp.sort(hardest), updated.get("batch_stats", {})

    def only_look() -> tuple[ProxyState, jax.Array]:
      _, hardest, batch_stats = look(proxy.params)
      return proxy.replace(batch_stats=batch_stats), hardest

    def learn() -> tuple[ProxyState, jax.Array]:
      def objective(params: PyTree):
        losses, hardest, batch_stats = look(params)
        mine = jnp.isin(device * rows + jnp.arange(rows), hardest)
        # Times the devices, since the mean over them is taken of the gradient.
        loss = devices * jnp.sum(jnp.where(mine, losses, 0)) / keep
        return loss + optimizers.l2_penalty(params, config.loss.l2), (hardest, batch_stats)

      gradients, (hardest, batch_stats) = jax.grad(objective, has_aux=True)(proxy.params)
      if axis_name:
        gradients = jax.lax.pmean(gradients, axis_name)
      updates, opt_state = tx.update(
        gradients, proxy.opt_state, proxy.params, lr_scale=state.lr_scale
      )
      params = optax.apply_updates(proxy.params, updates)
      return ProxyState(params, batch_stats, opt_state), hardest

    proxy, hardest = jax.lax.cond(state.step % every == 0, learn, only_look)
    if axis_name and not config.model.sync_bn:
      proxy = proxy.replace(batch_stats=jax.lax.pmean(proxy.batch_stats, axis_name))
    share = keep // devices
    mine = jax.lax.dynamic_slice_in_dim(hardest, device * share, share)
    chosen = jax.tree.map(lambda leaf: leaf[mine], gathered(batch))
    return state.replace(proxy=proxy), chosen

  return choose
