"""Training on the examples of each batch that a small proxy network finds hardest.

From Jordan's airbench96_faster.py (KellerJordan/cifar10-airbench, 2024). Choosing by a small
network's loss follows Coleman et al. 2020 (arXiv:1906.11829); learning from the largest losses of a
batch follows Jiang et al. 2019 (arXiv:1910.00762).

The proxy sees every augmented batch first. The network takes its step on the `config.proxy.keep`
examples whose loss under the proxy is largest. The proxy learns from the same examples, but only at
every `config.proxy.learn_every`-th step, since a forward pass costs a third of a learning step.

The proxy trains one step ahead of the network. The published code first trains the proxy to the
end and stores its choices. Both choose the same examples, because the proxy learns nothing from the
network. So the proxy's state is part of TrainState, and checkpoints need nothing else.

With several seeds the proxy computes its gradient at every step, used or not, because vmap runs
both branches of a condition.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import struct

from cifar_jax.optim import optimizers
from cifar_jax.optim.schedules import Schedule
from cifar_jax.training import rng
from cifar_jax.training.gradients import apply_in_training
from cifar_jax.training.steps import TrainState, dropout_key
from cifar_jax.types import Batch, Params, PyTree


class ProxyState(struct.PyTreeNode):
  """The part of the proxy that training changes."""

  params: Params
  batch_stats: Params
  opt_state: PyTree


def make_optimizer(
  config: ml_collections.ConfigDict, schedule: Schedule, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
  """Return the proxy's optimizer, which also freezes the parameters of `proxy.freeze`.

  The optimizer counts its own updates, one in every `proxy.learn_every` steps.
  """
  every = config.proxy.learn_every
  return optimizers.create(
    config.optimizer,
    lambda n: schedule(every * n),
    steps_per_epoch / every,
    more_frozen={"proxy.freeze": config.proxy.freeze},
  )


def init_proxy(
  config: ml_collections.ConfigDict,
  model: nn.Module,
  tx: optax.GradientTransformation,
  seed: jax.Array,
  images: jax.Array,
) -> ProxyState:
  """Return the proxy's state before the first step, a function of `seed` [] int32 alone.

  images: [n, h, w, c] float32, as for steps.init_state.
  """
  # Number 0 is the key that initialises the network.
  key = rng.purpose_key(jax.random.key(seed), rng.INIT, 1)
  variables = model.init(key, images, train=False)
  params = variables["params"]
  optimizers.l2_penalty(params, config.loss.l2)  # fail now if a pattern matches no parameter
  return ProxyState(params, variables.get("batch_stats", {}), tx.init(params))


def make_choose(
  config: ml_collections.ConfigDict,
  model: nn.Module,
  tx: optax.GradientTransformationExtraArgs,
  axis_name: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Batch]]:
  """Return choose(state, batch) -> (state, batch), to run before a step of the network.

  `choose` takes a TrainState, whose `proxy` it advances, and a device's batch [b, ...], as
  steps.make_train_step describes it. The returned batch is the device's share,
  [keep / devices, ...], of the `keep` examples with the largest losses under the proxy, over all
  devices on `axis_name`, in their original order. The loss is the network's objective without the
  L2 penalty, with batch norm in training mode.
  """
  num_kept, every = config.proxy.keep, config.proxy.learn_every

  def gather(tree: PyTree) -> PyTree:
    return jax.lax.all_gather(tree, axis_name, tiled=True) if axis_name else tree

  def choose(state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
    proxy, num_rows = state.proxy, len(batch["label"])
    device = jax.lax.axis_index(axis_name) if axis_name else 0
    num_devices = jax.lax.axis_size(axis_name) if axis_name else 1
    target = optax.smooth_labels(batch["target"], config.loss.label_smoothing)
    key = dropout_key(state)

    def rank(params: Params) -> tuple[jax.Array, jax.Array, Params]:
      """Return losses [b], numbers of the hardest examples [keep], and new statistics."""
      logits, batch_stats = apply_in_training(model, params, proxy.batch_stats, batch["image"], key)
      losses = optax.softmax_cross_entropy(logits, target)
      _, hardest = jax.lax.top_k(gather(jax.lax.stop_gradient(losses)), num_kept)
      return losses, jnp.sort(hardest), batch_stats

    def rank_only() -> tuple[ProxyState, jax.Array]:
      _, hardest, batch_stats = rank(proxy.params)
      return proxy.replace(batch_stats=batch_stats), hardest

    def rank_and_learn() -> tuple[ProxyState, jax.Array]:
      def objective(params: Params) -> tuple[jax.Array, tuple[jax.Array, Params]]:
        losses, hardest, batch_stats = rank(params)
        is_chosen = jnp.isin(device * num_rows + jnp.arange(num_rows), hardest)
        # Times the number of devices, because the gradient is averaged over them.
        loss = num_devices * jnp.sum(jnp.where(is_chosen, losses, 0)) / num_kept
        return loss + optimizers.l2_penalty(params, config.loss.l2), (hardest, batch_stats)

      grads, (hardest, batch_stats) = jax.grad(objective, has_aux=True)(proxy.params)
      if axis_name:
        grads = jax.lax.pmean(grads, axis_name)
      updates, opt_state = tx.update(grads, proxy.opt_state, proxy.params, lr_scale=state.lr_scale)
      params = optax.apply_updates(proxy.params, updates)
      return ProxyState(params, batch_stats, opt_state), hardest

    proxy, hardest = jax.lax.cond(state.step % every == 0, rank_and_learn, rank_only)
    if axis_name and not config.model.sync_bn:
      proxy = proxy.replace(batch_stats=jax.lax.pmean(proxy.batch_stats, axis_name))
    share = num_kept // num_devices
    of_device = jax.lax.dynamic_slice_in_dim(hardest, device * share, share)
    chosen = jax.tree.map(lambda leaf: leaf[of_device], gather(batch))
    return state.replace(proxy=proxy), chosen

  return choose
