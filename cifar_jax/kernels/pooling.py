"""Max-pooling over windows that do not overlap, by C++ kernels, with its gradient."""

import functools

import jax
import jax.numpy as jnp

from cifar_jax.kernels.calls import has_kernel, with_kernel

_HANDLERS = ("pooling_forward", "pooling_gradient")


def _has_kernel(x: jax.Array, window: int) -> bool:
  return jax.default_backend() == "cpu" and has_kernel(x, _HANDLERS) and min(x.shape[1:3]) >= window


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, window: int) -> jax.Array:
  """Return the maxima of windows that do not overlap.

  Among equal values the first in row order gets the whole gradient. NaN stays NaN.

  Args:
    x: [batch, height, width, channels]; rows and columns that fill no window are ignored.
    window: height and width of a window.

  Returns:
    [batch, height // window, width // window, channels].
  """
  return _forward(x, window)[0]


def _forward(x: jax.Array, window: int) -> tuple[jax.Array, jax.Array]:
  maxima = _maxima_by_kernel if _has_kernel(x, window) else _maxima
  return maxima(x, window=window), x


def _backward(window: int, x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
  gradient = _gradient_by_kernel if _has_kernel(x, window) else _gradient
  return (gradient(x, dy, window=window),)


max_pool.defvjp(_forward, _backward)


def _maxima(x: jax.Array, *, window: int) -> jax.Array:
  return _find_maxima(x, window)[0]


def _gradient(x: jax.Array, dy: jax.Array, *, window: int) -> jax.Array:
  # JAX would derive sums of padded copies, which take XLA:CPU ten times as long.
  _, place = _find_maxima(x, window)
  batch, height, width, channels = x.shape
  rows, columns = dy.shape[1] * window, dy.shape[2] * window
  index = jnp.arange(window**2).reshape(1, 1, window, 1, window, 1)
  dx = jnp.where(place[:, :, None, :, None] == index, dy[:, :, None, :, None], 0)
  dx = dx.reshape(batch, rows, columns, channels)
  return jnp.pad(dx, ((0, 0), (0, height - rows), (0, width - columns), (0, 0)))


def _find_maxima(x: jax.Array, window: int) -> tuple[jax.Array, jax.Array]:
  """Return the maxima, and the position of each in its window, counted in row order."""
  batch, height, width, channels = x.shape
  rows, columns = height // window, width // window
  windows = x[:, : rows * window, : columns * window]
  windows = windows.reshape(batch, rows, window, columns, window, channels)
  maximum = windows[:, :, 0, :, 0]
  place = jnp.zeros(maximum.shape, jnp.int32)
  for index in range(1, window**2):
    value = windows[:, :, index // window, :, index % window]
    is_larger = (value > maximum) | jnp.isnan(value)
    maximum = jnp.where(is_larger, value, maximum)
    place = jnp.where(is_larger, index, place)
  return maximum, place


_maxima_by_kernel = with_kernel("pooling_forward")(_maxima)
_gradient_by_kernel = with_kernel("pooling_gradient")(_gradient)
