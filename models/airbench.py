"""The networks of the CIFAR-10 speedruns of Jordan 2024 (arXiv:2404.00498; cifar10-airbench).

airbench96 is the version in the repository since June 2024, which differs from the paper's.

A network is a 2×2 convolution that whitens patches, GELU, three groups, the global maximum, and a
dense layer without bias, whose outputs × 1/9 are the logits. A group is conv, 2×2 max pooling,
batch norm, GELU, then conv, batch norm, GELU. In `airbench96` a group has conv, batch norm and GELU
once more, and a residual connection around its last two convolutions, added before the last GELU.
The convolutions of groups are 3×3 without biases. Batch norm has a bias, no scale, and epsilon
1e-12. GELU is exact.

  model       widths       batch norm's momentum    parameters at 10 classes
  airbench94  64-256-256   0.6                      1,971,640
  airbench95  128-384-384  0.6                      4,604,728
  airbench96  128-384-512  0.9 (PyTorch's default)  9,915,704

The table counts all parameters. The recipes never train the 288 of the whitening kernel
(`optimizer.freeze=('whiten/kernel',)`), and train its bias only at first
(`optimizer.freeze_after`).

Initialisation: the whitening kernel is computed from the images that `init` receives, which must be
normalised training images (`INIT_IMAGES` of them, as published). The first outputs of a group's
convolution, one for each input, copy the inputs (PyTorch's `dirac_`). The other outputs, and the
dense layer, are drawn from PyTorch's default, U(±1/√fan-in). The whitening's bias starts at 0, or
in `airbench94_muon` is drawn from PyTorch's default.

Differences from the published code: the moving variance is the biased one, not PyTorch's unbiased
(a relative difference of 1e-4 at 1,024 examples). The last pooling covers the whole remaining
image, which at 32 pixels is the published 3×3, so larger images work too. The computation is in
bfloat16 or float32, not float16.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.errors import UserError
from models import layers, register
from models.convolution import Conv, convolve
from models.normalization import activate

_FAN_IN = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(±1/√fan-in)


def whitening_kernel(images: jax.Array, size: int = 2, eps: float = 5e-4) -> jax.Array:
  """Return a kernel that whitens the images' patches: their scaled eigenvectors and negatives.

  The eigenvectors are those of the patches' second moments, without subtracting the mean. Each is
  divided by the square root of its eigenvalue + eps. The second moments of the first half of the
  outputs of a convolution with this kernel are the identity (less where eps matters).

  Args:
    images: [n, height, width, channels], normalised.
    size: side of a patch, pixels.
    eps: added to the eigenvalues.

  Returns:
    [size, size, channels, 2 × size² × channels], in descending order of eigenvalues.
  """
  rows, columns = images.shape[1] - size + 1, images.shape[2] - size + 1
  places = [(i, j) for i in range(size) for j in range(size)]
  patches = jnp.concatenate([images[:, i : i + rows, j : j + columns] for i, j in places], axis=-1)
  patches = patches.reshape(-1, patches.shape[-1])
  # Not len(): an exported program has a symbol for the number of images.
  moments = jnp.matmul(patches.T, patches, precision="highest") / patches.shape[0]
  eigenvalues, eigenvectors = jnp.linalg.eigh(moments)
  kernel = (eigenvectors / jnp.sqrt(jnp.maximum(eigenvalues, 0) + eps))[:, ::-1]
  kernel = jnp.concatenate([kernel, -kernel], axis=1)
  return kernel.reshape(size, size, images.shape[-1], -1)


def dirac(
  key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
  """Return a kernel whose first outputs copy the inputs; the rest is drawn from U(±1/√fan-in).

  Args:
    shape: (height, width, inputs, outputs), with odd height and width.
  """
  height, width, inputs, outputs = shape
  num_copies = min(inputs, outputs)
  kernel = _FAN_IN(key, shape, dtype).at[..., :num_copies].set(0)
  channels = jnp.arange(num_copies)
  return kernel.at[height // 2, width // 2, channels, channels].set(1)


class Whitening(nn.Module):
  """A 2×2 convolution with bias and no padding, whose initial kernel whitens the images."""

  dtype: jax.typing.DTypeLike
  draw_bias: bool = False

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    kernel = self.param("kernel", lambda key: whitening_kernel(images.astype(jnp.float32)))
    bias_init = _draw_whitening_bias if self.draw_bias else nn.initializers.zeros
    bias = self.param("bias", bias_init, kernel.shape[-1:])
    # In float32, because rounded patches and eigenvectors would not whiten.
    x = convolve(images.astype(jnp.float32), kernel, bias, padding="VALID")
    return x.astype(self.dtype)


def _draw_whitening_bias(key: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Return draws from U(±1/√fan-in). The fan-in is half the number of outputs."""
  (outputs,) = shape
  limit = (outputs / 2) ** -0.5
  return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


class Group(nn.Module):
  """Convolution, pooling, batch norm, GELU, then one more convolution or, if `residual`, two.

  The two convolutions of a residual group have a shortcut around them.
  """

  RECOMPUTED = True  # see models/__init__.py

  width: int
  residual: bool
  conv: Callable
  norm: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = layers.max_pool(self.conv(self.width, name="conv1")(x))
    x = shortcut = self.norm(activation="gelu", name="norm1")(x)
    x = self.norm(activation="gelu", name="norm2")(self.conv(self.width, name="conv2")(x))
    if self.residual:
      x = self.norm(name="norm3")(self.conv(self.width, name="conv3")(x), shortcut)
      x = activate(x, "gelu")
    return x


class Airbench(nn.Module):
  """The network described at the top of this file.

  Attributes:
    widths: channels of each group; each group halves the image.
    residual: give each group a third convolution and a shortcut.
    momentum: of batch norm's moving statistics.
    scale: factor of the logits.
    unit_head: start the dense layer's kernel at standard deviation 1.
    draw_whitening_bias: draw the whitening's bias from PyTorch's default instead of starting at 0.
  """

  INIT_IMAGES = 5000  # see models/__init__.py

  num_classes: int
  widths: Sequence[int]
  residual: bool
  momentum: float
  scale: float
  unit_head: bool
  draw_whitening_bias: bool
  dtype: jax.typing.DTypeLike = jnp.float32
  axis_name: str | None = None
  sync_bn: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    layers.check_halvings(
      images[:, 1:, 1:], len(self.widths), "model.widths", "give fewer widths or larger images"
    )
    conv = functools.partial(
      Conv, kernel_size=(3, 3), use_bias=False, kernel_init=dirac, dtype=self.dtype
    )
    axis_name = self.axis_name if self.sync_bn else None
    norm = layers.batch_norm(train, self.dtype, axis_name, self.momentum, epsilon=1e-12)
    norm = functools.partial(norm, use_scale=False)

    whiten = Whitening(self.dtype, self.draw_whitening_bias, name="whiten")
    x = activate(whiten(images), "gelu")
    for number, width in enumerate(self.widths, start=1):
      x = Group(width, self.residual, conv, norm, name=f"group{number}")(x)
    x = jnp.max(x, axis=(1, 2)).astype(jnp.float32)
    kernel_init = _draw_unit_kernel if self.unit_head else _FAN_IN
    head = layers.Dense(
      self.num_classes, use_bias=False, kernel_init=kernel_init, dtype=jnp.float32, name="head"
    )
    return self.scale * head(x)


def _draw_unit_kernel(
  key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
  kernel = _FAN_IN(key, shape, dtype)
  return kernel / jnp.std(kernel, ddof=1)


@register("airbench")
@register("airbench94", widths=(64, 256, 256), residual=False)
@register("airbench95", widths=(128, 384, 384), residual=False)
@register("airbench96", widths=(128, 384, 512), residual=True, momentum=0.9)
def airbench(
  widths: Sequence[int] = (64, 256, 256),
  residual: bool = False,
  momentum: float = 0.6,
  scale: float = 1 / 9,
  unit_head: bool = False,
  draw_whitening_bias: bool = False,
  **common: Any,
) -> Airbench:
  """Return a speedrun's network; see Airbench. Raise UserError for a momentum outside [0, 1)."""
  if not 0 <= momentum < 1:
    raise UserError(f"model.momentum: {momentum} is not a momentum; give a number in [0, 1)")
  return Airbench(
    widths=widths,
    residual=residual,
    momentum=momentum,
    scale=scale,
    unit_head=unit_head,
    draw_whitening_bias=draw_whitening_bias,
    **common,
  )
