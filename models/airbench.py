"""The networks of the CIFAR-10 speedruns of Jordan 2024 (arXiv:2404.00498; cifar10-airbench).

A 2×2 convolution that whitens patches, GELU, three groups, the global maximum, a dense layer of no
bias, logits × 1/9. A group is conv, 2×2 max pooling, batch norm, GELU, then conv, batch norm, GELU;
in `airbench96` conv, batch norm and GELU come once more, with a residual connection round these two
convolutions, added before the last GELU. Convolutions of groups are 3×3 and have no biases; batch
norm has a bias and no scale, and epsilon 1e-12.

| | widths | batch norm's momentum | parameters at 10 classes |
|---|---|---|---|
| `airbench94` | 64-256-256 | 0.6 | 1,971,640 |
| `airbench95` | 128-384-384 | 0.6 | 4,604,728 |
| `airbench96` | 128-384-512 | 0.9 (PyTorch's default) | 9,915,704 |

These are all parameters; the whitening kernel's 288 are not meant to be trained
(`optimizer.freeze=('whiten/kernel',)`), and its bias only at first (`optimizer.freeze_after`).

Initialisation: the whitening kernel comes from the images that `init` is given, which have to be
normalised training images (`INIT_IMAGES` of them, as published). The first outputs of a group's
convolution, as many as it has inputs, hand the inputs on (PyTorch's dirac_); the others, and the
dense layer, are drawn from PyTorch's default, U(±1/√fan-in).

Apart from the published: the moving variance is the biased one, not PyTorch's unbiased (a relative
difference of 1e-4 at 1,024 examples); the last pooling is over all that is left, which at 32 pixels
is the published 3×3, so that larger images will do; computed in bfloat16 or float32, not float16.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cifar_jax.errors import UserError
from models import layers, register
from models.convolution import Conv

_FAN_IN = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(±1/√fan-in)


def whitening_kernel(images: jax.Array, size: int = 2, eps: float = 5e-4) -> jax.Array:
  """Eigenvectors of the images' patches, each over its eigenvalue's root; then their negatives.

  The outputs of the first half of such a convolution have second moments like the identity (smaller
  where eps counts). The eigenvectors are those of the patches' second moments, no mean taken off.

  Args:
    images: [n, height, width, channels], normalised.
    size: side of a patch in pixels.
    eps: is added to the eigenvalues.

  Returns:
    [size, size, channels, 2 × size² × channels], by falling eigenvalue.
  """
  rows, columns = images.shape[1] - size + 1, images.shape[2] - size + 1
  places = [(i, j) for i in range(size) for j in range(size)]
  patches = jnp.concatenate([images[:, i : i + rows, j : j + columns] for i, j in places], axis=-1)
  patches = patches.reshape(-1, patches.shape[-1])
  moments = jnp.matmul(patches.T, patches, precision="highest") / len(patches)
  eigenvalues, eigenvectors = jnp.linalg.eigh(moments)
  kernel = (eigenvectors / jnp.sqrt(jnp.maximum(eigenvalues, 0) + eps))[:, ::-1]
  kernel = jnp.concatenate([kernel, -kernel], axis=1)
  return kernel.reshape(size, size, images.shape[-1], -1)


def dirac(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
  """A kernel [height, width, inputs, outputs], odd sides, whose first outputs are the inputs.

  Outputs beyond the number of inputs are drawn from U(±1/√fan-in).
  """
  height, width, inputs, outputs = shape
  same = min(inputs, outputs)
  kernel = _FAN_IN(key, shape, dtype).at[..., :same].set(0)
  channels = jnp.arange(same)
  return kernel.at[height // 2, width // 2, channels, channels].set(1)


class Whitening(nn.Module):
  """A 2×2 convolution with bias and no padding, initialised by the images it is given."""

  dtype: jnp.dtype

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    kernel = self.param("kernel", lambda key: whitening_kernel(images.astype(jnp.float32)))
    bias = self.param("bias", nn.initializers.zeros, kernel.shape[-1:])
    x, kernel = images.astype(self.dtype), kernel.astype(self.dtype)
    x = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return x + bias.astype(self.dtype)


class Group(nn.Module):
  """Convolution, pooling, batch norm, GELU; then one more convolution, or two with a shortcut."""

  width: int
  residual: bool
  conv: Callable
  norm: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = layers.max_pool(self.conv(self.width, name="conv1")(x))
    x = shortcut = _gelu(self.norm(name="norm1")(x))
    x = self.norm(name="norm2")(self.conv(self.width, name="conv2")(x))
    if self.residual:
      x = self.norm(name="norm3")(self.conv(self.width, name="conv3")(_gelu(x))) + shortcut
    return _gelu(x)


class Airbench(nn.Module):
  """The network described at the top of this file.

  Attributes:
    widths: channels of each group, each of which halves the image.
    residual: whether groups have a third convolution and a shortcut.
    momentum: of batch norm's moving statistics.
    scale: what the logits are multiplied by.
    unit_head: whether the dense layer's kernel is initially of standard deviation 1.
  """

  INIT_IMAGES = 5000  # see models/__init__.py

  num_classes: int
  widths: Sequence[int]
  residual: bool
  momentum: float
  scale: float
  unit_head: bool
  dtype: jnp.dtype = jnp.float32
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

    x = _gelu(Whitening(self.dtype, name="whiten")(images))
    for number, width in enumerate(self.widths, start=1):
      x = Group(width, self.residual, conv, norm, name=f"group{number}")(x)
    x = jnp.max(x, axis=(1, 2)).astype(jnp.float32)
    init = _unit if self.unit_head else _FAN_IN
    head = nn.Dense(
      self.num_classes, use_bias=False, kernel_init=init, dtype=jnp.float32, name="head"
    )
    return self.scale * head(x)


def _unit(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
  kernel = _FAN_IN(key, shape, dtype)
  return kernel / jnp.std(kernel, ddof=1)


def _gelu(x: jax.Array) -> jax.Array:
  return nn.gelu(x, approximate=False)  # PyTorch's default


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
  **common,
) -> Airbench:
  """The speedruns' networks; see Airbench. Raises UserError for a momentum outside [0, 1)."""
  if not 0 <= momentum < 1:
    raise UserError(f"model.momentum: {momentum} is no momentum; give a number in [0, 1)")
  return Airbench(
    widths=widths,
    residual=residual,
    momentum=momentum,
    scale=scale,
    unit_head=unit_head,
    **common,
  )
