"""Batch norm and its kernels against Flax's, and in what JAX does with functions."""

import functools
import os
import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cifar_jax.kernels import build, normalization
from models.normalization import BatchNorm, activate

ACTIVATIONS = {
  "relu": nn.relu,
  "elu": nn.elu,
  "gelu": functools.partial(nn.gelu, approximate=False),
}
# Activation, and whether there is a residual.
PARTS = [(name, False) for name in ("none", "relu_before", *ACTIVATIONS)]
PARTS += [("none", True), ("relu", True)]  # others with a residual are XLA's, each rounded
OPTIONS = {"use_running_average": False, "momentum": 0.9, "epsilon": 1e-3}
has_kernels = pytest.mark.skipif(
  not normalization.serves(jnp.zeros((2, 2))), reason="no kernels on this machine"
)


class Plain(nn.Module):
  """What BatchNorm is to equal, by Flax."""

  activation: str
  dtype: jax.typing.DTypeLike

  @nn.compact
  def __call__(self, x, residual=None):
    x = nn.relu(x) if self.activation == "relu_before" else x
    y = nn.BatchNorm(**OPTIONS, dtype=self.dtype, name="norm")(x)
    y = y if residual is None else y + residual
    return ACTIVATIONS.get(self.activation, lambda y: y)(y)


class Ours(nn.Module):
  """BatchNorm under the name it has in Plain."""

  activation: str
  dtype: jax.typing.DTypeLike

  @nn.compact
  def __call__(self, x, residual=None):
    norm = BatchNorm(**OPTIONS, dtype=self.dtype, activation=self.activation, name="norm")
    return norm(x, residual)


def random(shape, dtype=np.float32, seed=0):
  values = np.random.default_rng(seed).normal(0.5, 1.0, shape)
  return jnp.asarray(values.astype(np.float32).astype(dtype))


def make_variables(channels):
  params = {"scale": random(channels, seed=1), "bias": random(channels, seed=2)}
  stats = {"mean": random(channels, seed=3), "var": random(channels, seed=4) ** 2}
  return {"params": {"norm": params}, "batch_stats": {"norm": stats}}


def value_and_gradients(module, variables, cotangent, *inputs):
  """Return the result, the new statistics, and the gradients of parameters and inputs."""

  def function(params, *inputs):
    variables_with_params = variables | {"params": params}
    return module.apply(variables_with_params, *inputs, mutable=["batch_stats"])

  result, pullback, stats = jax.vjp(function, variables["params"], *inputs, has_aux=True)
  return result, stats, pullback(cotangent)


shapes = st.tuples(
  st.sampled_from([3, 16, 33, 600]),
  st.integers(2, 5),
  st.integers(2, 5),
  st.sampled_from([1, 3, 16, 24, 64, 65, 144]),
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@settings(max_examples=16, deadline=None, derandomize=True, phases=[Phase.generate])
@given(shape=shapes, parts=st.sampled_from(PARTS))
def test_values_gradients_and_statistics_are_flaxs(dtype, shape, parts):
  activation, has_residual = parts
  inputs = [random(shape, dtype, seed=5 + i) for i in range(1 + has_residual)]
  variables = make_variables(shape[-1])
  # Rounding decides whether the ReLU lets a value near 0 pass: its gradient is not compared.
  plain = functools.partial(Plain("none", jnp.float32).apply, mutable=["batch_stats"])
  before_relu, _ = jax.jit(plain)(variables, *inputs)
  is_near = (np.abs(before_relu) < 1e-3) & (activation == "relu")
  cotangent = jnp.asarray(np.where(is_near, 0, random(shape, seed=7)), dtype)
  gradients = functools.partial(value_and_gradients, Ours(activation, jnp.dtype(dtype)))
  ours = jax.jit(gradients)(variables, cotangent, *inputs)
  with jax.enable_x64(True):
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), (variables, cotangent, *inputs))
    exact_gradients = functools.partial(value_and_gradients, Plain(activation, jnp.float64))
    theirs = jax.device_get(jax.jit(exact_gradients)(*exact))
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    # One rounding of a result with 8 bits. A sum's terms are about 1, and each is rounded.
    rounding = 2.0**-8 * np.abs(want) if got.dtype == jnp.bfloat16 else 0
    summed = 2.0**-24 * inputs[0].size / shape[-1] if got.ndim == 1 else 0
    assert np.all(np.abs(np.float64(got) - want) <= rounding + summed + 1e-5 * np.abs(want).max())


def test_moving_statistics_normalise_as_flaxs():
  x, variables = random((4, 3, 3, 5)), make_variables(5)["params"]["norm"]
  stats = make_variables(5)["batch_stats"]["norm"]
  variables = {"params": variables, "batch_stats": stats}
  options = OPTIONS | {"use_running_average": True}
  ours, theirs = (norm(**options).apply(variables, x) for norm in (BatchNorm, nn.BatchNorm))
  np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@has_kernels
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_flaxs(name, dtype):
  x = jnp.linspace(-12, 12, 4001).astype(dtype).reshape(-1, 1)
  cotangent = random(x.shape, dtype)
  ours, theirs = (
    (y, *pullback(cotangent.astype(y.dtype)))
    for y, pullback in (
      jax.vjp(functools.partial(activate, activation=name), x),
      jax.vjp(ACTIVATIONS[name], x.astype(jnp.float32)),
    )
  )
  assert not np.isfinite(activate(jnp.full((3, 1), jnp.nan, dtype), name)).any()
  for got, want in zip(ours, theirs, strict=True):
    rounding = 2.0**-8 * np.abs(want) if got.dtype == jnp.bfloat16 else 0
    assert np.all(np.abs(np.float32(got) - want) <= rounding + 1e-6)


@has_kernels
def test_after_an_addition_only_relu_is_computed(operands):
  x, residual, scale, bias = (array[0] for array in operands)
  with pytest.raises(jax.errors.JaxRuntimeError, match="only the ReLU"):
    normalization.batch_norm(x, residual, scale, bias, 1e-3, "gelu", None)


def test_first_variables_are_flaxs():
  x, key = random((4, 3, 3, 5)), jax.random.key(0)
  ours, theirs = (module(**OPTIONS).init(key, x) for module in (BatchNorm, nn.BatchNorm))
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_array_equal(a, b)
  unscaled = BatchNorm(**OPTIONS, use_scale=False).init(key, x)
  assert set(unscaled["params"]) == {"bias"}


def batch_norm(x, residual, scale, bias, axis_name=None):
  return normalization.batch_norm(x, residual, scale, bias, 1e-3, "relu", axis_name)


def loss(axis_name, *operands):
  y, mean, variance = batch_norm(*operands, axis_name)
  return jnp.sum(jnp.sin(y)) + jnp.sum(mean * variance)


@pytest.fixture
def operands():
  """x, residual, scale and bias of two batch norms, stacked."""
  return [random((2, *shape), seed=i) for i, shape in enumerate([(9, 4, 3, 5)] * 2 + [(5,)] * 2)]


@has_kernels
def test_vmap_gives_each_ones_bits(operands):
  gradients = jax.grad(functools.partial(loss, None), (0, 1, 2, 3))
  operands[2] = operands[2][0]
  together = jax.jit(jax.vmap(gradients, (0, 0, None, 0)))(*operands)
  for i in range(2):
    x, residual, scale, bias = operands
    alone = jax.jit(gradients)(x[i], residual[i], scale, bias[i])
    for a, b in zip(together, alone, strict=True):
      np.testing.assert_array_equal(a[i], b)


@has_kernels
def test_devices_share_statistics(operands):
  """Two devices with half of the batch each: value and gradients of one with all of it."""
  x, residual, (scale, _), (bias, _) = operands
  gradients = jax.value_and_grad(functools.partial(loss, "batch"), (0, 1, 2, 3))
  shared = jax.pmap(gradients, "batch", in_axes=(0, 0, None, None), devices=jax.devices()[:2])
  _, (dx, dr, dscale, dbias) = shared(x, residual, scale, bias)

  def twice(x, residual, scale, bias):  # the statistics count once on each device
    y, mean, variance = batch_norm(x, residual, scale, bias)
    return jnp.sum(jnp.sin(y)) + 2 * jnp.sum(mean * variance)

  whole = [a.reshape(-1, *a.shape[2:]) for a in (x, residual)]
  expected = jax.grad(twice, (0, 1, 2, 3))(*whole, scale, bias)
  got = [a.reshape(-1, *a.shape[2:]) for a in (dx, dr)] + [dscale.sum(0), dbias.sum(0)]
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@has_kernels
def test_second_derivatives_are_xlas(operands):
  def squared_gradients(module, x):
    variables = make_variables(5)
    y, _, (params, dx, dr) = value_and_gradients(module, variables, jnp.cos(x), x, operands[1][0])
    return jnp.sum(dx**2) + jnp.sum(dr * y) + sum(jnp.sum(g**2) for g in jax.tree.leaves(params))

  ours, theirs = (
    jax.jit(jax.grad(functools.partial(squared_gradients, module("relu", jnp.float32))))(
      operands[0][0]
    )
    for module in (Ours, Plain)
  )
  np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


def test_without_kernels_the_result_is_flaxs(monkeypatch):
  monkeypatch.setattr(build, "register", lambda handlers: False)
  test_values_gradients_and_statistics_are_flaxs.hypothesis.inner_test(
    "float32", (16, 3, 3, 5), ("relu_before", True)
  )


_INDEPENDENT_NORMS = """
  import hashlib, jax, jax.numpy as jnp
  from cifar_jax.kernels import normalization

  @jax.jit
  def step(xs):
    def loss(xs):
      scale = jnp.arange(xs[0].shape[-1], dtype=jnp.float32)
      results = [normalization.batch_norm(x, None, scale, scale, 1e-3, "relu", None) for x in xs]
      return sum(jnp.mean(jnp.sin(y.astype(jnp.float32))) for y, _, _ in results)
    return jax.grad(loss)(xs)

  for dtype in (jnp.float32, jnp.bfloat16):
    xs = [jax.random.normal(jax.random.key(i), (200, 9, 9, 40)).astype(dtype) for i in range(4)]
    assert normalization.serves(xs[0])
    for _ in range(20):
      results = step(xs)
    print(hashlib.sha256(b"".join(a.tobytes() for a in jax.device_get(results))).hexdigest())
"""


@has_kernels
def test_same_bits_with_any_number_of_threads():
  def digests(threads):
    environment = os.environ | {"NPROC": str(threads), "XLA_FLAGS": ""}
    command = [sys.executable, "-c", textwrap.dedent(_INDEPENDENT_NORMS)]
    return subprocess.run(
      command, env=environment, capture_output=True, text=True, timeout=300, check=True
    ).stdout.split()

  assert digests(1) == digests(2)


def test_parameters_and_statistics_may_be_of_another_type():
  x = jax.random.normal(jax.random.key(0), (64, 8))
  for moving in (False, True):
    layer = BatchNorm(use_running_average=moving)
    variables = jax.tree.map(lambda leaf: leaf + 0.5, layer.init(jax.random.key(1), x))
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)

    def apply(variables, layer=layer):
      return layer.apply(variables, x, mutable=["batch_stats"])[0]

    # Moving statistics make a factor in bfloat16.
    np.testing.assert_allclose(apply(rounded), apply(variables), rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("name", ["relu", "elu"])
def test_gradients_at_infinity_are_those_of_jax(name):
  x = jnp.array([[np.inf, -np.inf, 1.0, -1.0]])
  ours, expected = (
    jax.grad(lambda x, f=f: jnp.sum(f(x)))(x)
    for f in (lambda x: activate(x, name), ACTIVATIONS[name])
  )
  np.testing.assert_allclose(ours, expected, rtol=1e-6)
