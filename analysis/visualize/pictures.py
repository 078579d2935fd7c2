"""Arrays as pictures (mosaics, colours for signed numbers, heat over an image), and their axes."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cifar_jax.runs import plots

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

DIVERGING, HEAT = "RdBu_r", "turbo"
_CHARACTERS_PER_INCH = 12  # of a figure's title


def make_mosaic(tiles: np.ndarray, min_side: int = 32, ground: int = 255) -> np.ndarray:
  """Arrange tiles [n, h, w, c] uint8 in an almost square grid, on grey of value `ground`.

  Small tiles are enlarged, each pixel to a square, until their height is at least `min_side`.
  """
  factor = -(-min_side // tiles.shape[1])
  tiles = tiles.repeat(factor, 1).repeat(factor, 2)
  num_tiles, height, width, channels = tiles.shape
  gap = max(2, height // 16)
  columns = math.ceil(math.sqrt(num_tiles))
  rows = -(-num_tiles // columns)
  shape = rows * (height + gap) - gap, columns * (width + gap) - gap, channels
  mosaic = np.full(shape, ground, np.uint8)
  for i, tile in enumerate(tiles):
    top, left = i // columns * (height + gap), i % columns * (width + gap)
    mosaic[top : top + height, left : left + width] = tile
  return mosaic


def largest_full_mosaic(count: int, max_count: int) -> int:
  """Return the largest number of tiles, at most `count` and `most`, that fill a mosaic."""
  count = min(count, max_count)
  side = math.isqrt(count)
  return side * (side + 1) if side * (side + 1) <= count else side * side


def colour_by_sign(maps: np.ndarray) -> np.ndarray:
  """Colour maps [n, h, w] as uint8 [n, h, w, 3]: red above 0, blue below.

  The largest magnitude of a map has the deepest colour.
  """
  import matplotlib

  largest = np.maximum(np.abs(maps).max((1, 2), keepdims=True), 1e-12)
  return matplotlib.colormaps[DIVERGING](0.5 + maps / largest / 2, bytes=True)[..., :3]


def overlay_heat(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
  """Lay a map [h, w] of non-negative numbers over an image, as uint8 [height, width, 3].

  The map is interpolated to the size of the image and scaled by its maximum.
  """
  import matplotlib

  heat = np.asarray(jax.image.resize(heat / max(heat.max(), 1e-12), pixels.shape[:2], "bilinear"))
  colours = 255 * matplotlib.colormaps[HEAT](heat)[..., :3]
  grey = pixels.mean(-1, keepdims=True)
  return (0.55 * grey + 0.45 * colours).astype(np.uint8)


def rescale_to_pixels(images: np.ndarray) -> np.ndarray:
  """Rescale images [n, h, w, c] of any range to uint8 with mean 128 and standard deviation 38."""
  centred = images - images.mean((1, 2, 3), keepdims=True)
  scaled = centred / (centred.std((1, 2, 3), keepdims=True) + 1e-5)
  return np.clip(scaled * 38 + 128, 0, 255).astype(np.uint8)


def lay_out_panels(count: int) -> tuple[int, int, tuple[float, float]]:
  """Return rows, columns and inches of a figure of square panels, wide enough for its title."""
  columns = min(count, 3 if count in (5, 6, 9) else 4)
  rows = -(-count // columns)
  return rows, columns, (max(5.5, 2.6 * columns + 0.3), 2.95 * rows + 0.6)


def lay_out_rows(
  count: int, per_image: int, max_per_row: int
) -> tuple[int, int, tuple[float, float]]:
  """Return rows, columns and inches of a figure with `per_image` small pictures of each image.

  max_per_row: the maximum number of images in a row.
  """
  images_per_row = min(max_per_row, -(-count // 2))
  rows, columns = -(-count // images_per_row), images_per_row * per_image
  return rows, columns, (max(5.5, 1.2 * columns + 0.3), 1.4 * rows + 0.7)


def clear_axes(axes: Any, rows: int, columns: int) -> np.ndarray:
  """Return matplotlib axes as [rows, columns], with nothing drawn on them."""
  grid = np.reshape(axes, (rows, columns))
  for axis in grid.flat:
    axis.axis("off")
  return grid


def show_image(axis: "Axes", pixels: np.ndarray) -> None:
  """Draw an image, uint8 [height, width, 1 or 3]."""
  axis.axis("off")
  axis.set_anchor("N")
  axis.imshow(pixels.repeat(3, -1) if pixels.shape[-1] == 1 else pixels)


def set_title(axis: "Axes", text: str, **style: Any) -> None:
  """Set the title of a picture; a $, as in a file name, does not start a formula."""
  axis.set_title(plots.plain(text), fontsize=8, **style)


def set_figure_title(figure: "Figure", text: str) -> None:
  """Set the title of a figure, wrapped to its width."""
  max_chars = int(figure.get_figwidth() * _CHARACTERS_PER_INCH)
  text = "\n".join(textwrap.fill(line, max_chars) for line in text.splitlines())
  figure.suptitle(plots.plain(text), fontsize=10)


def add_colour_bar(
  figure: "Figure", axes: Any, colours: str, ticks: Sequence[float], labels: Sequence[str]
) -> None:
  """Add a bar next to all axes that labels the colours."""
  from matplotlib.cm import ScalarMappable
  from matplotlib.colors import Normalize

  scale = ScalarMappable(Normalize(ticks[0], ticks[-1]), colours)
  bar = figure.colorbar(scale, ax=axes, aspect=40, shrink=0.6, pad=0.02, ticks=ticks)
  bar.ax.set_yticklabels(labels)
  bar.ax.grid(False)


def shorten(text: str, max_chars: int) -> str:
  """Return at most `most` characters of a text, including its end."""
  return text if len(text) <= max_chars else f"{text[: max_chars - 9]}…{text[-8:]}"
