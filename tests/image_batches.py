"""Random images, one-hot labels and keys for tests of augmentation."""

import jax
import numpy as np


def make_keys(number: int, seed: int = 0) -> jax.Array:
  """Return `number` typed PRNG keys."""
  return jax.random.split(jax.random.key(seed), number)


def make_noise(batch: int, height: int = 8, width: int = 10, channels: int = 3) -> np.ndarray:
  """Return images [batch, height, width, channels] float32 of normal noise."""
  shape = (batch, height, width, channels)
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def one_hot(batch: int) -> np.ndarray:
  """Return labels of as many classes as images, so that a mixed label names its images."""
  return np.eye(batch, dtype=np.float32)
