"""Images for the tests of the speedruns, and their patches."""

import numpy as np


def smooth_images(count, size=16, seed=0):
  """Return images whose neighbouring pixels are similar, as in photographs."""
  noise = np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype(np.float32)
  noise += noise.mean(axis=-1, keepdims=True)
  return noise + np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2)


def patches_of(images):
  """Return every 2×2 patch as [n, 12], each in the order row, column, channel."""
  height, width = images.shape[1:3]
  patches = [
    images[:, y : y + 2, x : x + 2].reshape(len(images), 12)
    for y in range(height - 1)
    for x in range(width - 1)
  ]
  return np.concatenate(patches).astype(np.float64)
