"""Arrays as pictures: tiles in a mosaic, colours for signed numbers, heat over an image; axes."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

DIVERGING, HEAT = "RdBu_r", "turbo"
_CHARACTERS_PER_INCH = 12  # of a figure's title


def mosaic(tiles: np.ndarray, min_side: int = 32, ground: int = 255) -> np.ndarray:
  """Tiles [n, h, w, c] uint8 in a grid that is about square, on gray of value `ground`.

  Small tiles are enlarged, each pixel to a square, until their height is at least `min_side`.
  """
  count = len(tiles)
  factor = -(-min_side // tiles.shape[1])
  tiles = tiles.repeat(factor, 1).repeat(factor, 2)
  height, width, channels = tiles.shape[1:]
  gap = max(2, height // 16)
  columns = math.ceil(math.sqrt(count))
  rows = -(-count // columns)
  shape = rows * (height + gap) - gap, columns * (width + gap) - gap, channels
  whole = np.full(shape, ground, np.uint8)
  for i, tile in enumerate(tiles):
    top, left = i // columns * (height + gap), i % columns * (width + gap)
    whole[top : top + height, left : left + width] = tile
  return whole


def that_fill_a_mosaic(count: int, most: int) -> int:
  """The largest number up to both that leaves no gap in a mosaic."""
  count = min(count, most)
  side = math.isqrt(count)
  return side * (side + 1) if side * (side + 1) <= count else side * side


def signed_colours(maps: np.ndarray) -> np.ndarray:
  """Maps [n, h, w] as RGB uint8 [n, h, w, 3]: red above 0, blue below, each by its largest."""
  import matplotlib

  largest = np.maximum(np.abs(maps).max((1, 2), keepdims=True), 1e-12)
  return matplotlib.colormaps[DIVERGING](0.5 + maps / largest / 2, bytes=True)[..., :3]


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
  """A map [h, w] of numbers from 0 in colours over an image, uint8 [height, width, 3].

  The map is interpolated to the image's size, and scaled by its maximum.
  """
  import matplotlib

  heat = np.asarray(jax.image.resize(heat / max(heat.max(), 1e-12), pixels.shape[:2], "bilinear"))
  colours = 255 * matplotlib.colormaps[HEAT](heat)[..., :3]
  gray = pixels.mean(-1, keepdims=True)
  return np.uint8(0.55 * gray + 0.45 * colours)


def to_pixels(found: np.ndarray) -> np.ndarray:
  """Images [n, h, w, c] of any range as uint8: each of mean 128 and standard deviation 38."""
  centred = found - found.mean((1, 2, 3), keepdims=True)
  scaled = centred / (centred.std((1, 2, 3), keepdims=True) + 1e-5)
  return np.uint8(np.clip(scaled * 38 + 128, 0, 255))


def panels(count: int) -> tuple[int, int, tuple[float, float]]:
  """Rows, columns and inches of a figure of square panels, wide enough for its title."""
  columns = min(count, 3 if count in (5, 6, 9) else 4)
  rows = -(-count // columns)
  return rows, columns, (max(5.5, 2.6 * columns + 0.3), 2.95 * rows + 0.6)


def images_in_rows(count: int, per_image: int, most: int) -> tuple[int, int, tuple[float, float]]:
  """Rows, columns and inches of a figure of small pictures, `per_image` of each image.

  most: images in a row.
  """
  in_row = min(most, -(-count // 2))
  rows, columns = -(-count // in_row), in_row * per_image
  return rows, columns, (max(5.5, 1.2 * columns + 0.3), 1.4 * rows + 0.7)


def empty(axes: Any, rows: int, columns: int) -> np.ndarray:
  """The axes as [rows, columns], with nothing drawn on them."""
  grid = np.reshape(axes, (rows, columns))
  for axis in grid.flat:
    axis.axis("off")
  return grid


def show(axis: Any, pixels: np.ndarray) -> None:
  """Draws an image, uint8 [height, width, 1 or 3]."""
  axis.axis("off")
  axis.set_anchor("N")
  axis.imshow(pixels.repeat(3, -1) if pixels.shape[-1] == 1 else pixels)


def title(axis: Any, text: str, **style: Any) -> None:
  """Names a picture. A $ in the name of a file is no mathematics."""
  axis.set_title(text, fontsize=8, parse_math=False, **style)


def suptitle(whole: Any, text: str) -> None:
  """Names a figure, in lines that are no longer than it is wide."""
  most = int(whole.get_figwidth() * _CHARACTERS_PER_INCH)
  text = "\n".join(textwrap.fill(line, most) for line in text.splitlines())
  whole.suptitle(text, fontsize=10, parse_math=False)


def colour_bar(
  whole: Any, axes: Any, colours: str, ticks: Sequence[float], labels: Sequence[str]
) -> None:
  """Adds a bar that tells what the colours mean, beside all axes."""
  from matplotlib.cm import ScalarMappable
  from matplotlib.colors import Normalize

  scale = ScalarMappable(Normalize(ticks[0], ticks[-1]), colours)
  bar = whole.colorbar(scale, ax=axes, aspect=40, shrink=0.6, pad=0.02, ticks=ticks)
  bar.ax.set_yticklabels(labels)
  bar.ax.grid(False)


def shortened(text: str, most: int) -> str:
  """At most so many characters, the end among them."""
  return text if len(text) <= most else f"{text[: most - 9]}…{text[-8:]}"
