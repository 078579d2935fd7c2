"""Image augmentations: batched, jit-able, pure functions of (keys, images), chained by a spec.

A chain is written in a config as one string, which `parse` reads:

  augment = 'random_crop(padding=4) | random_flip() | cutout(size=8) | mixup(alpha=0.2)'

Images are float32 [batch, height, width, channels], already normalised by `normalize`. The zero
that crops pad with and cutout fills with is therefore the data set's mean colour when images are
standardised (as in He et al. 2016 and DeVries & Taylor 2017), black when they are only scaled to
[0, 1]. `keys` holds one typed PRNG key (threefry, JAX's default) per image: what happens to an
image depends on its key alone, not on the batch or the device it sits in.

To add an augmentation, write one function below: `@_register(argument=check, ...)` over
`name(keys, images, *, argument=default) -> images`; with `by_epoch=True` over
`name(example_keys, epoch, images, *, argument=default) -> images`, where the key of an image is the
same in every epoch; or with `mixes=True` over
`name(key, images, labels, *, argument, axis_name=None) -> (images, labels)`.
"""

import ast
import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import errors
import registry
import warp


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
  """uint8 images [..., channels] to float32: (images / 255 - mean) / std.

  mean, std: one number per channel in [0, 1] units; 0 and 1 scale to [0, 1] and no more.
  """
  return (images.astype(jnp.float32) / 255 - jnp.float32(mean)) / jnp.float32(std)


# What an argument may be, checked when a spec is parsed.


class _Check(NamedTuple):
  accepts: Callable[[Any], bool]
  wording: str


def _in(value: Any, low: float, high: float) -> bool:
  return type(value) in (int, float) and low <= value <= high


def _pair_in(value: Any, low: float, high: float) -> bool:
  return (
    isinstance(value, tuple | list) and len(value) == 2 and all(_in(v, low, high) for v in value)
  )


def _whole(low: int) -> _Check:
  return _Check(lambda value: type(value) is int and value >= low, f"a whole number from {low}")


def _number(low: float, high: float, wording: str) -> _Check:
  return _Check(lambda value: _in(value, low, high), wording)


def _range(low: float, high: float) -> _Check:
  return _Check(
    lambda value: _in(value, low, high) or _pair_in(value, low, high),
    f"a number or a pair (lower, upper) within [{low}, {high}]",
  )


def _choice(*choices: str | bool) -> _Check:
  return _Check(lambda value: value in choices, " or ".join(map(repr, choices)))


class _Transform(NamedTuple):
  function: Callable
  checks: dict[str, _Check]
  mixes: bool
  by_epoch: bool

  def parameters(self) -> dict[str, inspect.Parameter]:
    """The arguments that a spec may give, in the order in which it may give them."""
    parameters = inspect.signature(self.function).parameters
    return {name: parameters[name] for name in parameters if name in self.checks}


_REGISTRY: dict[str, _Transform] = {}


def _register(
  mixes: bool = False, by_epoch: bool = False, **checks: _Check
) -> Callable[[Callable], Callable]:
  def register(function: Callable) -> Callable:
    _REGISTRY[function.__name__] = _Transform(function, checks, mixes, by_epoch)
    return function

  return register


# Flips, crops and holes.


@_register()
def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors left and right with probability 1/2."""
  flip = jax.vmap(jax.random.bernoulli)(keys)
  return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


@_register(by_epoch=True)
def alternating_flip(example_keys: jax.Array, epoch: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors left and right in every other epoch: a half of the examples in even ones, by a draw.

  So two epochs on end show both sides of every image (Jordan 2024, arXiv:2404.00498).

  example_keys: [batch], of the examples; epoch: [] int32, from 0.
  """
  first = jax.vmap(jax.random.bernoulli)(example_keys)
  flip = first ^ (epoch % 2 == 1)
  return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


@_register(padding=_whole(0), mode=_choice("constant", "reflect"))
def random_crop(
  keys: jax.Array, images: jax.Array, *, padding: int = 4, mode: str = "constant"
) -> jax.Array:
  """Pads every side by `padding` pixels and cuts the original size out at a uniformly drawn place.

  mode: 'constant' pads with zeros (He et al. 2016, section 4.2); 'reflect' mirrors about the border
  pixel, which is not repeated (numpy.pad's 'reflect': c b | a b c d | c b).
  """
  offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(keys)
  padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)
  return jax.vmap(lambda image, offset: lax.dynamic_slice(image, (*offset, 0), images.shape[1:]))(
    padded, offsets
  )


@_register(size=_whole(1), inside=_choice(True, False))
def cutout(keys: jax.Array, images: jax.Array, *, size: int = 8, inside: bool = False) -> jax.Array:
  """Sets a square to zero (DeVries & Taylor 2017).

  size: the square's side in pixels (the paper: 16 for CIFAR-10, 8 for CIFAR-100). Its centre is any
  pixel, so that the border may cut it down to a quarter of size × size; or with
  inside: only such that the border does not.
  """
  height, width = images.shape[1:3]
  low, high = jnp.zeros(2, jnp.int32), jnp.array([height, width])
  if inside:
    low, high = low + size // 2, jnp.maximum(high - size, 0) + size // 2 + 1
  centres = jax.vmap(lambda key: jax.random.randint(key, (2,), low, high))(keys)
  hole = jax.vmap(lambda centre: _box(centre, (size, size), (height, width)))(centres)
  return jnp.where(hole[..., None], 0, images)


def _box(centre: jax.Array, sides: Sequence, shape: tuple[int, int]) -> jax.Array:
  """bool [height, width]: true in a box of sides (rows, columns), clipped at the border."""
  first = [middle - side // 2 for middle, side in zip(centre, sides, strict=True)]
  row, column = jnp.arange(shape[0])[:, None], jnp.arange(shape[1])
  rows = (row >= first[0]) & (row < first[0] + sides[0])
  return rows & (column >= first[1]) & (column < first[1] + sides[1])


# Affine warps.

_ALPHA = _number(1e-6, 1e6, "a number above 0")
_DEGREES = _number(0, 360, "an angle in degrees from 0 to 360")
_FILL = {
  "fill_mode": _choice("constant", "nearest", "reflect", "wrap"),
  "fill_value": _number(-1e6, 1e6, "a number"),
}
_SAMPLING = _FILL | {"interpolation": _choice("bilinear", "nearest")}
_ZOOM = _range(-0.99, 1)

_register(factor=_range(-1, 1), **_SAMPLING)(warp.random_rotation)
_register(
  height_factor=_ZOOM,
  width_factor=_Check(
    lambda value: value is None or _ZOOM.accepts(value), f"None or {_ZOOM.wording}"
  ),
  **_SAMPLING,
)(warp.random_zoom)
_register(height_factor=_range(-1, 1), width_factor=_range(-1, 1), **_SAMPLING)(
  warp.random_translation
)
_register(x_factor=_range(0, 1), y_factor=_range(0, 1), **_SAMPLING)(warp.random_shear)
_register(
  rotation=_DEGREES,
  shift=_Check(lambda value: _pair_in(value, 0, 1), "a pair (height, width) within [0, 1]"),
  shear=_DEGREES,
  zoom=_Check(
    lambda value: _in(value, 0, 0.99) or _pair_in(value, 0.01, 100),
    "z within [0, 0.99], or a pair (lower, upper) within [0.01, 100]",
  ),
  flip=_choice(True, False),
  **_FILL,
)(warp.random_affine)


# Mixing images with each other.


def _partners(
  key: jax.Array, images: jax.Array, labels: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
  """The images and labels that this device's rows meet: the global batch, permuted."""
  rows = jnp.arange(len(images))
  if axis_name is not None:
    rows += lax.axis_index(axis_name) * len(images)
    images, labels = lax.all_gather((images, labels), axis_name, tiled=True)
  partners = jax.random.permutation(key, len(images))[rows]
  return jnp.take(images, partners, axis=0), jnp.take(labels, partners, axis=0)


@_register(mixes=True, alpha=_ALPHA)
def mixup(
  key: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  *,
  alpha: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Blends images and labels with a partner's by one λ ~ Beta(alpha, alpha) (Zhang et al. 2018).

  key: one for the global batch, the same on every device. labels: one-hot or soft, float32 [batch,
  classes]. axis_name: the pmap axis that the global batch is spread over, None outside pmap.
  """
  lambda_key, partner_key = jax.random.split(key)
  lam = jax.random.beta(lambda_key, alpha, alpha)
  other_images, other_labels = _partners(partner_key, images, labels, axis_name)
  return lam * images + (1 - lam) * other_images, lam * labels + (1 - lam) * other_labels


@_register(mixes=True, alpha=_ALPHA)
def cutmix(
  key: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  *,
  alpha: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Pastes a box of a partner into every image and mixes labels by area (Yun et al. 2019).

  The box covers 1 - λ of the image, λ ~ Beta(alpha, alpha), until the border clips it; labels go by
  the pixels that are left. Box and λ are the whole batch's; arguments as for mixup.
  """
  lambda_key, centre_key, partner_key = jax.random.split(key, 3)
  height, width = images.shape[1:3]
  side = jnp.sqrt(1 - jax.random.beta(lambda_key, alpha, alpha))
  sides = [(side * length).astype(jnp.int32) for length in (height, width)]
  centre = jax.random.randint(centre_key, (2,), 0, jnp.array([height, width]))
  box = _box(centre, sides, (height, width))
  lam = 1 - jnp.mean(box, dtype=jnp.float32)
  other_images, other_labels = _partners(partner_key, images, labels, axis_name)
  return (
    jnp.where(box[..., None], other_images, images),
    lam * labels + (1 - lam) * other_labels,
  )


# Chains.


class Step(NamedTuple):
  """One transform of a chain: its name and all its arguments, defaults included."""

  name: str
  arguments: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, as jax.jit needs
class Pipeline:
  """A chain of transforms, made by `parse`: the image-wise ones in order, then the mixing ones."""

  steps: tuple[Step, ...]

  @property
  def mixes(self) -> bool:
    """Whether labels are mixed too, and must therefore be given as float32 [batch, classes]."""
    return any(_REGISTRY[step.name].mixes for step in self.steps)

  def __call__(
    self,
    keys: jax.Array,
    batch_key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    axis_name: str | None = None,
    example_keys: jax.Array | None = None,
    epoch: jax.typing.ArrayLike = 0,
  ) -> tuple[jax.Array, jax.Array]:
    """Applies the chain to this device's images and labels.

    keys: [batch] typed PRNG keys, one per image. batch_key: one key for the global batch, the same
    on every device. labels: come back untouched unless the chain mixes. axis_name: see `mixup`.
    example_keys: [batch] keys, of each example the same in every epoch; only what goes by the epoch
    needs them. epoch: its number, from 0.
    """
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    for place, (name, arguments) in enumerate(self.steps):
      transform = _REGISTRY[name]
      if transform.by_epoch:
        images = transform.function(fold(example_keys, place), epoch, images, **arguments)
      elif not transform.mixes:
        images = transform.function(fold(keys, place), images, **arguments)
    for place, (name, arguments) in enumerate(self.steps):
      if _REGISTRY[name].mixes:
        key = jax.random.fold_in(batch_key, place)
        images, labels = _REGISTRY[name].function(
          key, images, labels, **arguments, axis_name=axis_name
        )
    return images, labels


def parse(spec: str) -> Pipeline:
  """The chain that a spec describes: calls joined by '|', with literal arguments; '' is no change.

  A name without parentheses stands for a call without arguments. Raises errors.UserError.
  """
  spec = " ".join(spec.split())
  if not spec:
    return Pipeline(())
  try:
    node = ast.parse(spec, mode="eval").body
  except (SyntaxError, ValueError):
    raise _error(
      f"cannot read {spec!r}; write for example 'random_crop(padding=4) | random_flip()'"
    ) from None
  calls = []
  while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
    calls.append(node.right)
    node = node.left
  calls.append(node)
  return Pipeline(tuple(_parse_step(call) for call in reversed(calls)))


def _error(message: str) -> errors.UserError:
  return errors.UserError(f"augment: {message}")


def _parse_step(node: ast.expr) -> Step:
  call = node if isinstance(node, ast.Call) else ast.Call(node, args=[], keywords=[])
  if not isinstance(call.func, ast.Name):
    raise _error(f"cannot read {ast.unparse(node)!r}; write name(argument=value)")
  name = call.func.id
  if name not in _REGISTRY:
    raise registry.unknown("augment", "transform", name, _REGISTRY)

  transform = _REGISTRY[name]
  parameters = transform.parameters()
  takes = f"it takes: {', '.join(parameters) or 'none'}"
  if len(call.args) > len(parameters):
    raise _error(f"{name} is given {len(call.args)} arguments; {takes}")
  given = dict(zip(parameters, call.args, strict=False))
  for keyword in call.keywords:
    if keyword.arg not in parameters:
      raise _error(f"{name} takes no argument {keyword.arg or '**'!r}; {takes}")
    if keyword.arg in given:
      raise _error(f"{name} is given {keyword.arg!r} twice")
    given[keyword.arg] = keyword.value

  arguments = {}
  for argument, parameter in parameters.items():
    check = transform.checks[argument]
    if argument in given:
      arguments[argument] = _literal(name, argument, given[argument], check)
    elif parameter.default is parameter.empty:
      raise _error(f"{name} needs {argument!r}: {check.wording}")
    else:
      arguments[argument] = parameter.default
  return Step(name, arguments)


def _literal(name: str, argument: str, node: ast.expr, check: _Check) -> Any:
  text = ast.unparse(node)
  try:
    value = ast.literal_eval(node)
  except (ValueError, TypeError):
    raise _error(f"{name}({argument}={text}): {text!r} is not a literal value") from None
  if not check.accepts(value):
    raise _error(f"{name}({argument}={text}): {argument} must be {check.wording}")
  return value
