"""The convolution of all models: computed by this project's CPU kernels if they apply, else XLA."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.errors import UserError
from cifar_jax.kernels import convolution as kernels

Padding = str | int | Sequence[int | tuple[int, int]]


class Conv(nn.Conv):
  """`nn.Conv` for images, computed together with its bias; without dilation and groups.

  Attributes:
    features: channels of the result.
    kernel_size: rows and columns.
    strides: rows and columns from one result to the next; one number for both.
    padding: 'SAME', 'VALID', one number for all sides, or ((top, bottom), (left, right)).
    use_bias: whether to add one number for each feature.
    dtype: the type to cast images and kernel to, and of the result. Sums are float32 on CPU.
    kernel_init, bias_init: initializers of the parameters, which are float32.
  """

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Return [batch, rows, columns, features] of images [batch, height, width, channels]."""
    if {self.input_dilation, self.kernel_dilation, self.feature_group_count} != {1}:
      raise UserError("model: Conv has no dilation and no groups; use flax.linen.Conv for those")
    shape = (*_pair(self.kernel_size), images.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
    bias = self.param("bias", self.bias_init, shape[-1:], jnp.float32) if self.use_bias else None
    dtype = self.dtype or jnp.float32
    images, kernel = images.astype(dtype), kernel.astype(dtype)
    return convolve(images, kernel, bias, _pair(self.strides or 1), self.padding)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
  first, second = (value, value) if isinstance(value, int) else value
  return first, second


def convolve(
  images: jax.Array,
  kernel: jax.Array,
  bias: jax.Array | None = None,
  strides: tuple[int, int] = (1, 1),
  padding: Padding = "SAME",
) -> jax.Array:
  """Return the convolution of images [batch, height, width, channels], in their type.

  XLA:CPU computes convolutions in float32, whatever their type. The CPU kernels use the processor's
  bfloat16 units, and are faster in float32 too (docs/kernels.md).

  Without kernels, the gradient of `kernel` needs a transposed copy of `images`. XLA:CPU fuses into
  that copy the elementwise operations that produced `images`, and so repeats the normalisation and
  ReLU of up to three layers in an order that suits neither caches nor vector units. `_compute_once`
  prevents the fusion. docs/measurements.md has the times.

  Accelerators by default round float32 operands to bfloat16 or TF32; `precision` forbids that.

  Args:
    images: [batch, height, width, channels].
    kernel: [rows, columns, channels, features], of the same type.
    bias: [features] float32.
    strides: rows and columns from one result to the next.
    padding: as in `Conv`.
  """
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
  rows, columns = (padding, padding) if isinstance(padding, int) else padding
  sides = (_pair(rows), _pair(columns))
  if kernels.serves(images, kernel):  # kernels.convolve calls XLA on other platforms than CPU
    kernel_bias = kernels.NO_BIAS if bias is None else bias.astype(jnp.float32)
    return kernels.convolve(images, kernel, kernel_bias, strides, sides)
  if jax.default_backend() == "cpu":
    # This value is 1 for every finite kernel, but XLA cannot know that at compile time.
    one = 1 + 0 * lax.stop_gradient(kernel).reshape(-1)[0]
    images = _compute_once(images, one)
  numbers = ("NHWC", "HWIO", "NHWC")
  y = lax.conv_general_dilated(
    images, kernel, strides, sides, dimension_numbers=numbers, precision=lax.Precision.HIGHEST
  )
  return y if bias is None else y + bias.astype(y.dtype)


def dot(
  x: jax.Array,
  kernel: jax.Array,
  dimension_numbers: lax.DotDimensionNumbers,
  precision: lax.PrecisionLike = None,
  preferred_element_type: jnp.dtype | None = None,
) -> jax.Array:
  """Return x [..., inputs] times kernel [inputs, features], with `lax.dot_general`'s arguments.

  On CPU, this project's kernels compute it as a convolution of images of one pixel. XLA:CPU would
  round the kernel to bfloat16 and back, and write its gradient transposed, which the optimizer
  reads slowly.
  """
  images, filters = x.reshape(-1, 1, 1, x.shape[-1]), kernel[None, None]
  is_dense = dimension_numbers == (((x.ndim - 1,), (0,)), ((), ()))
  keeps_type = preferred_element_type in (None, x.dtype)
  if is_dense and keeps_type and kernels.serves(images, filters):
    y = kernels.convolve(images, filters, kernels.NO_BIAS, (1, 1), ((0, 0), (0, 0)))
    return y.reshape(*x.shape[:-1], -1)
  return lax.dot_general(x, kernel, dimension_numbers, precision, preferred_element_type)


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
