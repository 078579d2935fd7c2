"""Test-time augmentation: a network's answer from several views of each image, by name.

- `flip`: the image and its mirror image; the mean of the probabilities.
- `flip_shift1`, `flip_shift2`: both of these in place and shifted along the diagonals by up to 1 or
  2 pixels; the mean of the probabilities.
- `multicrop`: both in place, shifted by 1 pixel up and left, and by 1 down and right; the mean of
  the logits, half of it from those in place (Jordan 2024, arXiv:2404.00498, and his code).

What comes in at the edges is mirrored.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Kind(NamedTuple):
  """Shifts in pixels (down, right), and the weight of each; every one is seen mirrored too."""

  shifts: tuple[tuple[int, int], ...]
  weights: tuple[float, ...]  # add up to 1
  of_logits: bool  # the mean is that of logits, not of probabilities

  @property
  def views(self) -> int:
    return 2 * len(self.shifts)


def _diagonals(most: int) -> Kind:
  corners = [(d * i, d * j) for d in range(1, most + 1) for i in (1, -1) for j in (1, -1)]
  shifts = ((0, 0), *corners)
  return Kind(shifts, (1 / len(shifts),) * len(shifts), of_logits=False)


KINDS = {
  "flip": _diagonals(0),
  "flip_shift1": _diagonals(1),
  "flip_shift2": _diagonals(2),
  "multicrop": Kind(((0, 0), (1, 1), (-1, -1)), (0.5, 0.25, 0.25), of_logits=True),
}


def views(images: jax.Array, kind: str) -> Iterator[jax.Array]:
  """The images [n, h, w, c] of any type as `kind` shows them: each shift, as it is and mirrored."""
  shifts = KINDS[kind].shifts
  most = max(abs(pixels) for shift in shifts for pixels in shift)
  height, width = images.shape[1:3]
  padded = jnp.pad(images, [(0, 0), (most, most), (most, most), (0, 0)], mode="reflect")
  for down, right in shifts:
    top, left = most - down, most - right
    view = padded[:, top : top + height, left : left + width]
    yield view
    yield view[:, :, ::-1]


def logits(apply: Callable[[jax.Array], jax.Array], images: jax.Array, kind: str) -> jax.Array:
  """[n, classes] float32, combined from all views; log-probabilities where those are averaged.

  Args:
    apply: images [n, h, w, c] to logits [n, classes].
    images: of the type that `apply` takes.
    kind: one of KINDS.
  """
  _, weights, of_logits = KINDS[kind]
  found = jnp.stack([jnp.asarray(apply(view)) for view in views(images, kind)])
  of_view = jnp.repeat(jnp.array(weights), 2)[:, None, None] / 2
  if of_logits:
    return jnp.sum(of_view * found, axis=0)
  return jax.nn.logsumexp(jax.nn.log_softmax(found), axis=0, b=of_view)
