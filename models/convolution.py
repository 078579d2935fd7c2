"""`Conv`: plain `nn.Conv`, except that XLA:CPU computes the convolved activations only once."""

import functools
from typing import Any

import flax.linen as nn
import jax
from jax import lax


def convolve(inputs: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
  """Return `lax.conv_general_dilated` of the same arguments, which Flax passes.

  The gradient of the kernel needs a transposed copy of `inputs`. XLA:CPU fuses into that copy the
  elementwise operations that produced `inputs`, and so repeats the normalisation and ReLU of up to
  three layers in an order that suits neither caches nor vector units. `_compute_once` prevents
  the fusion. docs/measurements.md has the times.
  """
  if jax.default_backend() == "cpu":
    # This value is 1 for every finite kernel, but XLA cannot know that at compile time.
    one = 1 + 0 * lax.stop_gradient(kernel).reshape(-1)[0]
    inputs = _compute_once(inputs, one)
  return lax.conv_general_dilated(inputs, kernel, *args, **options)


Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)


@jax.custom_jvp
def _compute_once(x: jax.Array, one: jax.Array) -> jax.Array:
  """Return x / one, with the gradient divided by `one` too: XLA never repeats a division."""
  return x / one


@_compute_once.defjvp
def _compute_once_jvp(
  primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  x, one = primals
  return _compute_once(x, one), tangents[0] / one
