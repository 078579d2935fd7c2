"""Two-dimensional convolution by this package's C++ kernels, with gradients of any order."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

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
MAX_TAPS = 1024  # the longest list of taps of a kernel: kMaxTaps in convolution_scheme.inc
NO_BIAS = np.zeros(0, np.float32)

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Arrays = tuple[jax.Array, ...]


@functools.cache
def instruction_set(dtype: jnp.dtype) -> str | None:
  """Return the instruction set of convolutions of `dtype`, such as 'avx512_bf16'; None for XLA."""
  if dtype not in (jnp.bfloat16, jnp.float32) or not build.register(_HANDLERS):
    return None
  library = build.load()
  assert library is not None  # it has registered its handlers
  query = library.kernels_convolution
  query.restype = ctypes.c_char_p
  name = query(int(dtype == jnp.bfloat16))
  return name and name.decode()


def peak(dtype: jnp.dtype) -> float:
  """Return the peak floating-point operations per second of one thread; 0 without kernels.

  The peak is measured with the multiplications of convolutions of `dtype`, on blocks in the
  first-level cache.
  """
  if instruction_set(dtype) is None:
    return 0.0
  library = build.load()
  assert library is not None  # it has an instruction set
  library.kernels_peak.restype = ctypes.c_double
  return library.kernels_peak(int(dtype == jnp.bfloat16))


def serves(x: jax.Array, w: jax.Array) -> bool:
  """Return whether `convolve` has a kernel for these operands on this processor.

  There is none for symbolic sizes, so that a program exported for any batch size is portable.
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def convolve(
  x: jax.Array, w: jax.Array, bias: jax.Array, strides: Pair, padding: Padding
) -> jax.Array:
  """Return the convolution of images, by a kernel on CPU and by XLA elsewhere.

  Sums are float32; the result is rounded to the operands' type once. Results have the same bits
  with any number of threads. jax.vmap runs one convolution after another.

  Args:
    x: [batch, height, width, channels] bfloat16 or float32.
    w: [kernel height, kernel width, channels, filters], of the same type; `serves(x, w)`.
    bias: [filters] float32, added to the sums; `NO_BIAS` for none.
    strides: rows and columns from one output to the next.
    padding: rows of zeros (above, below) and columns of zeros (left, right).

  Returns:
    [batch, output height, output width, filters].
  """
  shape = (x.shape[0], *_output_size(x.shape, w.shape, strides, padding), w.shape[3])

  def plain(x: jax.Array, w: jax.Array, bias: jax.Array) -> jax.Array:
    y = _plain(strides, padding, x, w)
    return y + bias.astype(y.dtype) if bias.size else y

  result = jax.ShapeDtypeStruct(shape, x.dtype)
  return _call(_HANDLERS[0], (x, w, bias), result, strides, padding, plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def input_gradient(
  dy: jax.Array, w: jax.Array, shape: tuple[int, ...], strides: Pair, padding: Padding
) -> jax.Array:
  """Return the gradient of `convolve`'s x, which has `shape`, from the gradient of its result."""

  def plain(dy: jax.Array, w: jax.Array) -> jax.Array:
    x = jnp.zeros(shape, dy.dtype)
    return jax.linear_transpose(lambda x: _plain(strides, padding, x, w), x)(dy)[0]

  result = jax.ShapeDtypeStruct(shape, dy.dtype)
  return _call(_HANDLERS[1], (dy, w), result, strides, padding, plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def weight_gradient(
  x: jax.Array, dy: jax.Array, size: Pair, biases: int, strides: Pair, padding: Padding
) -> Arrays:
  """Return the gradients of `convolve`'s w, whose height and width are `size`, and of its bias.

  `biases` is the size of the bias: the number of filters, or 0.
  """
  shape = (*size, x.shape[3], dy.shape[3])

  def plain(x: jax.Array, dy: jax.Array) -> Arrays:
    w = jnp.zeros(shape, x.dtype)
    dw = jax.linear_transpose(lambda w: _plain(strides, padding, x, w), w)(dy)[0]
    return dw, jnp.sum(dy, (0, 1, 2), jnp.float32)[:biases]

  result = (jax.ShapeDtypeStruct(shape, x.dtype), jax.ShapeDtypeStruct((biases,), jnp.float32))
  return _call(_HANDLERS[2], (x, dy), result, strides, padding, plain)


def _call(
  handler: str, operands: Arrays, result: Any, strides: Pair, padding: Padding, plain: Callable
) -> Any:
  """Call a handler on CPU and the function `plain` on other platforms."""

  def kernel(*operands: jax.Array) -> Any:
    return jax.ffi.ffi_call(handler, result, vmap_method="expand_dims")(
      *operands,
      strides=np.array(strides, np.int64),
      padding=np.array([padding[0][0], padding[1][0]], np.int64),
    )

  return lax.platform_dependent(*operands, cpu=kernel, default=plain)


def _plain(strides: Pair, padding: Padding, x: jax.Array, w: jax.Array) -> jax.Array:
  # HIGHEST, because accelerators round float32 operands by default.
  if x.shape[1:3] == w.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):  # a dense layer
    y = jnp.dot(x[:, 0, 0], w[0, 0], precision=lax.Precision.HIGHEST)
    return y[:, None, None]
  return lax.conv_general_dilated(
    x, w, strides, padding, dimension_numbers=_NUMBERS, precision=lax.Precision.HIGHEST
  )


def _output_size(
  x_shape: tuple[int, ...], w_shape: tuple[int, ...], strides: Pair, padding: Padding
) -> Pair:
  sizes = zip(x_shape[1:3], w_shape[:2], strides, padding, strict=True)
  rows, columns = (max(0, (n + sum(pad) - k) // s + 1) for n, k, s, pad in sizes)
  return rows, columns


# Each of the three functions is linear in each operand, and its gradients are the other two.


def _convolve_forward(
  x: jax.Array, w: jax.Array, bias: jax.Array, strides: Pair, padding: Padding
) -> tuple[jax.Array, Arrays]:
  return convolve(x, w, bias, strides, padding), (x, w, bias)


def _convolve_backward(strides: Pair, padding: Padding, operands: Arrays, dy: jax.Array) -> Arrays:
  x, w, bias = operands
  dx = input_gradient(dy, w, x.shape, strides, padding)
  return dx, *weight_gradient(x, dy, w.shape[:2], bias.size, strides, padding)


def _input_gradient_forward(
  dy: jax.Array, w: jax.Array, shape: tuple[int, ...], strides: Pair, padding: Padding
) -> tuple[jax.Array, Arrays]:
  return input_gradient(dy, w, shape, strides, padding), (dy, w)


def _input_gradient_backward(
  shape: tuple[int, ...], strides: Pair, padding: Padding, operands: Arrays, dx: jax.Array
) -> Arrays:
  dy, w = operands
  dw, _ = weight_gradient(dx, dy, w.shape[:2], 0, strides, padding)
  return convolve(dx, w, NO_BIAS, strides, padding), dw


def _weight_gradient_forward(
  x: jax.Array, dy: jax.Array, size: Pair, biases: int, strides: Pair, padding: Padding
) -> tuple[Arrays, Arrays]:
  return weight_gradient(x, dy, size, biases, strides, padding), (x, dy)


def _weight_gradient_backward(
  size: Pair, biases: int, strides: Pair, padding: Padding, operands: Arrays, gradients: Arrays
) -> Arrays:
  x, dy = operands
  dw, dbias = gradients
  dx = input_gradient(dy, dw, x.shape, strides, padding)
  return dx, convolve(x, dw, dbias, strides, padding)


convolve.defvjp(_convolve_forward, _convolve_backward)
input_gradient.defvjp(_input_gradient_forward, _input_gradient_backward)
weight_gradient.defvjp(_weight_gradient_forward, _weight_gradient_backward)
