"""`Conv`: `nn.Conv` computed by this project's CPU kernels where they apply, by XLA elsewhere."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from jax import lax

from cifar_jax.kernels import convolution as kernels


def convolve(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """Return `lax.conv_general_dilated` of the same arguments, which Flax passes.

  XLA:CPU computes convolutions in float32, whatever their type. The kernels use the processor's
  bfloat16 units, and are faster in float32 too (docs/kernels.md).

  Without kernels, the gradient of `kernel` needs a transposed copy of `inputs`. XLA:CPU fuses into
  that copy the elementwise operations that produced `inputs`, and so repeats the normalisation and
  ReLU of up to three layers in an order that suits neither caches nor vector units. `_compute_once`
  prevents the fusion. docs/measurements.md has the times.
  """
  if jax.default_backend() == "cpu":
    if _has_strides_only(**options) and kernels.serves(inputs, kernel):
      if isinstance(padding, str):
        padding = lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
      (top, bottom), (left, right) = padding
      return kernels.convolve(
        inputs, kernel, (strides[0], strides[1]), ((top, bottom), (left, right))
      )
    # This value is 1 for every finite kernel, but XLA cannot know that at compile time.
    one = 1 + 0 * lax.stop_gradient(kernel).reshape(-1)[0]
    inputs = _compute_once(inputs, one)
  return lax.conv_general_dilated(inputs, kernel, strides, padding, **options)


Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)


def _has_strides_only(
  lhs_dilation: Sequence[int] = (1,),
  rhs_dilation: Sequence[int] = (1,),
  feature_group_count: int = 1,
  precision: Any = None,
  dimension_numbers: Any = None,
) -> bool:
  """Return whether these options of Flax's ask for nothing that the kernels lack."""
  del dimension_numbers  # Flax always passes NHWC and HWIO
  return {*lhs_dilation, *rhs_dilation} == {1} and feature_group_count == 1 and precision is None


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
