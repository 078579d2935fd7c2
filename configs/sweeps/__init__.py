"""Sweeps: which fields of a config to vary, and with which values.

A file of this folder defines `get_sweep()`, which returns one of

  grid({'optimizer.learning_rate': [1e-4, 1e-3], 'model.widths': [(32, 32, 32), (64, 64, 64)]})
  random({'optimizer.learning_rate': log_uniform(1e-4, 1e-1), 'seed': choice(0, 1)}, count=20)
  listed([{'loss.l2': ()}, {'loss.l2': (('kernel$', 5e-4),), 'model.dropout': 0.0}])

with `base=` set to the module whose `get_config()` the trials start from. A trial may set any field
of a config, and arguments of models, optimizers and schedules that the base config does not list.

  python main.py --mode=sweep --sweep=configs/sweeps/FILE.py --workdir=/tmp/sweep
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from cifar_jax.errors import UserError

# Metrics that rank trials, and whether the largest or the smallest is best.
RANK_BY = {"val_accuracy": "max", "val_loss": "min"}
Draw: TypeAlias = Callable[[np.random.RandomState], Any]
# What a trial sets: values by the names of fields.
Trial: TypeAlias = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The trials of a sweep.

  Attributes:
    trials: the fields of each trial with their values; no two trials are equal.
    base: the module whose get_config() the trials start from; None is the config of --config.
    rank_by: the metric that ranks the trials, one of RANK_BY. Test metrics are not allowed.
    at_once: the largest number of trials that train together in one program, where they can. 0 is
      as many as fit into memory on accelerators, and one on CPU, where XLA runs convolutions of
      separate weights three to five times slower.

  Raises:
    UserError: there are no trials or equal ones, or another attribute is impossible.
  """

  trials: tuple[Trial, ...]
  base: ModuleType | None = None
  rank_by: str = "val_accuracy"
  at_once: int = 0

  def __post_init__(self) -> None:
    if not self.trials:
      raise UserError("sweep: there are no trials; give at least one")
    for i, trial in enumerate(self.trials):
      if trial in self.trials[:i]:
        raise UserError(f"sweep: two trials are the same: {_describe(trial)}; leave one out")
    if self.rank_by not in RANK_BY:
      raise UserError(
        f"rank_by: {self.rank_by!r} is not one of {', '.join(RANK_BY)}; only validation ranks a "
        "sweep"
      )
    if type(self.at_once) is not int or self.at_once < 0:
      raise UserError(f"at_once: {self.at_once!r} must be a whole number >= 0")


def grid(fields: Mapping[str, Sequence[Any]], **options: Any) -> Sweep:
  """Return a sweep of every combination of the values, in which the last field changes fastest.

  Args:
    fields: a list of values for each field.
    options: attributes of Sweep.

  Raises:
    UserError: a list is empty or not a list, or as Sweep.
  """
  lists = [_check_values(name, values) for name, values in fields.items()]
  combinations = itertools.product(*lists) if fields else ()
  return Sweep(tuple(dict(zip(fields, c, strict=True)) for c in combinations), **options)


def random(
  fields: Mapping[str, Draw | Sequence[Any]], count: int, seed: int = 0, **options: Any
) -> Sweep:
  """Return a sweep of `count` random trials. A larger count begins with the same trials.

  Args:
    fields: for each field a distribution (`uniform`, `log_uniform`, `choice`) or a list of values
      to choose from.
    options: attributes of Sweep.

  Raises:
    UserError: the count is not positive or larger than the number of different trials, a list is
      empty or not a list, or as Sweep.
  """
  if type(count) is not int or count < 1:
    raise UserError(f"count: {count!r} must be a whole number >= 1")
  draws = {
    name: values if callable(values) else choice(*_check_values(name, values))
    for name, values in fields.items()
  }
  rng = np.random.RandomState(seed)
  trials: list[Trial] = []
  for _ in range(100 * count):
    trial = {name: draw(rng) for name, draw in draws.items()}
    if trial not in trials:
      trials.append(trial)
    if len(trials) == count:
      return Sweep(tuple(trials), **options)
  raise UserError(
    f"count: cannot draw {count} trials, only {len(trials)} different ones were drawn; lower the "
    "count or add values"
  )


def listed(trials: Iterable[Trial], **options: Any) -> Sweep:
  """Return a sweep of exactly these trials; `options` are attributes of Sweep.

  Raises:
    UserError: as Sweep.
  """
  plain = ({name: _to_python(value) for name, value in trial.items()} for trial in trials)
  return Sweep(tuple(plain), **options)


def uniform(low: float, high: float) -> Draw:
  """Return a distribution of numbers between low and high, rounded to four digits.

  Raises:
    UserError: not low < high.
  """
  if not low < high:
    raise UserError(f"sweep: {low!r} to {high!r} is not a range; give low < high")
  return lambda rng: _round(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> Draw:
  """Return a distribution whose logarithm is uniform between low's and high's, as `uniform`.

  Raises:
    UserError: not 0 < low < high.
  """
  if not 0 < low < high:
    raise UserError(f"sweep: {low!r} to {high!r} is not a range; give 0 < low < high")
  return lambda rng: _round(math.exp(rng.uniform(math.log(low), math.log(high))))


def choice(*values: Any) -> Draw:
  """Return a distribution that picks each of the values equally often.

  Raises:
    UserError: there are no values.
  """
  if not values:
    raise UserError("sweep: choice() has no values; give at least one")
  return lambda rng: _to_python(values[rng.randint(len(values))])


def _round(value: float) -> float:
  """Round to four significant digits."""
  return float(f"{value:.4g}")


def _to_python(value: Any) -> Any:
  """Convert a NumPy scalar to Python's type."""
  return value.item() if isinstance(value, np.generic) else value


def _check_values(name: str, values: Any) -> list[Any]:
  """Return the values of a field as a list. Raise UserError unless they are a list with values."""
  values = values.tolist() if isinstance(values, np.ndarray) else values
  if isinstance(values, str) or not isinstance(values, Sequence):
    raise UserError(f"sweep: {name}: {values!r} must be a list of values")
  if not values:
    raise UserError(f"sweep: {name}: the list of values is empty; give at least one")
  return [_to_python(value) for value in values]


def _describe(trial: Trial) -> str:
  return ", ".join(f"{name}={value!r}" for name, value in trial.items()) or "no fields"
