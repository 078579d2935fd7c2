"""Dropout by this package's C++ kernels, with the masks that `jax.random` draws.

XLA:CPU passes over the array several times for each group of Threefry's rounds, and keeps the mask
for the gradient. The kernel draws the same bits in registers, again for the gradient.
"""

import functools

import jax
import jax.numpy as jnp

from cifar_jax.kernels import build, convolution
from cifar_jax.kernels.calls import with_kernel


def _has_kernel(x: jax.Array) -> bool:
  return (
    jax.default_backend() == "cpu"
    and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]  # draws these bits
    and x.dtype in (jnp.bfloat16, jnp.float32)
    and all(isinstance(size, int) and size > 0 for size in x.shape)
    and x.size // x.shape[0] < 2**32
    and build.register(("dropout_forward",))
    and convolution.instruction_set(jnp.dtype(jnp.float32)) is not None
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dropout(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
  """Return x with each element 0 with probability `rate`, else times 1 / (1 - rate).

  Args:
    x: [batch, ...].
    keys: [batch, 2] uint32, the data of a Threefry key for each example.
    rate: in [0, 1).
  """
  drop = _drop_by_kernel if _has_kernel(x) else _drop
  return drop(x, keys, jnp.float32(1 - rate))


def _forward(x: jax.Array, keys: jax.Array, rate: float) -> tuple[jax.Array, jax.Array]:
  return dropout(x, keys, rate), keys


def _backward(rate: float, keys: jax.Array, dy: jax.Array) -> tuple[jax.Array, None]:
  return dropout(dy, keys, rate), None


dropout.defvjp(_forward, _backward)


def _drop(x: jax.Array, keys: jax.Array, keep: jax.Array) -> jax.Array:
  def is_kept(key: jax.Array) -> jax.Array:
    return jax.random.bernoulli(jax.random.wrap_key_data(key), keep, x.shape[1:])

  scaled = (x.astype(jnp.float32) * (1 / keep)).astype(x.dtype)
  return jnp.where(jax.vmap(is_kept)(keys), scaled, 0)


_drop_by_kernel = with_kernel("dropout_forward")(_drop)
