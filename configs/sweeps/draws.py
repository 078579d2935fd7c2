"""The distributions from which a sweep draws fields: ranges of numbers, and choices."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cifar_jax.errors import UserError

if TYPE_CHECKING:
  from optuna.distributions import BaseDistribution


@dataclasses.dataclass(frozen=True)
class Range:
  """Numbers from low to high.

  Attributes:
    low, high: the ends, both included.
    log: draw log-uniformly instead of uniformly.
    whole: draw only whole numbers.

  Raises:
    UserError: low is not below high, an end has another type or is too large, or `log` is set and
      low is not above 0.
  """

  low: float
  high: float
  log: bool = False
  whole: bool = False

  def __post_init__(self) -> None:
    text = f"sweep: {self.low!r} to {self.high!r} is not a range"
    types = (int,) if self.whole else (int, float)
    if not (type(self.low) in types and type(self.high) in types):
      raise UserError(f"{text} of {'whole ' * self.whole}numbers")
    largest = 2**53 if self.whole else 1e300  # Optuna computes with float64
    if not (0 if self.log else -largest) < self.low < self.high < largest:
      raise UserError(f"{text}; give {'0 < ' * self.log}low < high")

  def distribution(self) -> "BaseDistribution":
    """Return Optuna's description of this range."""
    from optuna import distributions

    if self.whole:
      return distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
    return distributions.FloatDistribution(self.low, self.high, log=self.log)

  def label(self, value: float) -> float:
    """Return the label of a value in Optuna's study."""
    return value

  def value(self, drawn: float) -> float:
    """Return the field's value for a number that Optuna drew, to four digits unless `whole`."""
    return drawn if self.whole else min(max(float(f"{drawn:.4g}"), self.low), self.high)

  def values_to_check(self) -> tuple[Any, ...]:
    """Return values to validate: if they are valid, all values are."""
    return self.low, self.high


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of several values of any type. Optuna gets the repr() of values that it cannot store."""

  values: tuple[Any, ...]

  def labels(self) -> list[Any]:
    """Return the label of each value in Optuna's study."""
    texts, types = [repr(value) for value in self.values], str | int | float | None
    if any(not isinstance(value, types) or value != value for value in self.values):
      return texts
    # Optuna compares labels by ==, and 1 == True.
    return list(self.values) if len(set(self.values)) == len(set(texts)) else texts

  def distribution(self) -> "BaseDistribution":
    """Return Optuna's description of these values."""
    from optuna import distributions

    return distributions.CategoricalDistribution(tuple(dict.fromkeys(self.labels())))

  def label(self, value: Any) -> Any:
    """Return the label of one of the values in Optuna's study."""
    return self.labels()[list(map(repr, self.values)).index(repr(value))]

  def value(self, drawn: Any) -> Any:
    """Return the field's value for a label that Optuna drew."""
    return self.values[self.labels().index(drawn)]

  def values_to_check(self) -> tuple[Any, ...]:
    """Return values to validate: if they are valid, all values are."""
    return self.values


Draw: TypeAlias = Range | Choice


def uniform(low: float, high: float) -> Range:
  """Return the numbers from low to high, drawn uniformly and rounded to four digits."""
  return Range(low, high)


def log_uniform(low: float, high: float) -> Range:
  """Return the numbers from low to high, drawn log-uniformly and rounded to four digits."""
  return Range(low, high, log=True)


def integers(low: int, high: int, log: bool = False) -> Range:
  """Return the whole numbers from low to high, drawn uniformly, or log-uniformly if `log`."""
  return Range(low, high, log, whole=True)


def choice(*values: Any) -> Choice:
  """Return a distribution that picks each of the values with equal probability.

  Raises:
    UserError: there are no values.
  """
  if not values:
    raise UserError("sweep: choice() has no values; give at least one")
  return Choice(tuple(to_python(value) for value in values))


def to_draws(fields: Mapping[str, Draw | Sequence[Any]]) -> dict[str, Draw]:
  """Return the distribution of each field; raise UserError for anything but one or a list."""
  return {
    name: values if isinstance(values, Range | Choice) else choice(*check_values(name, values))
    for name, values in fields.items()
  }


def to_python(value: Any) -> Any:
  """Convert a NumPy scalar to a Python scalar; return other values unchanged."""
  return value.item() if isinstance(value, np.generic) else value


def check_values(name: str, values: Any) -> list[Any]:
  """Return the values of a field as a list; raise UserError unless they are a non-empty list."""
  values = values.tolist() if isinstance(values, np.ndarray) else values
  if isinstance(values, str) or not isinstance(values, Sequence):
    raise UserError(f"sweep: {name}: {values!r} must be a list of values")
  if not values:
    raise UserError(f"sweep: {name}: the list of values is empty; give at least one")
  return [to_python(value) for value in values]
