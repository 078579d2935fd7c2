"""Chains of augmentations, written in a config as one string, which `parse` reads:

augment = 'random_crop(padding=4) | random_flip() | cutout(size=8) | mixup(alpha=0.2)'
"""

import ast
import dataclasses
from typing import Any, NamedTuple

import jax

from cifar_jax import errors, registry
from cifar_jax.augment.transforms import TRANSFORMS, Check


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
    return any(TRANSFORMS[step.name].mixes for step in self.steps)

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
      transform = TRANSFORMS[name]
      if transform.by_epoch:
        images = transform.function(fold(example_keys, place), epoch, images, **arguments)
      elif not transform.mixes:
        images = transform.function(fold(keys, place), images, **arguments)
    for place, (name, arguments) in enumerate(self.steps):
      if TRANSFORMS[name].mixes:
        key = jax.random.fold_in(batch_key, place)
        images, labels = TRANSFORMS[name].function(
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
  if name not in TRANSFORMS:
    raise registry.unknown("augment", "transform", name, TRANSFORMS)

  transform = TRANSFORMS[name]
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


def _literal(name: str, argument: str, node: ast.expr, check: Check) -> Any:
  text = ast.unparse(node)
  try:
    value = ast.literal_eval(node)
  except (ValueError, TypeError):
    raise _error(f"{name}({argument}={text}): {text!r} is not a literal value") from None
  if not check.accepts(value):
    raise _error(f"{name}({argument}={text}): {argument} must be {check.wording}")
  return value
