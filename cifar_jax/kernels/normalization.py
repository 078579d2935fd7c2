"""Batch norm with the batch's statistics by this package's C++ kernels, with its gradient.

XLA:CPU makes several passes over the data in float32, two of them in loops that use no vectors.
Here the value and the gradient are two passes each, in the type of the data: sums, then elements.
The numbers per channel between the passes are JAX's, and so are means over devices.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.kernels import build, convolution
from cifar_jax.kernels.calls import with_kernel

_HANDLERS = (
  "normalization_statistics",
  "normalization_normalize",
  "normalization_gradient_sums",
  "normalization_input_gradient",
)
Relu = Literal["none", "before", "after"]
_NONE, _BEFORE, _AFTER = 0, 1, 2
_RELUS: dict[Relu, int] = {"none": _NONE, "before": _BEFORE, "after": _AFTER}


def serves(x: jax.Array) -> bool:
  """Return whether `batch_norm` has a kernel for x on this processor."""
  return (
    x.dtype in (jnp.bfloat16, jnp.float32)
    and all(isinstance(size, int) and size > 0 for size in x.shape)
    and build.register(_HANDLERS)
    and convolution.instruction_set(jnp.dtype(jnp.float32)) is not None
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def batch_norm(
  x: jax.Array,
  residual: jax.Array | None,
  scale: jax.Array,
  bias: jax.Array,
  epsilon: float,
  relu: Relu,
  axis_name: str | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalise x with its own mean and variance: kernels on CPU, XLA's operations elsewhere.

  Sums are at least float32, and have the same bits with any number of threads. The result is
  rounded once. jax.vmap runs one after the other.

  Args:
    x: [..., channels] bfloat16 or float32; `serves(x)`.
    residual: what is added to the result, of x's shape and type, or None.
    scale: [channels] float32.
    bias: [channels] float32.
    epsilon: what is added to the variance.
    relu: where a ReLU is: 'none', 'before' the normalisation, or 'after' the addition.
    axis_name: the axis whose devices share their statistics, None for each its own.

  Returns:
    The result, of x's shape and type; the mean and the biased variance, [channels] float32.
  """
  return _forward(x, residual, scale, bias, epsilon, relu, axis_name)[0]


def _forward(
  x: jax.Array,
  residual: jax.Array | None,
  scale: jax.Array,
  bias: jax.Array,
  epsilon: float,
  relu: Relu,
  axis_name: str | None,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple]:
  rows, place = _rows(x), _RELUS[relu]
  coefficients = functools.partial(_coefficients, epsilon, axis_name)
  (mean, variance, factor), pullback = jax.vjp(coefficients, *_statistics(rows, relu=place), scale)
  added = rows[:0] if residual is None else _rows(residual)
  y = _normalize(rows, added, mean, factor, bias, relu=place).reshape(x.shape)
  # Without a residual, x tells where the ReLU let a value pass; otherwise y is needed for it.
  needed = y if relu == "after" and residual is not None else x[:0]
  like_residual = None if residual is None else residual[:0]
  return (y, mean, variance), (x, needed, like_residual, (mean, factor, bias), pullback)


def _backward(
  epsilon: float,
  relu: Relu,
  axis_name: str | None,
  kept: tuple,
  cotangents: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]:
  x, y, like_residual, channels, pullback = kept
  mean, factor, _ = channels
  dy, mean_gradient, variance_gradient = cotangents
  place = _RELUS[relu]
  bias_gradient, factor_gradient, passed = _gradient_sums(
    _rows(x), _rows(dy), _rows(y), *channels, relu=place
  )
  if y.size:
    dy, place = passed.reshape(dy.shape), _NONE
  # The mean is also subtracted from x, which gives it −factor · Σ dy.
  mean_gradient, square_gradient, scale_gradient = pullback(
    (mean_gradient - factor * bias_gradient, variance_gradient, factor_gradient)
  )
  rows = x.size // x.shape[-1]
  slope = 2 * square_gradient / rows
  offset = mean_gradient / rows + slope * mean
  dx = _input_gradient(_rows(x), _rows(dy), *channels, slope, offset, relu=place).reshape(x.shape)
  return dx, None if like_residual is None else dy, scale_gradient, bias_gradient


batch_norm.defvjp(_forward, _backward)


def _coefficients(
  epsilon: float, axis_name: str | None, mean: jax.Array, square: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Return mean, variance and scale / σ from the means of x and x², all [channels]."""
  if axis_name is not None:
    mean, square = lax.pmean((mean, square), axis_name)
  variance = jnp.maximum(0.0, square - mean**2)
  return mean, variance, lax.rsqrt(variance + epsilon) * scale


def _rows(x: jax.Array) -> jax.Array:
  return x.reshape(-1, x.shape[-1])


# The four passes over the data. Arrays are [rows, channels] or [channels]; a residual may have no
# rows, and neither may the y that was computed without one.


@with_kernel("normalization_statistics")
def _statistics(x: jax.Array, *, relu: int) -> tuple[jax.Array, jax.Array]:
  x = _input(x, relu)
  return jnp.mean(x, 0), jnp.mean(x**2, 0)


@with_kernel("normalization_normalize")
def _normalize(
  x: jax.Array,
  residual: jax.Array,
  mean: jax.Array,
  factor: jax.Array,
  bias: jax.Array,
  *,
  relu: int,
) -> jax.Array:
  y = (_input(x, relu) - mean) * factor + bias
  if residual.size:
    y += residual.astype(jnp.float32)
  return (jax.nn.relu(y) if relu == _AFTER else y).astype(x.dtype)


@with_kernel("normalization_gradient_sums")
def _gradient_sums(
  x: jax.Array,
  dy: jax.Array,
  y: jax.Array,
  mean: jax.Array,
  factor: jax.Array,
  bias: jax.Array,
  *,
  relu: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  centred = _input(x, relu) - mean
  passed = _passed(dy, y if y.size else centred * factor + bias, relu)
  return jnp.sum(passed, 0), jnp.sum(passed * centred, 0), passed[: len(y)].astype(x.dtype)


@with_kernel("normalization_input_gradient")
def _input_gradient(
  x: jax.Array,
  dy: jax.Array,
  mean: jax.Array,
  factor: jax.Array,
  bias: jax.Array,
  slope: jax.Array,
  offset: jax.Array,
  *,
  relu: int,
) -> jax.Array:
  centred = _input(x, relu) - mean
  passed = _passed(dy, centred * factor + bias, relu)
  dx = passed * factor + (centred * slope + offset)
  return (jnp.where(x > 0, dx, 0) if relu == _BEFORE else dx).astype(x.dtype)


def _input(x: jax.Array, relu: int) -> jax.Array:
  """Return what is normalised, in float32."""
  x = x.astype(jnp.float32)
  return jax.nn.relu(x) if relu == _BEFORE else x


def _passed(dy: jax.Array, y: jax.Array, relu: int) -> jax.Array:
  """Return dy in float32, and 0 where a ReLU after the addition stopped y."""
  dy = dy.astype(jnp.float32)
  return jnp.where(y > 0, dy, 0) if relu == _AFTER else dy
