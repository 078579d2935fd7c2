"""The C++ convolutions against NumPy, and in what JAX does with functions."""

import functools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from jax import lax

from cifar_jax.kernels import convolution

DTYPES = [
  pytest.param(
    dtype,
    marks=pytest.mark.skipif(
      convolution.instruction_set(jnp.dtype(dtype)) is None, reason="no kernels on this machine"
    ),
  )
  for dtype in ("float32", "bfloat16")
]


@st.composite
def shapes(draw):
  """(x's shape, w's shape, strides, padding) of a convolution with at least one output."""
  size = st.integers(1, 9)
  kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
  padding = tuple(draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in kernel)
  image = [max(draw(size), k - sum(pad)) for k, pad in zip(kernel, padding, strict=True)]
  channels = st.sampled_from([1, 2, 3, 16, 31, 32, 40, 65])
  batch, inputs, filters = draw(st.sampled_from([1, 2, 7, 16, 33])), draw(channels), draw(channels)
  strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
  return (batch, *image, inputs), (*kernel, inputs, filters), strides, padding


# The weight gradient packs dy before everything else.
LARGE_WEIGHTS = (33, 5, 3, 70), (3, 2, 70, 1500), (2, 1), ((1, 1), (0, 1))


def plain(x, w, strides, padding):
  numbers = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=numbers)


def random(shape, dtype, seed):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def taps(w_shape, y_shape, strides):
  """Each tap's index, and which pixels of the padded images it reads."""
  for ky, kx in np.ndindex(*w_shape[:2]):
    rows = slice(ky, ky + (y_shape[1] - 1) * strides[0] + 1, strides[0])
    columns = slice(kx, kx + (y_shape[2] - 1) * strides[1] + 1, strides[1])
    yield (ky, kx), (slice(None), rows, columns)


def reference(x, w, bias, dy, strides, padding):
  """The convolution and its three gradients in NumPy's float64, a matrix product for each tap."""
  (top, bottom), (left, right) = padding
  padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
  y, dx, dw = np.zeros(dy.shape) + bias, np.zeros(padded.shape), np.zeros(w.shape)
  for tap, read in taps(w.shape, dy.shape, strides):
    y += padded[read] @ w[tap]
    dx[read] += dy @ w[tap].T
    dw[tap] = np.tensordot(padded[read], dy, axes=[(0, 1, 2), (0, 1, 2)])
  return y, dx[:, top : top + x.shape[1], left : left + x.shape[2]], dw, dy.sum((0, 1, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(shape=shapes())
@example(shape=LARGE_WEIGHTS)
def test_value_and_gradients(dtype, shape):
  x_shape, w_shape, strides, padding = shape
  x, w = random(x_shape, dtype, 0), random(w_shape, dtype, 1)
  assert convolution.serves(x, w)
  y_shape = jax.eval_shape(lambda x, w: plain(x, w, strides, padding), x, w).shape
  dy, bias = random(y_shape, dtype, 2), random(y_shape[3:], "float32", 3)

  @jax.jit
  def ours(x, w, bias, dy):
    y, pullback = jax.vjp(lambda *a: convolution.convolve(*a, strides, padding), x, w, bias)
    return (y, *pullback(dy))

  operands = [np.float64(array) for array in (x, w, bias, dy)]
  expected = reference(*operands, strides, padding)
  # What the products add up to without their signs bounds the error of float32 sums: n terms, each
  # rounded at most n times by 2^-24. A product of two bfloat16 is exact. The result is rounded once
  # more, by half of the last of its 8 bits: 2^-8 of it at most.
  magnitudes = reference(*map(np.abs, operands), strides, padding)
  pixels = np.prod(y_shape[:3])
  terms = [np.prod(w_shape[:3]) + 1, np.prod(w_shape[:2]) * w_shape[3], pixels, pixels]
  rounding = 2.0**-8 if dtype == "bfloat16" else 2.0**-24
  for got, want, magnitude, n in zip(
    ours(x, w, bias, dy), expected, magnitudes, terms, strict=True
  ):
    limit = n * 2.0**-24 * magnitude
    limit += rounding * (np.abs(want) + limit)
    assert np.all(np.abs(np.float64(got) - want) <= limit)


BIAS = np.arange(9, dtype=np.float32)


@pytest.fixture(params=DTYPES)
def operands(request):
  """Two stacked x and w, and a function of one of each that has gradients of any order."""
  x = random((2, 5, 8, 7, 6), request.param, 0)
  w = random((2, 3, 3, 6, 9), request.param, 1)

  def function(x, w):
    y = convolution.convolve(x, w, BIAS, (2, 1), ((1, 1), (0, 2)))
    return jnp.sum(jnp.sin(y.astype(jnp.float32)))

  return x, w, function


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)])
def test_vmap_gives_each_ones_bits(operands, axes):
  x, w, function = operands
  x, w = (a if axis == 0 else a[0] for a, axis in zip((x, w), axes, strict=True))
  gradients = jax.grad(function, (0, 1))
  together = jax.jit(jax.vmap(gradients, axes))(x, w)
  for i in range(2):
    alone = jax.jit(gradients)(x if axes[0] is None else x[i], w if axes[1] is None else w[i])
    for a, b in zip(together, alone, strict=True):
      np.testing.assert_array_equal(a[i], b)


def test_vmap_twice(operands):
  x, w, _ = operands

  def function(x, w):
    return convolution.convolve(x, w, BIAS, (1, 1), ((0, 0), (0, 0)))

  both = jax.vmap(jax.vmap(function, (0, None)), (None, 0))(x, w)
  alone = [[function(x[j], w[i]) for j in range(2)] for i in range(2)]
  np.testing.assert_array_equal(both, alone)


def test_checkpoint_gives_the_same_bits(operands):
  x, w, function = operands
  kept = jax.jit(jax.grad(function, (0, 1)))(x[0], w[0])
  computed_again = jax.jit(jax.grad(jax.checkpoint(function), (0, 1)))(x[0], w[0])
  for a, b in zip(kept, computed_again, strict=True):
    np.testing.assert_array_equal(a, b)


def test_pmap_gives_each_ones_bits(operands):
  x, w, function = operands
  gradients = jax.grad(function, (0, 1))
  together = jax.pmap(gradients, devices=jax.devices()[:2])(x, w)
  for i in range(2):
    for a, b in zip(together, jax.jit(gradients)(x[i], w[i]), strict=True):
      np.testing.assert_array_equal(a[i], b)


@pytest.mark.parametrize("dtype", DTYPES[:1])
def test_second_derivatives_are_xlas(dtype):
  x, w = random((3, 5, 6, 4), dtype, 0), random((3, 2, 4, 5), dtype, 1)
  strides, padding = (2, 1), ((1, 1), (0, 1))

  def squared_gradients(convolve, *operands):
    def function(*operands):
      return jnp.sum(jnp.sin(convolve(*operands, strides, padding)))

    return sum(jnp.sum(g**2) for g in jax.grad(function, (0, 1, 2))(*operands))

  def plain_with_bias(x, w, bias, strides, padding):
    return plain(x, w, strides, padding) + bias

  ours, theirs = (
    jax.jit(jax.grad(functools.partial(squared_gradients, f), (0, 1, 2)))(x, w, BIAS[:5])
    for f in (convolution.convolve, plain_with_bias)
  )
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_symbolic_batches_and_other_convolutions_are_left_to_xla():
  x, w = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 4))
  (n,) = jax.export.symbolic_shape("n")
  assert not convolution.serves(jax.ShapeDtypeStruct((n, 8, 8, 4), x.dtype), w)
  assert not convolution.serves(x, jnp.zeros((3, 3, 2, 4)))  # feature groups
  assert not convolution.serves(x[:0], w)
  assert not convolution.serves(x.astype(jnp.float16), w.astype(jnp.float16))
  assert not convolution.serves(x, w.astype(jnp.bfloat16))


_INDEPENDENT_CONVOLUTIONS = """
  import hashlib, jax, jax.numpy as jnp
  from cifar_jax.kernels import convolution

  @jax.jit
  def step(xs, ws, bias=jnp.ones(36)):
    def loss(xs, ws):
      padding = ((1, 1), (1, 1))
      y = [convolution.convolve(x, w, bias, (1, 1), padding) for x, w in zip(xs, ws)]
      return sum(jnp.mean(jnp.sin(y.astype(jnp.float32))) for y in y)
    return jax.grad(loss, (0, 1))(xs, ws)

  for dtype in (jnp.float32, jnp.bfloat16):
    if convolution.instruction_set(jnp.dtype(dtype)) is None:
      continue
    xs = [jax.random.normal(jax.random.key(i), (40, 8, 8, 40)).astype(dtype) for i in range(4)]
    ws = [jax.random.normal(jax.random.key(i), (3, 3, 40, 36)).astype(dtype) for i in range(4)]
    for _ in range(100):
      results = step(xs, ws)
    # Rows so wide that how many fit into the cache depends on how many channels a thread has.
    wide = jax.random.normal(jax.random.key(4), (2, 8, 24, 160)).astype(dtype)
    few = jax.random.normal(jax.random.key(4), (3, 3, 160, 9)).astype(dtype)
    arrays = jax.device_get(jax.tree.leaves((results, step([wide], [few], jnp.ones(9)))))
    print(hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest())
"""


@pytest.mark.skipif(
  convolution.instruction_set(jnp.dtype("float32")) is None, reason="no kernels on this machine"
)
def test_same_bits_with_any_number_of_threads_and_no_deadlock():
  """Convolutions that run at once share XLA's pool; one that waits for it would never end."""

  def digests(threads):
    environment = os.environ | {"NPROC": str(threads), "XLA_FLAGS": ""}
    program = textwrap.dedent(_INDEPENDENT_CONVOLUTIONS)
    command = [sys.executable, "-c", program]
    return subprocess.run(
      command, env=environment, capture_output=True, text=True, timeout=300, check=True
    ).stdout.split()

  assert digests(1) == digests(2) == digests(3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("height", [2, 8])
def test_the_gradient_of_a_result_without_pixels_is_zero(dtype, height):
  padding = ((0, 0), (0, 0))
  w = random((3, 3, 3, 5), dtype, 1)

  def gradients(x, w, bias):
    y = convolution.convolve(x, w, bias, (1, 1), padding)
    return y.shape, *jax.grad(
      lambda w, bias: jnp.sum(convolution.convolve(x, w, bias, (1, 1), padding)), (0, 1)
    )(w, bias)

  bias = jnp.ones(5, jnp.float32)
  shape, dw, dbias = gradients(random((4, height, 8, 3), dtype, 0), w, bias)
  assert shape == (4, height - 2, 6, 5)
  assert bool(jnp.any(dw)) == bool(jnp.any(dbias)) == (height > 2)


@pytest.mark.parametrize("bias", [jnp.ones(5, jnp.bfloat16), jnp.ones(1, jnp.float32)])
def test_a_bias_that_does_not_fit_is_refused(bias):
  x, w = random((2, 4, 4, 3), "float32", 0), random((3, 3, 3, 5), "float32", 1)
  with pytest.raises(Exception, match="bias must be float32, one for each filter"):
    convolution.convolve(x, w, bias, (1, 1), ((0, 0), (0, 0))).block_until_ready()
