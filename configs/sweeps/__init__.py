"""Sweeps: which fields of a config to try, and with which values.

A file of this folder defines `get_sweep()`, which returns one of

  grid({'optimizer.learning_rate': [1e-4, 1e-3], 'model.widths': [(32, 32, 32), (64, 64, 64)]})
  random({'optimizer.learning_rate': log_uniform(1e-4, 1e-1), 'seed': choice(0, 1)}, count=20)
  listed([{'loss.l2': ()}, {'loss.l2': (('kernel$', 5e-4),), 'model.dropout': 0.0}])

each with `base=`, the module whose `get_config()` they start from. Any field of a config may be
named, also arguments of models, optimizers and schedules that the base config leaves out.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from cifar_jax import errors

RANK_BY = {"val_accuracy": "max", "val_loss": "min"}
_Draw = Callable[[np.random.RandomState], Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What to try.

  Attributes:
    trials: for each trial its fields with their values; no two are the same.
    base: the module whose get_config() the trials start from; None: the config that is given.
    rank_by: what the best is best by, one of RANK_BY. Test figures are no choice.
    at_once: the most trials that train together in one program, of those that can; 0: as many as
      memory allows on accelerators, one on CPU, where XLA runs convolutions with weights by trial
      three to five times slower.
  """

  trials: tuple[Mapping[str, Any], ...]
  base: ModuleType | None = None
  rank_by: str = "val_accuracy"
  at_once: int = 0

  def __post_init__(self):
    if not self.trials:
      raise errors.UserError("sweep: there are no trials; give at least one")
    for i, trial in enumerate(self.trials):
      if trial in self.trials[:i]:
        raise errors.UserError(f"sweep: two trials are the same: {_said(trial)}; leave one out")
    if self.rank_by not in RANK_BY:
      raise errors.UserError(
        f"rank_by: {self.rank_by!r} is not one of {', '.join(RANK_BY)}; a sweep is ranked by "
        "validation alone"
      )
    if type(self.at_once) is not int or self.at_once < 0:
      raise errors.UserError(f"at_once: {self.at_once!r} must be a whole number >= 0")


def grid(fields: Mapping[str, Sequence[Any]], **options: Any) -> Sweep:
  """Every combination of the values; those of the last field change fastest."""
  values = [_values(name, given) for name, given in fields.items()]
  combinations = itertools.product(*values) if fields else ()
  return Sweep(tuple(dict(zip(fields, c, strict=True)) for c in combinations), **options)


def random(
  fields: Mapping[str, _Draw | Sequence[Any]], count: int, seed: int = 0, **options: Any
) -> Sweep:
  """`count` trials with values drawn at random; more of them begin with the same ones.

  Args:
    fields: for each field a distribution (`uniform`, `log_uniform`, `choice`) or a list of values,
      one of which is chosen.
  """
  if type(count) is not int or count < 1:
    raise errors.UserError(f"count: {count!r} must be a whole number >= 1")
  draws = {
    name: given if callable(given) else choice(*_values(name, given))
    for name, given in fields.items()
  }
  rng = np.random.RandomState(seed)
  trials: list[dict[str, Any]] = []
  for _ in range(100 * count):
    trial = {name: draw(rng) for name, draw in draws.items()}
    if trial not in trials:
      trials.append(trial)
    if len(trials) == count:
      return Sweep(tuple(trials), **options)
  raise errors.UserError(
    f"count: {count} trials are asked for, but only {len(trials)} different ones were drawn; "
    "take fewer, or more values"
  )


def listed(trials: Iterable[Mapping[str, Any]], **options: Any) -> Sweep:
  """Exactly these trials."""
  plain = ({name: _plain(value) for name, value in trial.items()} for trial in trials)
  return Sweep(tuple(plain), **options)


def uniform(low: float, high: float) -> _Draw:
  """A number between low and high, to four digits."""
  _check_range(low, high, low < high)
  return lambda rng: _short(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> _Draw:
  """A number between low and high whose logarithm is uniform, to four digits."""
  _check_range(low, high, 0 < low < high)
  return lambda rng: _short(math.exp(rng.uniform(math.log(low), math.log(high))))


def choice(*values: Any) -> _Draw:
  """One of the values."""
  if not values:
    raise errors.UserError("sweep: choice() has no values; give at least one")
  return lambda rng: _plain(values[rng.randint(len(values))])


def _short(value: float) -> float:
  return float(f"{value:.4g}")


def _check_range(low: float, high: float, good: bool) -> None:
  if not good:
    raise errors.UserError(f"sweep: {low!r} to {high!r} is no range to draw from")


def _plain(value: Any) -> Any:
  """A number of NumPy's as Python's own."""
  return value.item() if isinstance(value, np.generic) else value


def _values(name: str, given: Any) -> list[Any]:
  given = given.tolist() if isinstance(given, np.ndarray) else given
  if isinstance(given, str) or not isinstance(given, Sequence):
    raise errors.UserError(f"sweep: {name}: {given!r} must be a list of values")
  if not given:
    raise errors.UserError(f"sweep: {name}: the list of values is empty; give at least one")
  return [_plain(value) for value in given]


def _said(trial: Mapping[str, Any]) -> str:
  return ", ".join(f"{name}={value!r}" for name, value in trial.items()) or "no fields"
