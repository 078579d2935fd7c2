"""Chains of augmentations, which a config gives as one string and `parse` reads:

augment = 'random_crop(padding=4) | random_flip() | cutout(size=8) | mixup(alpha=0.2)'
"""

import ast
import dataclasses
from typing import Any, NamedTuple

import jax

from cifar_jax import errors, registry
from cifar_jax.augment import affine, resized_crop, transforms  # noqa: F401  (all register)
from cifar_jax.augment.registration import TRANSFORMS, Check, Transform


class Call(NamedTuple):
  """One transform of a chain: its name and all its arguments, defaults included."""

  name: str
  arguments: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, as jax.jit needs
class Chain:
  """Transforms in the order of the spec; those that mix images come after all others."""

  calls: tuple[Call, ...]

  @property
  def mixes(self) -> bool:
    """Return whether the chain mixes labels, which must then be float32 [batch, classes]."""
    return any(TRANSFORMS[call.name].mixes for call in self.calls)

  def __call__(
    self,
    keys: jax.Array,
    batch_key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    axis_name: str | None = None,
    *,
    example_keys: jax.Array,
    epoch: jax.Array | int,
  ) -> tuple[jax.Array, jax.Array]:
    """Return this device's images and labels, transformed.

    Args:
      keys: [batch] typed PRNG keys, one per image.
      batch_key: one key for the global batch, the same on every device.
      images: float32 [batch, height, width, channels].
      labels: returned unchanged unless the chain mixes.
      axis_name: the pmap axis that the global batch is spread over; None outside pmap.
      example_keys: [batch] keys; an example's key is the same in every epoch.
      epoch: the number of the epoch, from 0.
    """
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    for position, (name, arguments) in enumerate(self.calls):
      transform = TRANSFORMS[name]
      if transform.by_epoch:
        images = transform.function(fold(example_keys, position), epoch, images, **arguments)
      elif transform.by_batch:
        key = jax.random.fold_in(batch_key, position)
        images = transform.function(key, images, **arguments)
      elif not transform.mixes:
        images = transform.function(fold(keys, position), images, **arguments)
    for position, (name, arguments) in enumerate(self.calls):
      if TRANSFORMS[name].mixes:
        key = jax.random.fold_in(batch_key, position)
        images, labels = TRANSFORMS[name].function(
          key, images, labels, **arguments, axis_name=axis_name
        )
    return images, labels


def parse(spec: str) -> Chain:
  """Return the chain that a spec describes: calls joined by '|', with literal arguments.

  A name without parentheses is a call without arguments. An empty spec changes nothing.

  Raises:
    UserError: the spec is not such a chain, or a transform or an argument is unknown, missing or
      out of range.
  """
  spec = " ".join(spec.split())
  if not spec:
    return Chain(())
  try:
    node = ast.parse(spec, mode="eval").body
  except (SyntaxError, ValueError):
    raise _error(
      f"cannot read {spec!r}; write, for example, 'random_crop(padding=4) | random_flip()'"
    ) from None
  calls = []
  while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
    calls.append(node.right)
    node = node.left
  calls.append(node)
  return Chain(tuple(_parse_call(call) for call in reversed(calls)))


def _parse_call(node: ast.expr) -> Call:
  """Convert a node of the syntax tree to a call, checked against the transform."""
  call = node if isinstance(node, ast.Call) else ast.Call(node, args=[], keywords=[])
  if not isinstance(call.func, ast.Name):
    raise _error(f"cannot read {ast.unparse(node)!r}; write name(argument=value)")
  name = call.func.id
  if name not in TRANSFORMS:
    raise registry.unknown("augment", "transform", name, sorted(TRANSFORMS))
  transform = TRANSFORMS[name]
  nodes = _name_arguments(name, call, transform)
  arguments = {}
  for argument, parameter in transform.parameters.items():
    check = transform.checks[argument]
    if argument in nodes:
      arguments[argument] = _evaluate(name, argument, nodes[argument], check)
    elif parameter.default is parameter.empty:
      raise _error(f"{name} lacks {argument!r}; set it to {check.wording}")
    else:
      arguments[argument] = parameter.default
  return Call(name, arguments)


def _name_arguments(name: str, call: ast.Call, transform: Transform) -> dict[str, ast.expr]:
  """Return the nodes of a call's arguments by name, whether they are positional or keywords."""
  parameters = transform.parameters
  accepted = f"it takes: {', '.join(parameters) or 'none'}"
  if len(call.args) > len(parameters):
    raise _error(f"{name} has too many arguments ({len(call.args)}); {accepted}")
  nodes = dict(zip(parameters, call.args, strict=False))
  for keyword in call.keywords:
    if keyword.arg is None or keyword.arg not in parameters:
      raise _error(f"{name} takes no argument {keyword.arg or '**'!r}; {accepted}")
    if keyword.arg in nodes:
      raise _error(f"{name} has {keyword.arg!r} twice; write it once")
    nodes[keyword.arg] = keyword.value
  return nodes


def _evaluate(name: str, argument: str, node: ast.expr, check: Check) -> Any:
  """Return the value of an argument's node."""
  text = ast.unparse(node)
  try:
    value = ast.literal_eval(node)
  except (ValueError, TypeError):
    raise _error(
      f"{name}({argument}={text}): {text!r} is not a literal value; {argument} must be "
      f"{check.wording}"
    ) from None
  if not check.accepts(value):
    raise _error(f"{name}({argument}={text}): {argument} must be {check.wording}")
  return value


def _error(message: str) -> errors.UserError:
  return errors.UserError(f"augment: {message}")
