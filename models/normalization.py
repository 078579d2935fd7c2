"""`BatchNorm`: `nn.BatchNorm` computed by this project's CPU kernels where they apply."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.kernels import normalization as kernels


class BatchNorm(nn.Module):
  """Batch norm over all axes but the last, with the addition and activation that often follow it.

  Variables and results are those of `nn.BatchNorm`. Addition and activation are part of the module
  because the kernels need no further pass over the data for them. XLA fuses them on other devices.

  Attributes:
    use_running_average: normalise with the moving statistics; otherwise normalise with the batch's
      and update the moving ones.
    momentum: weight of the old moving statistics in an update.
    epsilon: added to the variance.
    dtype: type of the result; statistics are at least float32.
    axis_name: the axis whose devices share their statistics; None keeps each device's separate.
    use_scale: whether the normalised values are multiplied by a parameter.
    activation: applied after normalisation and addition: 'relu', 'elu', 'gelu' (exact) or 'none';
      'relu_before' applies a ReLU before the normalisation instead.
  """

  use_running_average: bool
  momentum: float = 0.99
  epsilon: float = 1e-3
  dtype: jax.typing.DTypeLike = jnp.float32
  axis_name: str | None = None
  use_scale: bool = True
  scale_init: Callable = nn.initializers.ones
  activation: kernels.Activation = "none"

  @nn.compact
  def __call__(self, x: jax.Array, residual: jax.Array | None = None) -> jax.Array:
    """Return x [..., channels] after normalisation, addition and activation.

    Args:
      residual: of x's shape, added after the normalisation.
    """
    shape = x.shape[-1:]
    moving_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
    moving_variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
    ones = jnp.ones(shape, jnp.float32)
    scale = self.param("scale", self.scale_init, shape, jnp.float32) if self.use_scale else ones
    bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)

    if self.use_running_average:
      statistics = moving_mean.value, moving_variance.value
      return self._normalize(x, residual, *statistics, scale, bias)
    axis_name = None if self.is_initializing() else self.axis_name
    if self._has_kernel(x, residual):
      scale, bias = _as_float32(scale, bias)
      y, mean, variance = kernels.batch_norm(
        x, residual, scale, bias, self.epsilon, self.activation, axis_name
      )
    else:
      mean, variance = _statistics(self._input(x), axis_name)
      y = self._normalize(x, residual, mean, variance, scale, bias)
    if not self.is_initializing():
      for moving, new in ((moving_mean, mean), (moving_variance, variance)):
        moving.value = self.momentum * moving.value + (1 - self.momentum) * new
    return y

  def _has_kernel(self, x: jax.Array, residual: jax.Array | None) -> bool:
    if residual is not None:
      same = (residual.shape, residual.dtype) == (x.shape, x.dtype)
      if not same or self.activation not in ("none", "relu"):
        return False
    return jax.default_backend() == "cpu" and x.dtype == self.dtype and kernels.serves(x)

  def _normalize(
    self,
    x: jax.Array,
    residual: jax.Array | None,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
  ) -> jax.Array:
    factor = lax.rsqrt(variance + self.epsilon) * scale
    if self._has_kernel(x, residual):
      mean, factor, bias = _as_float32(mean, factor, bias)
      return kernels.normalize(x, residual, mean, factor, bias, self.activation)
    y = ((self._input(x) - mean) * factor + bias).astype(self.dtype)
    y = y if residual is None else y + residual
    return kernels.FUNCTIONS[self.activation](y) if self.activation in kernels.FUNCTIONS else y

  def _input(self, x: jax.Array) -> jax.Array:
    return nn.relu(x) if self.activation == "relu_before" else x


def activate(x: jax.Array, activation: kernels.Activation) -> jax.Array:
  """Return 'relu', 'elu' or 'gelu' (exact) of x [..., channels]."""
  if jax.default_backend() == "cpu" and kernels.serves(x):
    return kernels.activate(x, activation)
  return kernels.FUNCTIONS[activation](x)


def _as_float32(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  """Return parameters and statistics, which a caller may have cast, as the kernels expect them."""
  return tuple(array.astype(jnp.float32) for array in arrays)


def _statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
  """Return mean and biased variance of each channel, in float32 or float64."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  axes = tuple(range(x.ndim - 1))
  means = jnp.stack([jnp.mean(x, axes), jnp.mean(x * x, axes)])
  mean, square = lax.pmean(means, axis_name) if axis_name else means
  return mean, jnp.maximum(0.0, square - mean * mean)
