"""The convolutions and matrix products of a network, found by tracing it, and their operations.

Operations are counted as in the literature: two for each multiply-add, as many at the borders of an
image as inside, and none for batch norm, activations and pooling. Training costs the forward pass,
and as much again for each of the gradients of the weights and of the input; the first layer does
not need the latter.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.types import Variables


class Convolution(NamedTuple):
  """The shapes of a convolution: images [b, h, w, c], kernel [h, w, in, out], and its options."""

  images: tuple[int, ...]
  kernel: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  groups: int
  output: tuple[int, ...]
  dtype: str

  @property
  def flops(self) -> int:
    """Operations of the forward pass."""
    return 2 * math.prod(self.output) * math.prod(self.kernel[:-1])


class Product(NamedTuple):
  """A matrix product: the shape of its output, and its operations."""

  output: tuple[int, ...]
  flops: int


def of_model(model: nn.Module, shape: tuple[int, ...]) -> list[Convolution | Product]:
  """Return the operations of a forward pass in training, in order.

  Args:
    shape: of the images, [b, h, w, c].
  """
  model = model.clone(axis_name=None)
  variables = jax.eval_shape(
    lambda key: model.init(key, jnp.zeros((1, *shape[1:])), train=False), jax.random.key(0)
  )

  def forward(variables: Variables, images: jax.Array, key: jax.Array) -> Any:
    return model.apply(
      variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )

  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  return list(walk(jax.make_jaxpr(forward)(variables, images, jax.random.key(0)).jaxpr))


def of_training(forward: list[Convolution | Product]) -> int:
  """Return the operations of the forward and the backward pass of a network."""
  first, *others = forward
  return 2 * first.flops + 3 * sum(layer.flops for layer in others)


def walk(jaxpr: Any) -> Iterator[Convolution | Product]:
  """Yield the convolutions and matrix products of a jaxpr, including nested ones.

  Raises:
    ValueError: a convolution is dilated or has another layout than NHWC × HWIO.
  """
  for equation in jaxpr.eqns:
    shapes = [tuple(v.aval.shape) for v in equation.invars if hasattr(v.aval, "shape")]
    output = tuple(equation.outvars[0].aval.shape) if equation.outvars else ()
    if equation.primitive.name == "conv_general_dilated":
      yield _convolution(equation, shapes, output)
    elif equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      inner = math.prod(shapes[0][axis] for axis in contracted)
      yield Product(output, 2 * math.prod(output) * inner)
    for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
      nested = getattr(value, "jaxpr", value)  # a closed jaxpr holds an open one
      if hasattr(nested, "eqns"):
        yield from walk(nested)


def _convolution(
  equation: Any, shapes: list[tuple[int, ...]], output: tuple[int, ...]
) -> Convolution:
  params = equation.params
  numbers = params["dimension_numbers"]
  if numbers.lhs_spec != (0, 3, 1, 2) or numbers.rhs_spec != (3, 2, 0, 1):
    raise ValueError(f"a convolution that is not NHWC × HWIO: {numbers}")
  if any(d != 1 for d in (*params["lhs_dilation"], *params["rhs_dilation"])):
    raise ValueError("a dilated convolution")
  return Convolution(
    shapes[0],
    shapes[1],
    tuple(params["window_strides"]),
    tuple(map(tuple, params["padding"])),
    params["feature_group_count"],
    output,
    str(equation.invars[0].aval.dtype),
  )
