"""A convolution whose weight gradient is quick on CPU; everywhere else it is `nn.Conv`."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
from jax import lax

_IMAGES = ("NHWC", "HWIO", "NHWC")
# What XLA:CPU multiplies fastest, seen with 16 to 128 images of 4 to 32 pixels and 32 to 512
# channels: patches that stay in the cache, and rows enough to be a matrix product worth its name.
_PATCHES = 1_200_000  # numbers
_ROWS = 512
# A product for each row of the kernel needs a third of the copies, but columns enough to pay.
_COLUMNS = 96
# Images × channels from which on patches pay: with fewer there is little to compute either way.
_WORTHWHILE = 96
_PLAIN = {
  "lhs_dilation": (1, 1),
  "rhs_dilation": (1, 1),
  "feature_group_count": 1,
  "precision": None,
}

Strides = tuple[int, int]
Pads = tuple[tuple[int, int], tuple[int, int]]


def convolve(
  inputs: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
  """`lax.conv_general_dilated`, as flax calls it.

  XLA:CPU computes the weight gradient as a convolution with kernels as large as the images, for
  which it first transposes images and gradients, with strides for longer than it then computes. The
  way taken here, in float32, took 0.26 to 0.97 of the time at batch 128, for 64 channels of 32×32
  pixels 41 ms instead of 157 (two cores). The gradient is the same but for the order of its sums.
  """
  by_patches = (
    jax.default_backend() == "cpu"
    and all(options.get(name, value) == value for name, value in _PLAIN.items())
    and inputs.ndim == 4
    and inputs.dtype == kernel.dtype == jnp.float32
    and (*kernel.shape[:2], *strides) != (1, 1, 1, 1)  # which is a matrix product already
    and not jax.export.is_symbolic_dim(inputs.shape[0])  # of an exported network
    and inputs.shape[0] * min(kernel.shape[2:]) >= _WORTHWHILE
  )
  if not by_patches:
    return lax.conv_general_dilated(inputs, kernel, strides, padding, **options)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
  return _convolve(inputs, kernel, tuple(strides), tuple(map(tuple, padding)))


Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(inputs: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads) -> jax.Array:
  return lax.conv_general_dilated(inputs, kernel, strides, pads, dimension_numbers=_IMAGES)


def _forward(
  inputs: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads
) -> tuple[jax.Array, tuple]:
  return _convolve(inputs, kernel, strides, pads), (inputs, kernel)


def _backward(
  strides: Strides, pads: Pads, kept: tuple, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  # Without the barrier XLA computes the layers next to this one once more for each reader.
  (inputs, kernel), gradient = lax.optimization_barrier((kept, gradient))
  of_inputs = jax.linear_transpose(lambda x: _convolve.fun(x, kernel, strides, pads), inputs)
  of_kernel = weight_gradient(inputs, gradient, kernel.shape[:2], pads, strides)
  return *of_inputs(gradient), of_kernel


_convolve.defvjp(_forward, _backward)


def weight_gradient(
  inputs: jax.Array,
  gradient: jax.Array,
  size: tuple[int, int],
  pads: Pads,
  strides: Strides = (1, 1),
) -> jax.Array:
  """The kernel's gradient as products of matrices, some images at a time.

  Entry [i, j, c, f] is the sum over images and positions of an input, shifted by (i, j), times an
  output's gradient. The shifted copies of whichever has the fewer channels are laid side by side;
  with strides those of the input are.

  Args:
    inputs: [batch, height, width, channels] of the convolution.
    gradient: [batch, height, width, features] of its output.
    size: the kernel's rows and columns.
    pads: zeros that the convolution adds (above, below), (left, right).
    strides: rows and columns that the kernel moves by.

  Returns:
    [rows, columns, channels, features].
  """
  batch, channels, features = len(inputs), inputs.shape[-1], gradient.shape[-1]
  shifts_inputs = channels <= features or strides != (1, 1)
  if shifts_inputs:
    fixed, shifted = gradient, inputs
  else:  # the output's gradient is shifted the other way, and over the input's positions
    fixed, shifted = inputs, gradient
    pads = tuple(
      (n - 1 - before, n - 1 - after) for n, (before, after) in zip(size, pads, strict=True)
    )
  height, width = fixed.shape[1:3]
  area = height * width
  patch = size[0] * size[1] * shifted.shape[-1]
  together = max(_PATCHES / (area * patch), _ROWS / area)
  together = max(n for n in range(1, max(1, round(together)) + 1) if batch % n == 0)

  down, along = strides
  by_rows = size[1] * shifted.shape[-1] >= _COLUMNS

  def add(total: jax.Array, images: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    fixed, shifted = images
    padded = lax.pad(shifted, 0.0, ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))

    def at(array: jax.Array, i: int) -> jax.Array:
      return array[:, i : i + down * height : down]

    beside = [padded[:, :, j : j + along * width : along] for j in range(size[1])]
    if by_rows:
      wide = jnp.concatenate(beside, axis=-1)
      patches = [at(wide, i) for i in range(size[0])]
    else:
      patches = [jnp.concatenate([at(x, i) for i in range(size[0]) for x in beside], axis=-1)]
    flat = fixed.reshape(-1, fixed.shape[-1])
    products = [flat.T @ x.reshape(len(flat), -1) for x in patches]
    return total + jnp.concatenate(products, axis=-1), None

  parts = [x.reshape(-1, together, *x.shape[1:]) for x in (fixed, shifted)]
  total, _ = lax.scan(add, jnp.zeros((fixed.shape[-1], patch), inputs.dtype), tuple(parts))
  total = total.reshape(-1, *size, shifted.shape[-1])
  if shifts_inputs:
    return total.transpose(1, 2, 3, 0)
  return total[:, ::-1, ::-1].transpose(1, 2, 0, 3)
