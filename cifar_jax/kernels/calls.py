"""Functions that a kernel computes on CPU, and JAX's operations on other platforms."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cifar_jax.kernels import build, convolution


def has_kernel(x: jax.Array, handlers: tuple[str, ...]) -> bool:
  """Return whether the library has `handlers`, and kernels for data like x on this processor.

  There are none for symbolic sizes, as in a program exported for any batch size.
  """
  return (
    x.dtype in (jnp.bfloat16, jnp.float32)
    and all(isinstance(size, int) and size > 0 for size in x.shape)
    and build.register(handlers)
    and convolution.instruction_set(jnp.dtype(jnp.float32)) is not None
  )


def with_kernel(handler: str) -> Callable[[Callable], Callable]:
  """Return a decorator that lets an FFI handler compute a function on CPU.

  The decorated function takes arrays, and integers by keyword, which become the handler's
  attributes. Its own code gives the shapes, the gradient, and the value on other platforms. Under
  jax.vmap the handler gets every array with a leading axis. Register the handler first.
  """

  def decorate(formula: Callable) -> Callable:
    def call(*operands: jax.Array, **attributes: int) -> Any:
      plain = functools.partial(formula, **attributes)
      kernel = functools.partial(_call_handler, handler, plain, attributes)
      choose = functools.partial(lax.platform_dependent, cpu=kernel, default=plain)
      return _with_gradient_of(plain, choose)(*operands)

    return call

  return decorate


def _call_handler(
  handler: str, formula: Callable, attributes: Mapping[str, int], *operands: jax.Array
) -> Any:
  """Call an FFI handler; the formula gives the shapes and types of its results."""
  results = jax.eval_shape(formula, *operands)
  function = jax.ffi.ffi_call(handler, results, vmap_method="broadcast_all")
  return function(*operands, **{name: np.int64(value) for name, value in attributes.items()})


def _with_gradient_of(formula: Callable, function: Callable) -> Callable:
  """Return `function` with the gradient of `formula`."""
  differentiable = jax.custom_vjp(function)
  differentiable.defvjp(
    lambda *operands: (differentiable(*operands), operands),
    lambda operands, cotangents: jax.vjp(formula, *operands)[1](cotangents),
  )
  return differentiable
