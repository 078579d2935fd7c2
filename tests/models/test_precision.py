"""Float32 means float32 on accelerators too, which by default round the operands of products."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import models

PRODUCTS = ("conv_general_dilated", "dot_general")


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
  """Pretend an accelerator, on which the models use XLA's convolutions."""
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


def products(jaxpr):
  """Yield the equations of all products in a program."""
  for equation in jaxpr.eqns:
    if equation.primitive.name in PRODUCTS:
      yield equation
    for value in equation.params.values():
      for inner in value if isinstance(value, tuple | list) else (value,):
        if inner := getattr(inner, "jaxpr", inner if hasattr(inner, "eqns") else None):
          yield from products(inner)


def trace(name, dtype):
  """Return the products of a network and its gradient, by the type of their operands."""
  model = models.create({"name": name}, 10, dtype=jnp.dtype(dtype))
  images = jnp.zeros((2, 32, 32, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

  def loss(params, others):
    rngs = {"dropout": jax.random.key(0)}
    logits, _ = model.apply(
      {"params": params, **others}, images, train=True, rngs=rngs, mutable=["batch_stats"]
    )
    return logits.sum()

  others = {name: tree for name, tree in variables.items() if name != "params"}
  program = jax.make_jaxpr(jax.grad(loss))(variables["params"], others)
  by_type = {}
  for equation in products(program.jaxpr):
    by_type.setdefault(equation.invars[0].aval.dtype.name, []).append(equation.params["precision"])
  return by_type


@pytest.mark.parametrize("name", ["airbench94", "lenet2", "simple_cnn", "resnet18", "vgg16"])
def test_products_of_float32_are_not_rounded(name):
  highest = (lax.Precision.HIGHEST,) * 2
  in_float32 = trace(name, "float32")
  assert list(in_float32) == ["float32"] and set(in_float32["float32"]) == {highest}
  in_bfloat16 = trace(name, "bfloat16")
  assert set(in_bfloat16) == {"float32", "bfloat16"}
  assert set(in_bfloat16["float32"]) == {highest}  # the head; airbench's whitening
