"""Dropout by this package's C++ kernels, with the masks that `jax.random` draws.

XLA:CPU passes over the array several times for each group of Threefry's rounds, and keeps the mask
for the gradient. The kernel draws the same bits in registers, and once more for the gradient.
"""

import jax
import jax.numpy as jnp

from cifar_jax.kernels.calls import has_kernel, with_kernel


def _has_kernel(x: jax.Array, keys: jax.Array) -> bool:
  return (
    jax.default_backend() == "cpu"
    and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]  # draws the same bits
    and has_kernel(x, ("dropout_forward",))
    and keys.shape == (x.shape[0], 2)  # Threefry's keys
    and x.size // x.shape[0] < 2**32
  )


def dropout(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
  """Zero each element of x with probability `rate`, and multiply the rest by 1 / (1 - rate).

  Args:
    x: [batch, ...].
    keys: [batch, 2] uint32, the data of a Threefry key for each example.
    rate: in [0, 1).
  """
  keep = jnp.float32(1 - rate)
  return _drop_by_kernel(x, keys, keep) if _has_kernel(x, keys) else _drop(x, keys, keep)


def _drop(x: jax.Array, keys: jax.Array, keep: jax.Array) -> jax.Array:
  def is_kept(key: jax.Array) -> jax.Array:
    return jax.random.bernoulli(jax.random.wrap_key_data(key), keep, x.shape[1:])

  scaled = (x.astype(jnp.float32) * (1 / keep)).astype(x.dtype)
  return jnp.where(jax.vmap(is_kept)(keys), scaled, 0)


@jax.custom_vjp
def _drop_by_kernel(x: jax.Array, keys: jax.Array, keep: jax.Array) -> jax.Array:
  return with_kernel("dropout_forward")(_drop)(x, keys, keep)


def _forward(x: jax.Array, keys: jax.Array, keep: jax.Array) -> tuple[jax.Array, tuple]:
  return _drop_by_kernel(x, keys, keep), (keys, keep)


def _backward(kept: tuple, dy: jax.Array) -> tuple[jax.Array, None, None]:
  return _drop_by_kernel(dy, *kept), None, None


_drop_by_kernel.defvjp(_forward, _backward)
