"""The registry of the transforms that a chain can name, and checks of their arguments.

A transform is registered with a `Check` for each argument that a config may set.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Check(NamedTuple):
  """A predicate on an argument's value, and the words that complete "must be …" in an error."""

  accepts: Callable[[Any], bool]
  wording: str


class Transform(NamedTuple):
  """A registered function, and which of the four signatures in `transforms` it has."""

  function: Callable[..., Any]
  checks: dict[str, Check]
  mixes: bool = False
  by_epoch: bool = False
  by_batch: bool = False

  @property
  def parameters(self) -> dict[str, inspect.Parameter]:
    """Return the parameters that a config may set, in the order of positional arguments."""
    parameters = inspect.signature(self.function).parameters
    return {name: parameters[name] for name in parameters if name in self.checks}


TRANSFORMS: dict[str, Transform] = {}


def register(**checks: Check) -> Callable[[_Function], _Function]:
  """Return a decorator that registers a transform of single images under the function's name."""
  return _register(checks)


def register_by_epoch(**checks: Check) -> Callable[[_Function], _Function]:
  """Return a decorator that registers a transform that depends on the example and the epoch."""
  return _register(checks, by_epoch=True)


def register_by_batch(**checks: Check) -> Callable[[_Function], _Function]:
  """Return a decorator that registers a transform that draws once for the global batch."""
  return _register(checks, by_batch=True)


def register_mixing(**checks: Check) -> Callable[[_Function], _Function]:
  """Return a decorator that registers a transform that mixes images and labels of a batch."""
  return _register(checks, mixes=True)


def _register(checks: dict[str, Check], **kind: bool) -> Callable[[_Function], _Function]:
  def add(function: _Function) -> _Function:
    TRANSFORMS[function.__name__] = Transform(function, checks, **kind)
    return function

  return add


def is_number(value: object, low: float, high: float) -> bool:
  """Return whether `value` is an int or a float within [low, high]; True and False are neither."""
  return type(value) in (int, float) and low <= value <= high  # type: ignore[operator]


def is_pair(value: object, low: float, high: float) -> bool:
  """Return whether `value` is a tuple or list of two numbers within [low, high]."""
  return (
    isinstance(value, tuple | list)
    and len(value) == 2
    and all(is_number(number, low, high) for number in value)
  )


def whole_number(low: int, high: int) -> Check:
  """Return the check for an int within [low, high]."""
  return Check(
    lambda value: type(value) is int and low <= value <= high,
    f"a whole number within [{low}, {high}]",
  )


def number(low: float, high: float, wording: str) -> Check:
  """Return the check for a number within [low, high], which errors describe as `wording`."""
  return Check(lambda value: is_number(value, low, high), wording)


def number_or_pair(low: float, high: float) -> Check:
  """Return the check for a number or a pair (lower, upper) within [low, high]."""
  return Check(
    lambda value: is_number(value, low, high) or is_pair(value, low, high),
    f"a number or a pair (lower, upper) within [{low}, {high}]",
  )


def choice(*choices: str | bool) -> Check:
  """Return the check for one of `choices`."""
  return Check(lambda value: value in choices, " or ".join(map(repr, choices)))


def optional(check: Check) -> Check:
  """Return a check that accepts None and whatever `check` accepts."""
  return Check(lambda value: value is None or check.accepts(value), f"None or {check.wording}")
