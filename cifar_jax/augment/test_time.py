"""Test-time augmentation: predict from several views of each image.

A config chooses the kind by name:

- `flip`: the image and its mirror image; averages probabilities.
- `flip_shift1`, `flip_shift2`: both of these, unshifted and shifted along the diagonals by up to 1
  or 2 pixels; averages probabilities.
- `multicrop`: both of these, unshifted, shifted by 1 pixel down and right, and by 1 pixel up and
  left; averages logits, and gives the unshifted views half the weight (Jordan 2024,
  arXiv:2404.00498, and the code of cifar10-airbench).

A shift fills the edge by reflection.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cifar_jax import errors


class Kind(NamedTuple):
  """Shifts in pixels (down, right), each with a weight; every shift has a mirrored view too."""

  shifts: tuple[tuple[int, int], ...]
  weights: tuple[float, ...]  # sum to 1
  averages_logits: bool  # otherwise averages probabilities

  @property
  def num_views(self) -> int:
    """Return the number of views of each image."""
    return 2 * len(self.shifts)


def _shift_diagonally(max_pixels: int) -> Kind:
  """Return the kind with equal weights for no shift and for all diagonal shifts."""
  distances = range(1, max_pixels + 1)
  corners = [(d * i, d * j) for d in distances for i in (1, -1) for j in (1, -1)]
  shifts = ((0, 0), *corners)
  return Kind(shifts, (1 / len(shifts),) * len(shifts), averages_logits=False)


KINDS = {
  "flip": _shift_diagonally(0),
  "flip_shift1": _shift_diagonally(1),
  "flip_shift2": _shift_diagonally(2),
  "multicrop": Kind(((0, 0), (1, 1), (-1, -1)), (0.5, 0.25, 0.25), averages_logits=True),
}


def make_views(images: jax.Array, kind: str) -> Iterator[jax.Array]:
  """Yield the shifted images and their mirror images for each shift of `kind`.

  Args:
    images: [n, height, width, channels] of any dtype; every view has the same shape and dtype.
    kind: a name in KINDS.
  """
  shifts = KINDS[kind].shifts
  padding = max(abs(pixels) for shift in shifts for pixels in shift)
  height, width = images.shape[1:3]
  pad_width = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
  padded = jnp.pad(images, pad_width, mode="reflect")
  for down, right in shifts:
    top, left = padding - down, padding - right
    view = padded[:, top : top + height, left : left + width]
    yield view
    yield view[:, :, ::-1]


def check_kind(kind: str) -> None:
  """Raise UserError unless `kind` is '' or a name in KINDS."""
  if kind and kind not in KINDS:
    raise errors.UserError(f"tta: there is no {kind!r}; use one of: {', '.join(KINDS)}")


def predict_logits(
  apply: Callable[[jax.Array], jax.typing.ArrayLike], images: jax.Array, kind: str
) -> jax.Array:
  """Return the combined logits of all views, [n, classes] float32.

  If `kind` averages probabilities, the result holds log-probabilities.

  Args:
    apply: maps images [n, height, width, channels] to logits [n, classes].
    images: of the dtype that `apply` takes.
    kind: a name in KINDS.
  """
  _, weights, averages_logits = KINDS[kind]
  logits = jnp.stack([jnp.asarray(apply(view)) for view in make_views(images, kind)])
  view_weights = jnp.repeat(jnp.array(weights), 2)[:, None, None] / 2
  if averages_logits:
    return jnp.sum(view_weights * logits, axis=0)
  return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0, b=view_weights)
