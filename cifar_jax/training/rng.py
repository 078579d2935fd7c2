"""Random keys: each draw of a run is a function of (seed, purpose, number).

The number is an epoch, a step, a position in the epoch or an example. So nothing has to be saved to
continue a sequence of draws, and no draw depends on the number of devices.
"""

import jax

# The purposes that a seed's key is split into.
INIT, ORDER, AUGMENT, MIX, DROPOUT, EXAMPLE = range(6)


def purpose_key(key: jax.Array, purpose: int, number: jax.typing.ArrayLike) -> jax.Array:
  """Return the key for one purpose (INIT, ORDER, ...) and the number of an epoch or a step."""
  return jax.random.fold_in(jax.random.fold_in(key, purpose), number)


def number_keys(key: jax.Array, numbers: jax.typing.ArrayLike) -> jax.Array:
  """Return a key for each number, such as a position or an example's number: [n]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
