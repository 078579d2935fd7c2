"""models/convolution.py against lax.conv_general_dilated and its own gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax

from models import convolution
from models.convolution import Conv

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@pytest.fixture
def always(monkeypatch):
  monkeypatch.setattr(convolution, "_WORTHWHILE", 0)


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@settings(max_examples=25, deadline=None)
@given(
  batch=st.integers(1, 9),
  image=st.tuples(st.integers(5, 9), st.integers(5, 9)),
  channels=st.integers(1, 5),
  features=st.integers(1, 5),
  size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
  pads=st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2),
  strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@example(8, (8, 8), 2, 3, (3, 3), ((1, 1), (1, 1)), (1, 1))
@example(8, (8, 8), 2, 3, (3, 3), ((0, 1), (0, 1)), (2, 2))
@example(8, (8, 8), 3, 2, (3, 3), ((4, 0), (0, 4)), (1, 1))  # more zeros than the kernel is large
def test_the_weight_gradient_is_that_of_lax(batch, image, channels, features, size, pads, strides):
  inputs = draw(batch, *image, channels)
  rows, columns = (
    (n + sum(p) - s) // by + 1 for n, p, s, by in zip(image, pads, size, strides, strict=True)
  )
  gradient = draw(batch, rows, columns, features, seed=1)

  def conv(kernel):
    return lax.conv_general_dilated(inputs, kernel, strides, pads, dimension_numbers=DIMENSIONS)

  (expected,) = jax.linear_transpose(conv, jnp.zeros((*size, channels, features)))(gradient)
  found = convolution.weight_gradient(inputs, gradient, size, pads, strides)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "features"), [(3, 8), (8, 3)])
@pytest.mark.parametrize("images", [1, 7, 12])
def test_images_are_taken_some_at_a_time_whatever_their_number(
  monkeypatch, channels, features, images
):
  monkeypatch.setattr(convolution, "_PATCHES", 4 * 36 * 27)  # four images of 6×6
  monkeypatch.setattr(convolution, "_ROWS", 1)
  inputs, gradient = draw(images, 6, 6, channels), draw(images, 6, 6, features, seed=1)
  pads = ((1, 1), (1, 1))
  loops = str(
    jax.make_jaxpr(lambda x, y: convolution.weight_gradient(x, y, (3, 3), pads))(inputs, gradient)
  )
  assert f"length={ {1: 1, 7: 7, 12: 3}[images] }" in loops
  one_by_one = [
    convolution.weight_gradient(inputs[i : i + 1], gradient[i : i + 1], (3, 3), pads)
    for i in range(images)
  ]
  found = convolution.weight_gradient(inputs, gradient, (3, 3), pads)
  np.testing.assert_allclose(found, sum(one_by_one), rtol=1e-4, atol=1e-4)


def value_and_gradients(layer, variables, inputs):
  def total(variables, inputs):
    return jnp.sum(jnp.sin(layer.apply(variables, inputs)))

  return jax.value_and_grad(total, argnums=(0, 1))(variables, inputs)


@pytest.mark.parametrize(
  "options",
  [
    {"kernel_size": (3, 3)},
    {"kernel_size": (5, 4), "padding": "VALID"},
    {"kernel_size": (3, 3), "padding": 1, "use_bias": False},
    {"kernel_size": (2, 2)},  # SAME is one-sided
    {"kernel_size": (3, 3), "strides": 2},
    {"kernel_size": (2, 3), "strides": (3, 1), "padding": "VALID"},
    {"kernel_size": (1, 1), "strides": 2},
    {"kernel_size": (3, 3), "kernel_dilation": 2},
    {"kernel_size": (3, 3), "feature_group_count": 2},
    {"kernel_size": (1, 1)},
    {"kernel_size": (3, 3), "dtype": jnp.bfloat16},
  ],
  ids=str,
)
@pytest.mark.usefixtures("always")
def test_the_layer_is_flax_s_in_value_and_gradients(options):
  inputs = draw(4, 8, 9, 4)
  plain, ours = nn.Conv(6, **options), Conv(6, **options)
  variables = plain.init(jax.random.key(0), inputs)
  jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(0), inputs), variables)
  expected = value_and_gradients(plain, variables, inputs)
  found = value_and_gradients(ours, variables, inputs)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


@pytest.mark.usefixtures("always")
def test_several_seeds_have_each_their_own_gradient():
  inputs, kernels = draw(2, 4, 8, 8, 3), draw(2, 3, 3, 3, 5, seed=1)

  def total(conv):
    return lambda kernel, x: jnp.sum(jnp.sin(conv(x, kernel, (1, 1), "SAME")))

  def plain(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)

  found = jax.vmap(jax.grad(total(convolution.convolve)))(kernels, inputs)
  expected = jax.vmap(jax.grad(total(plain)))(kernels, inputs)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("batch", "convolutions"), [(64, 2), (2, 3)])
def test_on_cpu_the_gradient_of_many_images_weights_is_no_convolution(batch, convolutions):
  inputs, layer = draw(batch, 8, 8, 32), Conv(40, (3, 3))
  variables = layer.init(jax.random.key(0), inputs)
  traced = str(jax.make_jaxpr(lambda v, x: value_and_gradients(layer, v, x))(variables, inputs))
  assert traced.count("conv_general_dilated[") == convolutions
  assert ("scan[" in traced) == (convolutions == 2)
