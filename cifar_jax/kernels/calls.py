"""Functions that a kernel computes on CPU, and JAX's operations on other platforms."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cifar_jax.kernels import build, convolution


def has_kernel(x: jax.Array, handlers: tuple[str, ...]) -> bool:
  """Return whether the library has `handlers`, and passes over data like x on this processor.

  It has none for sizes that are symbols, as in a program that is exported for any batch.
  """
  return (
    x.dtype in (jnp.bfloat16, jnp.float32)
    and all(isinstance(size, int) and size > 0 for size in x.shape)
    and build.register(handlers)
    and convolution.instruction_set(jnp.dtype(jnp.float32)) is not None
  )


def with_kernel(handler: str) -> Callable[[Callable], Callable]:
  """Return a decorator that lets an FFI handler compute a function on CPU.

  The function takes arrays, and integers by keyword, which are the handler's attributes. Its
  formula gives shapes, the gradient, and the value on other platforms. jax.vmap hands the handler
  arrays with a leading axis each. The handler must be registered before.
  """

  def decorate(formula: Callable) -> Callable:
    def call(*operands: jax.Array, **attributes: int) -> Any:
      plain = functools.partial(formula, **attributes)

      def kernel(*operands: jax.Array) -> Any:
        results = jax.eval_shape(plain, *operands)
        function = jax.ffi.ffi_call(handler, results, vmap_method="broadcast_all")
        return function(*operands, **{k: np.int64(v) for k, v in attributes.items()})

      @jax.custom_vjp
      def function(*operands: jax.Array) -> Any:
        return lax.platform_dependent(*operands, cpu=kernel, default=plain)

      function.defvjp(
        lambda *operands: (function(*operands), operands),
        lambda operands, cotangents: jax.vjp(plain, *operands)[1](cotangents),
      )
      return function(*operands)

    return call

  return decorate
