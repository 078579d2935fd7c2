"""Two-dimensional convolution by this package's C++ kernels, with gradients of any order."""

import ctypes
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cifar_jax.kernels import build

_HANDLERS = (
  "convolution_forward",
  "convolution_input_gradient",
  "convolution_weight_gradient",
)
_NUMBERS = ("NHWC", "HWIO", "NHWC")
MAX_TAPS = 1024  # what a kernel keeps a list of

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


@functools.cache
def instruction_set(dtype: jnp.dtype) -> str | None:
  """Return what computes convolutions of `dtype` here, such as 'avx512_bf16'; None for XLA."""
  if dtype not in (jnp.bfloat16, jnp.float32) or not build.register(_HANDLERS):
    return None
  query = build.load().kernels_convolution
  query.restype = ctypes.c_char_p
  name = query(int(dtype == jnp.bfloat16))
  return name and name.decode()


def serves(x: jax.Array, w: jax.Array) -> bool:
  """Return whether `convolve` has a kernel for these operands on this processor.

  It has none for sizes that are symbols, so that a program exported for any batch is portable.
  """
  return (
    x.ndim == w.ndim == 4
    and all(isinstance(size, int) for size in x.shape + w.shape)
    and x.dtype == w.dtype
    and x.shape[3] == w.shape[2]  # no feature groups
    and w.shape[0] * w.shape[1] <= MAX_TAPS
    and min(x.shape + w.shape) > 0
    and instruction_set(x.dtype) is not None
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, w: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
  """Return the convolution of images: a kernel on CPU, XLA's elsewhere.

  Sums are float32; the result is rounded to the operands' type once. Results have the same bits
  with any number of threads. jax.vmap runs one convolution after the other.

  Args:
    x: [batch, height, width, channels] bfloat16 or float32.
    w: [kernel height, kernel width, channels, filters], of the same type; `serves(x, w)`.
    strides: rows and columns from one output to the next.
    padding: rows of zeros (above, below), columns (left, right).

  Returns:
    [batch, output height, output width, filters].
  """
  shape = (x.shape[0], *_output_size(x.shape, w.shape, strides, padding), w.shape[3])
  return _call(0, (x, w), shape, strides, padding, functools.partial(_plain, strides, padding))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def input_gradient(
  dy: jax.Array, w: jax.Array, shape: tuple[int, ...], strides: Pair, padding: Padding
) -> jax.Array:
  """Return the gradient of `convolve`'s x, of `shape`, from that of its result."""

  def plain(dy, w):
    x = jnp.zeros(shape, dy.dtype)
    return jax.linear_transpose(lambda x: _plain(strides, padding, x, w), x)(dy)[0]

  return _call(1, (dy, w), shape, strides, padding, plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def weight_gradient(
  x: jax.Array, dy: jax.Array, size: Pair, strides: Pair, padding: Padding
) -> jax.Array:
  """Return the gradient of `convolve`'s w, whose height and width are `size`."""
  shape = (*size, x.shape[3], dy.shape[3])

  def plain(x, dy):
    w = jnp.zeros(shape, x.dtype)
    return jax.linear_transpose(lambda w: _plain(strides, padding, x, w), w)(dy)[0]

  return _call(2, (x, dy), shape, strides, padding, plain)


def _call(handler, operands, shape, strides, padding, plain) -> jax.Array:
  """Call a handler on CPU, the function `plain` on other platforms."""
  result = jax.ShapeDtypeStruct(shape, operands[0].dtype)
  numbers = {
    "strides": np.array(strides, np.int64),
    "padding": np.array([padding[0][0], padding[1][0]], np.int64),
  }

  def kernel(*operands):
    call = jax.ffi.ffi_call(_HANDLERS[handler], result, vmap_method="expand_dims")
    return call(*operands, **numbers)

  return lax.platform_dependent(*operands, cpu=kernel, default=plain)


def _plain(strides, padding, x, w) -> jax.Array:
  return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=_NUMBERS)


def _output_size(x_shape, w_shape, strides, padding) -> Pair:
  sizes = zip(x_shape[1:3], w_shape[:2], strides, padding, strict=True)
  rows, columns = (max(0, (n + sum(pad) - k) // s + 1) for n, k, s, pad in sizes)
  return rows, columns


# Each of the three is linear in both operands, and its gradients are the other two.


def _convolve_forward(x, w, strides, padding):
  return convolve(x, w, strides, padding), (x, w)


def _convolve_backward(strides, padding, operands, dy):
  x, w = operands
  return (
    input_gradient(dy, w, x.shape, strides, padding),
    weight_gradient(x, dy, w.shape[:2], strides, padding),
  )


def _input_gradient_forward(dy, w, shape, strides, padding):
  return input_gradient(dy, w, shape, strides, padding), (dy, w)


def _input_gradient_backward(shape, strides, padding, operands, dx):
  dy, w = operands
  return (
    convolve(dx, w, strides, padding),
    weight_gradient(dx, dy, w.shape[:2], strides, padding),
  )


def _weight_gradient_forward(x, dy, size, strides, padding):
  return weight_gradient(x, dy, size, strides, padding), (x, dy)


def _weight_gradient_backward(size, strides, padding, operands, dw):
  x, dy = operands
  return (
    input_gradient(dy, dw, x.shape, strides, padding),
    convolve(x, dw, strides, padding),
  )


convolve.defvjp(_convolve_forward, _convolve_backward)
input_gradient.defvjp(_input_gradient_forward, _input_gradient_backward)
weight_gradient.defvjp(_weight_gradient_forward, _weight_gradient_backward)
