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
