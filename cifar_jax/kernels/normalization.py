"""Batch norm and activations by this package's C++ kernels, with their gradients.

XLA:CPU makes several passes over the data in float32, two of them in loops that use no vectors.
Here the value and the gradient take two passes each, in the type of the data: sums, then elements.
Between the passes JAX computes the numbers per channel and the means over devices. An activation
costs no pass of its own, and is computed again for the gradient.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.kernels.calls import has_kernel, with_kernel

_HANDLERS = (
  "normalization_statistics",
  "normalization_normalize",
  "normalization_gradient_sums",
  "normalization_input_gradient",
)
Activation = Literal["none", "relu_before", "relu", "elu", "gelu"]
_NUMBERS: dict[Activation, int] = {"none": 0, "relu_before": 1, "relu": 2, "elu": 3, "gelu": 4}
_NAMES = {number: name for name, number in _NUMBERS.items()}
FUNCTIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "elu": jax.nn.elu,
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


def serves(x: jax.Array) -> bool:
  """Return whether the functions of this module have a kernel for x on this processor."""
  return has_kernel(x, _HANDLERS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def batch_norm(
  x: jax.Array,
  residual: jax.Array | None,
  scale: jax.Array,
  bias: jax.Array,
  epsilon: float,
  activation: Activation,
  axis_name: str | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalise x with its own mean and variance, by kernels on CPU and by XLA elsewhere.

  Sums are at least float32, and have the same bits with any number of threads. The result is
  rounded once. jax.vmap runs one normalisation after another.

  Args:
    x: [..., channels] bfloat16 or float32; `serves(x)`.
    residual: added to the result; of x's shape and type, or None.
    scale: [channels] float32.
    bias: [channels] float32.
    epsilon: added to the variance.
    activation: applied after the addition: 'relu', or without an addition also 'elu' or 'gelu'
      (the exact one). Otherwise 'relu_before', a ReLU of x, or 'none'.
    axis_name: the axis whose devices share their statistics; None if each has its own.

  Returns:
    The result, of x's shape and type; the mean and the biased variance, [channels] float32.
  """
  return _forward(x, residual, scale, bias, epsilon, activation, axis_name)[0]


def _forward(
  x: jax.Array,
  residual: jax.Array | None,
  scale: jax.Array,
  bias: jax.Array,
  epsilon: float,
  activation: Activation,
  axis_name: str | None,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple]:
  rows, number = _rows(x), _NUMBERS[activation]
  coefficients = functools.partial(_coefficients, epsilon, axis_name)
  (mean, variance, factor), pullback = jax.vjp(
    coefficients, *_statistics(rows, activation=number), scale
  )
  added = rows[:0] if residual is None else _rows(residual)
  y = _normalize(rows, added, mean, factor, bias, activation=number).reshape(x.shape)
  # Without a residual, x shows which values passed the ReLU; with one, only y does.
  needed = y if activation == "relu" and residual is not None else x[:0]
  like_residual = None if residual is None else residual[:0]
  return (y, mean, variance), (x, needed, like_residual, (mean, factor, bias), pullback)


def _backward(
  epsilon: float,
  activation: Activation,
  axis_name: str | None,
  kept: tuple,
  cotangents: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]:
  x, y, like_residual, channels, pullback = kept
  mean, factor, _ = channels
  dy, mean_gradient, variance_gradient = cotangents
  number = _NUMBERS[activation]
  bias_gradient, factor_gradient, passed = _gradient_sums(
    _rows(x), _rows(dy), _rows(y), *channels, activation=number
  )
  if y.size:
    dy, number = passed.reshape(dy.shape), _NUMBERS["none"]
  # The mean is also subtracted from x, which adds −factor · Σ dy to its gradient.
  mean_gradient, square_gradient, scale_gradient = pullback(
    (mean_gradient - factor * bias_gradient, variance_gradient, factor_gradient)
  )
  rows = x.size // x.shape[-1]
  slope = 2 * square_gradient / rows
  offset = mean_gradient / rows + slope * mean
  dx = _input_gradient(_rows(x), _rows(dy), *channels, slope, offset, activation=number).reshape(
    x.shape
  )
  return dx, None if like_residual is None else dy, scale_gradient, bias_gradient


batch_norm.defvjp(_forward, _backward)


def normalize(
  x: jax.Array,
  residual: jax.Array | None,
  mean: jax.Array,
  factor: jax.Array,
  bias: jax.Array,
  activation: Activation,
) -> jax.Array:
  """Return activation((x - mean) * factor + bias + residual), of x's shape and type.

  The arguments are those of `batch_norm`; mean, factor and bias are [channels] float32. Gradients
  are XLA's.
  """
  rows = _rows(x)
  added = rows[:0] if residual is None else _rows(residual)
  y = _normalize(rows, added, mean, factor, bias, activation=_NUMBERS[activation])
  return y.reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def activate(x: jax.Array, activation: Activation) -> jax.Array:
  """Return 'relu', 'elu' or 'gelu' (the exact one) of x [..., channels], in x's type.

  This is a normalisation with mean 0 and factor 1.
  """
  zeros = jnp.zeros(x.shape[-1:], jnp.float32)
  return normalize(x, None, zeros, zeros + 1, zeros, activation)


def _activate_forward(x: jax.Array, activation: Activation) -> tuple[jax.Array, jax.Array]:
  return activate(x, activation), x


def _activate_backward(activation: Activation, x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
  zeros, none = jnp.zeros(x.shape[-1:], jnp.float32), jnp.zeros(0, jnp.float32)
  channels = (zeros, zeros + 1, zeros, none, none)
  dx = _input_gradient(_rows(x), _rows(dy), *channels, activation=_NUMBERS[activation])
  return (dx.reshape(x.shape),)


activate.defvjp(_activate_forward, _activate_backward)


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


# The four passes over the data. Arrays are [rows, channels] or [channels]. A missing residual has
# no rows, and y has none unless it is the result of a ReLU after a residual.


@with_kernel("normalization_statistics")
def _statistics(x: jax.Array, *, activation: int) -> tuple[jax.Array, jax.Array]:
  x = _input(x, activation)
  return jnp.mean(x, 0), jnp.mean(x**2, 0)


@with_kernel("normalization_normalize")
def _normalize(
  x: jax.Array,
  residual: jax.Array,
  mean: jax.Array,
  factor: jax.Array,
  bias: jax.Array,
  *,
  activation: int,
) -> jax.Array:
  y = (_input(x, activation) - mean) * factor + bias
  if residual.size:
    y += residual.astype(jnp.float32)
  return _activated(y, activation).astype(x.dtype)


@with_kernel("normalization_gradient_sums")
def _gradient_sums(
  x: jax.Array,
  dy: jax.Array,
  y: jax.Array,
  mean: jax.Array,
  factor: jax.Array,
  bias: jax.Array,
  *,
  activation: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  centred = _input(x, activation) - mean
  passed = _passed(dy, y if y.size else centred * factor + bias, activation)
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
  activation: int,
) -> jax.Array:
  centred = _input(x, activation) - mean
  passed = _passed(dy, centred * factor + bias, activation)
  dx = passed * factor
  if slope.size:  # the gradient through the statistics of x
    dx += centred * slope + offset
  return (jnp.where(x > 0, dx, 0) if activation == _NUMBERS["relu_before"] else dx).astype(x.dtype)


def _input(x: jax.Array, activation: int) -> jax.Array:
  """Return the values that are normalised, in float32."""
  x = x.astype(jnp.float32)
  return jax.nn.relu(x) if activation == _NUMBERS["relu_before"] else x


def _activated(x: jax.Array, activation: int) -> jax.Array:
  """Return x after the activation that follows the addition."""
  function = FUNCTIONS.get(_NAMES[activation])
  return function(x) if function else x


def _passed(dy: jax.Array, y: jax.Array, activation: int) -> jax.Array:
  """Return the gradient of y, in float32, from the gradient of the activation's result."""
  _, pullback = jax.vjp(lambda y: _activated(y, activation), y.astype(jnp.float32))
  return pullback(dy.astype(jnp.float32))[0]
