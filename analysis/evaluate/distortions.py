"""Corruptions that move pixels or lay fog over them: glass blur, elastic transform and fog.

Like corruptions.py, they follow Hendrycks & Dietterich 2019 with the parameters of make_cifar_c.py.
The random draws are not those of the published files.
"""

import numpy as np
import scipy.ndimage

# At each severity: deviation of the blur, largest distance, repetitions.
GLASS = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
# Thickness, and the factor by which the fog's detail falls from one scale to the next.
FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
# As shares of the side: height of the waves, their deviation, and the largest move of a corner.
ELASTIC = (
  (0, 0, 0.08),
  (0.05, 0.2, 0.07),
  (0.08, 0.06, 0.06),
  (0.1, 0.04, 0.05),
  (0.1, 0.03, 0.03),
)


def as_bytes(x: np.ndarray) -> np.ndarray:
  """Return images with values from 0 to 1 as uint8; other values are clipped."""
  return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def blur(x: np.ndarray, sigma: float, mode: str = "nearest", truncate: float = 4) -> np.ndarray:
  """Blur images [n, height, width, channels] with a Gaussian; no blur if sigma is 0."""
  sigmas = (0, sigma, sigma, 0)
  return scipy.ndimage.gaussian_filter(x, sigmas, mode=mode, truncate=truncate) if sigma else x


def blur_by_glass(
  images: np.ndarray, glass: tuple[float, int, int], rng: np.random.Generator
) -> np.ndarray:
  """Blur, replace each pixel by one to the upper left, and blur again.

  The published code means to swap the two pixels, but NumPy's views turn the swap into a copy.
  CIFAR-10-C was made this way.
  """
  sigma, distance, repetitions = glass
  height, width = images.shape[1:3]
  x = as_bytes(blur(images / 255, sigma))
  every = np.arange(len(x))
  for _ in range(repetitions):
    # From bottom to top, so that a copied pixel is still the original.
    for row in range(height - distance, distance, -1):
      for column in range(width - distance, distance, -1):
        down, right = rng.integers(-distance, distance, (2, len(x)))
        x[:, row, column] = x[every, row + down, column + right]
  return as_bytes(blur(x / 255, sigma))


def lay_fog(images: np.ndarray, fog: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
  """Add a fractal, then darken so that white stays white."""
  thickness, decay = fog
  x = images / 255
  lightest = x.max((1, 2, 3), keepdims=True)
  height, width = x.shape[1:3]
  x = x + thickness * fractals(len(x), max(height, width), decay, rng)[:, :height, :width, None]
  return as_bytes(x * lightest / (lightest + thickness))


def fractals(count: int, side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
  """Return plasma fractals from 0 to 1, [count, n, n]; n is `side` rounded up to a power of two.

  This is the diamond-square algorithm (Fournier, Fussell & Carpenter 1982) on a torus: every point
  halfway between four others is their mean plus a random number, whose range is divided by the
  square of `decay` from one scale to the next.
  """
  size = 1 << (side - 1).bit_length()
  heights = np.zeros((count, size, size))
  step, amplitude = size, 1.0
  while step >= 2:
    half = step // 2
    corners = heights[:, ::step, ::step]
    below, right = (np.roll(corners, -1, axis) for axis in (1, 2))
    noise = rng.uniform(-amplitude, amplitude, (3, *corners.shape))
    centres = (corners + below + right + np.roll(below, -1, 2)) / 4 + noise[0]
    heights[:, half::step, half::step] = centres
    above, left = (np.roll(centres, 1, axis) for axis in (1, 2))
    heights[:, ::step, half::step] = (corners + right + centres + above) / 4 + noise[1]
    heights[:, half::step, ::step] = (corners + below + centres + left) / 4 + noise[2]
    step, amplitude = half, amplitude / decay**2
  heights -= heights.min((1, 2), keepdims=True)
  return heights / np.maximum(heights.max((1, 2), keepdims=True), 1e-12)


def stretch(
  images: np.ndarray, waves: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
  """Distort images by the affine map that moves three corners at random, then by random waves."""
  height, width = images.shape[1:3]
  amplitude, sigma, max_shift = (share * min(height, width) for share in waves)
  pixels = np.mgrid[:height, :width].astype(np.float64)  # their rows and columns
  corners = _corners(height, width)
  output = np.empty_like(images)
  for i, image in enumerate(images):
    moved_corners = corners + rng.uniform(-max_shift, max_shift, corners.shape)
    # For each pixel of the output, the position in the image that it shows.
    positions = _map_affinely(pixels, moved_corners, corners)
    x = _sample(image / 255, positions, "mirror")
    noise = rng.uniform(-1, 1, (2, height, width, 1))  # down and to the right
    shifts = amplitude * blur(noise, sigma, "reflect", 3)[..., 0]
    output[i] = as_bytes(_sample(x, pixels + shifts, "reflect"))
  return output


def _corners(height: int, width: int) -> np.ndarray:
  """Return three corners of a square in the middle, rows and columns: [3, 2]."""
  centre, reach = np.array([height // 2, width // 2]), min(height, width) // 3
  return centre + reach * np.array([[1, 1], [-1, 1], [-1, -1]], np.float64)


def _map_affinely(positions: np.ndarray, points: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Apply the affine map from three points to three targets, both [3, 2], to positions [2, …]."""
  matrix = np.linalg.solve(np.c_[points, np.ones(3)], targets)
  mapped = np.stack([*positions, np.ones_like(positions[0])], -1) @ matrix
  return np.moveaxis(mapped, -1, 0)


def _sample(image: np.ndarray, positions: np.ndarray, mode: str) -> np.ndarray:
  """Interpolate an image [height, width, channels] linearly at positions [2, height, width]."""
  channels = [
    scipy.ndimage.map_coordinates(image[..., c], positions, order=1, mode=mode)
    for c in range(image.shape[-1])
  ]
  return np.stack(channels, -1)
