"""`BatchNorm`: `nn.BatchNorm` computed by this project's CPU kernels where they apply."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.kernels import normalization as kernels


class BatchNorm(nn.Module):
  """Batch norm over all axes but the last, with the ReLU and addition that often surround it.

  Variables and numbers are those of `nn.BatchNorm`. ReLU and addition are part of the module
  because the kernels need no further pass over the data for them. XLA fuses them on other devices.

  Attributes:
    use_running_average: normalise with the stored statistics, else with the batch's, which then
      move the stored ones.
    momentum: weight of the stored statistics when they move.
    epsilon: what is added to the variance.
    dtype: type of the result; statistics are at least float32.
    axis_name: the axis whose devices share their statistics, None for each its own.
    use_scale: whether the normalised values are multiplied by a parameter.
    relu: where a ReLU is: 'none', 'before' the normalisation, or 'after' it and the addition.
  """

  use_running_average: bool
  momentum: float = 0.99
  epsilon: float = 1e-3
  dtype: jnp.dtype = jnp.float32
  axis_name: str | None = None
  use_scale: bool = True
  scale_init: Callable = nn.initializers.ones
  relu: kernels.Relu = "none"

  @nn.compact
  def __call__(self, x: jax.Array, residual: jax.Array | None = None) -> jax.Array:
    """Return the result for x [..., channels], of x's shape.

    Args:
      residual: of x's shape, added after the normalisation.
    """
    shape = x.shape[-1:]
    moving_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
    moving_variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
    scale = self.param("scale", self.scale_init, shape) if self.use_scale else jnp.ones(shape)
    bias = self.param("bias", nn.initializers.zeros, shape)

    if self.use_running_average:
      statistics = moving_mean.value, moving_variance.value
      return self._normalize(x, residual, *statistics, scale, bias)
    axis_name = None if self.is_initializing() else self.axis_name
    if jax.default_backend() == "cpu" and self._has_kernel(x, residual):
      y, mean, variance = kernels.batch_norm(
        x, residual, scale, bias, self.epsilon, self.relu, axis_name
      )
    else:
      mean, variance = _statistics(self._relu("before", x), axis_name)
      y = self._normalize(x, residual, mean, variance, scale, bias)
    if not self.is_initializing():
      for moving, new in ((moving_mean, mean), (moving_variance, variance)):
        moving.value = self.momentum * moving.value + (1 - self.momentum) * new
    return y

  def _has_kernel(self, x: jax.Array, residual: jax.Array | None) -> bool:
    same = residual is None or (residual.shape, residual.dtype) == (x.shape, x.dtype)
    return same and x.dtype == self.dtype and kernels.serves(x)

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
    y = ((self._relu("before", x) - mean) * factor + bias).astype(self.dtype)
    return self._relu("after", y if residual is None else y + residual)

  def _relu(self, place: kernels.Relu, x: jax.Array) -> jax.Array:
    return nn.relu(x) if self.relu == place else x


def _statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
  """Return mean and biased variance of each channel, in float32 or float64."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  axes = tuple(range(x.ndim - 1))
  means = jnp.stack([jnp.mean(x, axes), jnp.mean(x * x, axes)])
  mean, square = lax.pmean(means, axis_name) if axis_name else means
  return mean, jnp.maximum(0.0, square - mean * mean)
