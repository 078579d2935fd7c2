"""Optax transformations that several optimizers share.

`optimizers.create` passes the learning rate to every update as the keyword `learning_rate`.
"""

import jax
import jax.numpy as jnp
import optax

from cifar_jax.optim.parameter_rules import kernel_mask
from cifar_jax.registry import check_number


def descend() -> optax.GradientTransformationExtraArgs:
  """Return a transformation that multiplies by minus the learning rate."""

  def update(
    updates: optax.Updates,
    state: optax.EmptyState,
    params: optax.Params | None = None,
    *,
    learning_rate: float | jax.Array,
  ) -> tuple[optax.Updates, optax.EmptyState]:
    return jax.tree.map(lambda u: -learning_rate * u, updates), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def decay_kernels(weight_decay: float | jax.Array) -> optax.GradientTransformationExtraArgs:
  """Return decoupled weight decay, which subtracts learning_rate * weight_decay * w for kernels."""

  def update(
    updates: optax.Updates,
    state: optax.EmptyState,
    params: optax.Params,
    *,
    learning_rate: float | jax.Array,
  ) -> tuple[optax.Updates, optax.EmptyState]:
    def decay(u: jax.Array, w: jax.Array, is_kernel: bool) -> jax.Array:
      return u - learning_rate * weight_decay * w if is_kernel else u

    return jax.tree.map(decay, updates, params, kernel_mask(params)), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """Return optax.scale_by_adam with eps where Keras has it; see `optimizers`.

  Raises:
    UserError: an argument is out of range.
  """
  check_decay("b1", b1)
  check_decay("b2", b2)
  check_number("optimizer.eps", eps, "a number > 0", lambda x: x > 0)

  def update(
    gradients: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, optax.OptState]:
    unbiased_eps = eps / jnp.sqrt(1 - b2 ** (state.count + 1))
    return optax.scale_by_adam(b1, b2, unbiased_eps).update(gradients, state, params)

  return optax.GradientTransformation(optax.scale_by_adam().init, update)


def check_decay(name: str, value: float) -> None:
  """Raise UserError unless the optimizer's argument `name`, a decay or a momentum, is in [0, 1)."""
  check_number(f"optimizer.{name}", value, "a number in [0, 1)", lambda x: 0 <= x < 1)
