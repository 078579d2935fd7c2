"""Random keys: each draw of a run is a function of (seed, purpose, number).

The number is an epoch, a step, a position in the epoch or an example. So nothing has to be saved to
continue a sequence of draws, and no draw depends on the number of devices.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp

# The number of the pass being traced, and the number of passes; see gradients.py.
_PASS: contextvars.ContextVar[tuple[jax.typing.ArrayLike, int]] = contextvars.ContextVar(
  "pass", default=(0, 1)
)
# The purposes that a seed's key is split into.
INIT, ORDER, AUGMENT, MIX, DROPOUT, EXAMPLE = range(6)


def purpose_key(key: jax.Array, purpose: int, number: jax.typing.ArrayLike) -> jax.Array:
  """Return the key for one purpose (INIT, ORDER, ...) and the number of an epoch or a step."""
  return jax.random.fold_in(jax.random.fold_in(key, purpose), number)


def number_keys(key: jax.Array, numbers: jax.typing.ArrayLike) -> jax.Array:
  """Return a key for each number, such as a position or an example's number: [n]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


@contextlib.contextmanager
def in_pass(number: jax.typing.ArrayLike, count: int) -> Iterator[None]:
  """Within the context, let `row_numbers` return every `count`-th row, from `number` on."""
  token = _PASS.set((number, count))
  try:
    yield
  finally:
    _PASS.reset(token)


def row_numbers(num_rows: int, axis_name: str | None) -> jax.Array:
  """Return the numbers in the global batch of a device's `num_rows` rows: [num_rows] int32.

  Args:
    axis_name: the axis over which the batch is divided, None for a single device.
  """
  number, count = _PASS.get()
  rows = jnp.asarray(number) + count * jnp.arange(num_rows)
  return rows if axis_name is None else rows + jax.lax.axis_index(axis_name) * num_rows * count
