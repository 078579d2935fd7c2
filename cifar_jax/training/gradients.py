"""The gradient of one step: in one pass over the device's rows, or in several, to save memory.

`config.microbatch` divides the rows into k passes whose gradients are averaged. Pass j holds every
k-th row of the global batch, starting at row j, on any number of devices. The mean is the gradient
of the whole batch, up to rounding, unless the network has batch norm, which then normalises each
pass by its own statistics. The moving statistics become the mean over the passes.

`config.remat` keeps only the inputs of the blocks of the network. The backward pass recomputes the
rest of each block (Chen et al. 2016, arXiv:1604.06174), with the same mathematics. XLA:CPU drops
the barriers that delay this until the memory is free, so remat saves nothing there.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from cifar_jax import errors
from cifar_jax.kernels import convolution
from cifar_jax.optim import optimizers
from cifar_jax.training import rng
from cifar_jax.types import Batch, Params

# What is computed with a gradient: loss [], penalty [], logits [b, classes], moving statistics.
Outputs: TypeAlias = tuple[jax.Array, jax.Array, jax.Array, Params]
# gradient(params, batch_stats, batch, dropout key) -> (gradient, outputs), of one device's rows.
Gradient: TypeAlias = Callable[[Params, Params, Batch, jax.Array], tuple[Params, Outputs]]


def apply_in_training(
  model: nn.Module,
  params: Params,
  batch_stats: Params,
  images: jax.Array,
  dropout_key: jax.Array,
  remat: bool = False,
) -> tuple[jax.Array, Params]:
  """Return a network's logits [b, classes] on a training batch, and its new moving statistics.

  Args:
    remat: recompute the blocks of the network in the backward pass.

  Raises:
    UserError: `remat`, and the network has no blocks.
  """
  with recompute_blocks() if remat else contextlib.nullcontext():
    logits, updated = model.apply(
      {"params": params, "batch_stats": batch_stats},
      images,
      train=True,
      rngs={"dropout": dropout_key},
      mutable=["batch_stats"],
    )
  return logits, updated.get("batch_stats", {})


@contextlib.contextmanager
def recompute_blocks() -> Iterator[None]:
  """Within the context, let the backward pass recompute modules with the attribute RECOMPUTED.

  Raises:
    UserError: no such module was called in the context.
  """
  num_blocks, is_within = 0, False

  def intercept(
    call: Callable,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    nonlocal num_blocks, is_within
    is_block = context.method_name == "__call__" and getattr(context.module, "RECOMPUTED", False)
    if is_within or not is_block:
      return call(*args, **kwargs)
    num_blocks, is_within = num_blocks + 1, True
    try:
      return nn.remat(lambda module, *inputs: module(*inputs, **kwargs))(context.module, *args)
    finally:
      is_within = False

  with nn.intercept_methods(intercept):
    yield
  if not num_blocks:
    raise errors.UserError(
      "remat: the network has no blocks to recompute; set remat=False, and set microbatch to save "
      "memory"
    )


def make_gradient(config: ml_collections.ConfigDict, model: nn.Module) -> Gradient:
  """Return the function that differentiates loss + L2 penalty with respect to the parameters.

  The loss is the mean over the device's rows. steps.make_train_step describes a batch.
  """

  def objective(
    params: Params, batch_stats: Params, images: jax.Array, targets: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, Outputs]:
    logits, batch_stats = apply_in_training(model, params, batch_stats, images, key, config.remat)
    smoothed = optax.smooth_labels(targets, config.loss.label_smoothing)
    loss = optax.softmax_cross_entropy(logits, smoothed).mean()
    penalty = optimizers.l2_penalty(params, config.loss.l2)
    return loss + penalty, (loss, penalty, logits, batch_stats)

  differentiate = jax.grad(objective, has_aux=True)

  def gradient(
    params: Params, batch_stats: Params, batch: Batch, key: jax.Array
  ) -> tuple[Params, Outputs]:
    images, targets = batch["image"], batch["target"]
    if (count := num_passes(config)) == 1:
      return differentiate(params, batch_stats, images, targets, key)

    def divide(rows: jax.Array) -> jax.Array:
      return jnp.moveaxis(rows.reshape(-1, count, *rows.shape[1:]), 1, 0)

    def take_pass(
      total: Any, inputs: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[Any, jax.Array]:
      # One pass after another, so that each frees its memory before the next.
      total, (number, images, targets) = jax.lax.optimization_barrier((total, inputs))
      with rng.in_pass(number, count):
        grads, (loss, penalty, logits, stats) = differentiate(
          params, batch_stats, images, targets, key
        )
      part = (grads, loss, penalty, stats)
      return jax.tree.map(lambda sum_, x: sum_ + x / count, total, part), logits

    inputs = (jnp.arange(count), divide(images), divide(targets))
    zero = jax.tree.map(jnp.zeros_like, (params, jnp.float32(0), jnp.float32(0), batch_stats))
    unroll = 1 if _has_fast_loops(config.dtype) else count
    total, logits = jax.lax.scan(take_pass, zero, inputs, unroll=unroll)
    grads, loss, penalty, stats = total
    logits = jnp.moveaxis(logits, 0, 1).reshape(-1, logits.shape[-1])
    return grads, (loss, penalty, logits, stats)

  return gradient


def _has_fast_loops(dtype: str) -> bool:
  """Return whether convolutions are as fast in a loop as outside.

  In a loop XLA:CPU's convolutions are about 100 times slower; this project's kernels are not.
  """
  has_kernels = convolution.instruction_set(jnp.dtype(dtype)) is not None
  return has_kernels or jax.default_backend() != "cpu"


def num_passes(config: ml_collections.ConfigDict) -> int:
  """Return the number of passes of a step."""
  num_rows = config.proxy.keep or config.batch_size
  return num_rows // config.microbatch if config.microbatch else 1
