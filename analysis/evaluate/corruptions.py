"""Corruptions of images that NumPy, SciPy and Pillow can make, at five severities.

They follow Hendrycks & Dietterich 2019 (arXiv:1903.12261), with the parameters that the paper's
code has for CIFAR (hendrycks/robustness, make_cifar_c.py). Three of the benchmark's 15 corruptions
are missing: motion blur and snow need ImageMagick's blur, and frost needs photos of frost. The
random draws are not those of the published files, so figures agree with theirs up to this noise.
"""

import io
import zlib
from collections.abc import Callable

import numpy as np
import scipy.ndimage
from PIL import Image

from analysis.evaluate import distortions
from analysis.evaluate.distortions import as_bytes, blur

SEVERITIES = (1, 2, 3, 4, 5)
# Not among the 15 whose mean is the mean corruption error.
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
_CHUNK_SIZE = 1000  # images corrupted at once; another size changes the random draws


def corrupt(name: str, severity: int, images: np.ndarray) -> np.ndarray:
  """Return corrupted images; the same arguments give the same bytes.

  Args:
    name: one of CORRUPTIONS.
    severity: 1 to 5.
    images: [n, height, width, channels] uint8.
  """
  function, parameters = CORRUPTIONS[name]
  rng = np.random.default_rng([zlib.crc32(name.encode()), severity])
  outputs = [np.zeros_like(images[:0])]
  for start in range(0, len(images), _CHUNK_SIZE):
    chunk = np.asarray(images[start : start + _CHUNK_SIZE])
    outputs.append(function(chunk, parameters[severity - 1], rng))
  return np.concatenate(outputs)


def list_names(channels: int) -> list[str]:
  """Return the names of the corruptions for images with this number of channels."""
  return [name for name in CORRUPTIONS if channels == 3 or name != "saturate"]


def _as_unit(images: np.ndarray) -> np.ndarray:
  return images.astype(np.float32) / 255


# --- Noise ---------------------------------------------------------------------------------------


def _gaussian_noise(images: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
  return as_bytes(_as_unit(images) + rng.normal(0, scale, images.shape))


def _shot_noise(images: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
  return as_bytes(rng.poisson(_as_unit(images) * photons) / photons)


def _impulse_noise(images: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
  """Set a share of all values to 0 or 255, in each channel independently."""
  is_hit, is_white = rng.random(images.shape) < share, rng.random(images.shape) < 0.5
  return np.where(is_hit, np.where(is_white, 255, 0), images).astype(np.uint8)


def _speckle_noise(images: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
  x = _as_unit(images)
  return as_bytes(x + x * rng.normal(0, scale, images.shape))


# --- Blur ----------------------------------------------------------------------------------------


def _gaussian_blur(images: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
  del rng
  return as_bytes(blur(_as_unit(images), sigma))


def _defocus_blur(
  images: np.ndarray, lens: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
  """Convolve with a disk; lens: its radius and the deviation of its edge's blur, in pixels."""
  del rng
  radius, edge = lens
  side = np.arange(-8, 9)
  disk = (side[:, None] ** 2 + side**2 <= radius**2).astype(np.float64)
  weights = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * edge**2))
  weights /= weights.sum()
  for axis in (0, 1):
    disk = scipy.ndimage.correlate1d(disk, weights, axis, mode="mirror")
  inner = disk[5:12, 5:12] / disk.sum()  # everything outside is 0
  kernel = inner[None, :, :, None].astype(np.float32)
  return as_bytes(scipy.ndimage.correlate(_as_unit(images), kernel, mode="mirror"))


def _zoom_blur(images: np.ndarray, end: float, rng: np.random.Generator) -> np.ndarray:
  """Average an image with its enlargements by 1.00, 1.01, and so on up to `end`."""
  del rng
  x = _as_unit(images)
  total = x.copy()
  factors = np.arange(1, end, 0.01)  # its rounding errors decide how half pixels are rounded
  for factor in factors:
    rows, columns = (_enlarge(side, factor) for side in x.shape[1:3])
    total += np.einsum("ij,njkc,lk->nilc", rows, x, columns, optimize=True)
  return as_bytes(total / (len(factors) + 1))


def _enlarge(side: int, factor: float) -> np.ndarray:
  """Return the matrix [side, side] that enlarges the middle of a line by linear interpolation."""
  kept = int(np.ceil(side / factor))
  first = (side - kept) // 2
  enlarged = scipy.ndimage.zoom(np.eye(kept, dtype=np.float32), (factor, 1), order=1)
  trim = (len(enlarged) - side) // 2
  matrix = np.zeros((side, side), np.float32)
  matrix[:, first : first + kept] = enlarged[trim : trim + side]
  return matrix


# --- Colour --------------------------------------------------------------------------------------


def _contrast(images: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
  del rng
  x = _as_unit(images)
  means = x.mean((1, 2), keepdims=True)
  return as_bytes((x - means) * factor + means)


def _brightness(images: np.ndarray, gain: float, rng: np.random.Generator) -> np.ndarray:
  """Add to the value of HSV, which scales the three colours together."""
  del rng
  x = _as_unit(images)
  value = x.max(-1, keepdims=True)
  brighter = np.minimum(value + gain, 1)
  return as_bytes(np.where(value > 0, x * brighter / np.maximum(value, 1e-6), brighter))


def _saturate(
  images: np.ndarray, change: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
  """Multiply the saturation of HSV and add to it; grey has the hue of red."""
  del rng
  factor, offset = change
  x = _as_unit(images)
  value = x.max(-1, keepdims=True)
  depth = value - x  # value * saturation * (a number from 0 to 1 that the hue decides)
  saturation = depth.max(-1, keepdims=True) / np.maximum(value, 1e-6)
  stronger = np.clip(saturation * factor + offset, 0, 1)
  of_grey = value * stronger * np.array([0, 1, 1], np.float32)
  scaled = depth * stronger / np.maximum(saturation, 1e-6)
  return as_bytes(value - np.where(saturation > 0, scaled, of_grey))


# --- Digital -------------------------------------------------------------------------------------


def _as_picture(image: np.ndarray) -> Image.Image:
  return Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)


def _jpeg(images: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
  del rng

  def compress(image: np.ndarray) -> np.ndarray:
    _as_picture(image).save(buffer := io.BytesIO(), "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)

  return np.stack([compress(image) for image in images])


def _pixelate(images: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
  del rng
  height, width = images.shape[1:3]
  small = max(1, int(width * share)), max(1, int(height * share))

  def reduce(image: np.ndarray) -> np.ndarray:
    box, picture = Image.Resampling.BOX, _as_picture(image)
    return np.asarray(picture.resize(small, box).resize((width, height), box)).reshape(image.shape)

  return np.stack([reduce(image) for image in images])


CORRUPTIONS: dict[str, tuple[Callable[..., np.ndarray], tuple]] = {
  "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
  "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
  "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
  "speckle_noise": (_speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
  "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
  "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
  "glass_blur": (distortions.blur_by_glass, distortions.GLASS),
  "zoom_blur": (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
  "fog": (distortions.lay_fog, distortions.FOG),
  "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
  "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
  "saturate": (_saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
  "elastic_transform": (distortions.stretch, distortions.ELASTIC),
  "jpeg_compression": (_jpeg, (80, 65, 58, 50, 40)),
  "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
}
