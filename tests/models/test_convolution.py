"""models/convolution.py: the numbers of nn.Conv, and no activation computed twice on CPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.convolution import Conv


def loss(conv, x, scale, kernels):
  """Return the loss of two layers of convolution, scaling and ReLU."""
  for kernel in kernels:
    layer = conv(kernel.shape[-1], (3, 3), use_bias=False)
    x = nn.relu(layer.apply({"params": {"kernel": kernel}}, x) * scale + 0.1)
  return jnp.mean(x**2)


@pytest.fixture(scope="module")
def arguments():
  keys = jax.random.split(jax.random.key(0), 4)
  x, scale = jax.random.normal(keys[0], (4, 8, 8, 6)), 1 + jax.random.uniform(keys[1], (6,))
  return x, scale, [jax.random.normal(key, (3, 3, 6, 6)) for key in keys[2:]]


def compile_gradients(conv, arguments):
  both = jax.value_and_grad(lambda *a: loss(conv, *a), (0, 1, 2))
  return jax.jit(both).lower(*arguments).compile()


def test_loss_and_gradients_are_those_of_the_plain_convolution(arguments):
  ours, plain = (compile_gradients(conv, arguments)(*arguments) for conv in (Conv, nn.Conv))
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max())


def test_activations_are_computed_once(arguments):
  # Where XLA fuses an activation into several users, the program holds one copy for each of them.
  programs = [compile_gradients(conv, arguments).as_text() for conv in (Conv, nn.Conv)]
  ours, plain = (program.count(" maximum(") for program in programs)
  assert 0 < ours < plain


def test_a_batch_size_that_is_symbolic():
  shape = jax.export.symbolic_shape("n, 8, 8, 3")
  variables = Conv(4, (3, 3)).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  function = jax.jit(lambda x: Conv(4, (3, 3)).apply(variables, x))
  exported = jax.export.export(function)(jax.ShapeDtypeStruct(shape, jnp.float32))
  assert exported.call(jnp.ones((5, 8, 8, 3))).shape == (5, 8, 8, 4)


def test_programs_for_accelerators_have_no_cpu_kernels(arguments):
  both = jax.jit(jax.grad(lambda *a: loss(Conv, *a), (0, 1, 2)))
  program = both.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
  assert "custom_call" not in program
  assert program.count("stablehlo.convolution") == 3 * len(arguments[2])  # each with its gradients
