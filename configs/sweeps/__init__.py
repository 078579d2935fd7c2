"""Sweeps: which fields of a config to vary, and with which values.

A file of this folder defines `get_sweep()`, which returns one of

  grid({'optimizer.learning_rate': [1e-4, 1e-3], 'model.widths': [(32, 32, 32), (64, 64, 64)]})
  random({'optimizer.learning_rate': log_uniform(1e-4, 1e-1), 'seed': choice(0, 1)}, count=20)
  tpe({'optimizer.learning_rate': log_uniform(1e-4, 1e-1), 'model.depth': integers(2, 9)}, count=20)
  listed([{'loss.l2': ()}, {'loss.l2': (('kernel$', 5e-4),), 'model.dropout': 0.0}])

with `base=` set to the module whose `get_config()` the trials start from. A trial may set any field
of a config, and arguments of models, optimizers and schedules that the base config does not list.

  python main.py --mode=sweep --sweep=configs/sweeps/FILE.py --workdir=/tmp/sweep

Optuna draws the trials of `random` and `tpe`, and with `pruner=` decides which trials end early.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeAlias

from cifar_jax.errors import UserError
from configs.sweeps.draws import (
  Choice,
  Draw,
  Range,
  check_values,
  choice,
  integers,
  log_uniform,
  to_draws,
  to_python,
  uniform,
)

__all__ = [
  "RANK_BY",
  "Choice",
  "Draw",
  "Range",
  "Sweep",
  "choice",
  "grid",
  "import_optuna",
  "integers",
  "listed",
  "log_uniform",
  "random",
  "tpe",
  "uniform",
]

# Metrics that rank trials, and whether the largest or the smallest is best.
RANK_BY = {"val_accuracy": "max", "val_loss": "min"}
PRUNERS = ("", "halving", "hyperband")
_MAX_COUNT = 10_000  # far more than anybody trains; drawing many more would take hours
# The values that a trial sets, by field name.
Trial: TypeAlias = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The trials of a sweep or, for TPE, the space from which they are drawn one by one.

  Attributes:
    trials: the fields of each trial with their values; no two trials are equal.
    space: what TPE draws each field from, instead of `trials`.
    count: the number of trials that TPE draws.
    sampler_seed: the seed of these draws.
    base: the module whose get_config() the trials start from; None is the config of --config.
    rank_by: the metric that ranks the trials, one of RANK_BY. Test metrics are not allowed.
    at_once: the largest number of trials that train together in one program, if they can. 0 is
      as many as fit into memory on accelerators, and one on CPU, where XLA runs convolutions of
      separate weights three to five times slower.
    pruner: the method that ends trials early: '' for none, 'halving' for Optuna's successive
      halving (as in ASHA, each trial is judged when it reaches a rung), or 'hyperband'.
    first_rung: the epoch at which trials are first judged; the next rungs are at `reduction`,
      `reduction`², … times as many epochs.
    reduction: at each rung a trial continues if it is among the best 1 / reduction of those that
      have reached the rung.

  Raises:
    UserError: there are no trials, two are equal, or another attribute is invalid.
  """

  trials: tuple[Trial, ...] = ()
  space: Mapping[str, Draw] = dataclasses.field(default_factory=dict)
  count: int = 0
  sampler_seed: int = 0
  base: ModuleType | None = None
  rank_by: str = "val_accuracy"
  at_once: int = 0
  pruner: str = ""
  first_rung: int = 1
  reduction: int = 3

  def __post_init__(self) -> None:
    if not self.trials and not self.space:
      raise UserError("sweep: there are no trials; give at least one")
    for i, trial in enumerate(self.trials):
      if trial in self.trials[:i]:
        raise UserError(f"sweep: two trials are the same: {_describe(trial)}; leave one out")
    if self.rank_by not in tuple(RANK_BY):
      raise UserError(
        f"rank_by: {self.rank_by!r} is not one of {', '.join(RANK_BY)}; only validation ranks a "
        "sweep"
      )
    if self.pruner not in PRUNERS:
      raise UserError(f"pruner: {self.pruner!r} is not one of {', '.join(PRUNERS[1:])}")
    for name, least in (("at_once", 0), ("sampler_seed", 0), ("first_rung", 1), ("reduction", 2)):
      _check_count(name, getattr(self, name), least)
    if self.space:
      _check_count("count", self.count, 1)
    if self.at_once > 1 and (self.space or self.pruner):
      reason = (
        "trials that train together cannot end separately"
        if self.pruner
        else ("TPE draws a trial when the previous one has finished")
      )
      raise UserError(f"at_once: {reason}; leave it out")
    if self.pruner and (names := {"seed", "num_epochs"} & self.fields()):
      raise UserError(
        f"pruner: trials that differ in {', '.join(sorted(names))} cannot be compared at a rung; "
        "leave it out (num_seeds trains several seeds in one trial)"
      )

  def fields(self) -> set[str]:
    """Return the names of all fields that the sweep sets."""
    return set(self.space).union(*self.trials)

  def distributions(self) -> dict[str, Draw]:
    """Return the distribution of each field; for given trials, the choice of its values."""
    if self.space:
      return dict(self.space)
    values: dict[str, dict[str, Any]] = {}
    for trial in self.trials:
      for name, value in trial.items():
        values.setdefault(name, {}).setdefault(repr(value), value)
    return {name: Choice(tuple(different.values())) for name, different in values.items()}


def grid(fields: Mapping[str, Sequence[Any]], **options: Any) -> Sweep:
  """Return a sweep of every combination of the values, in which the last field changes fastest.

  Args:
    fields: a list of values for each field.
    options: attributes of Sweep.

  Raises:
    UserError: a list is empty or not a list, or `Sweep` raises it.
  """
  lists = [check_values(name, values) for name, values in fields.items()]
  combinations = itertools.product(*lists) if fields else ()
  return Sweep(tuple(dict(zip(fields, c, strict=True)) for c in combinations), **options)


def random(
  fields: Mapping[str, Draw | Sequence[Any]], count: int, sampler_seed: int = 0, **options: Any
) -> Sweep:
  """Return a sweep of `count` random trials. A larger count begins with the same trials.

  Args:
    fields: for each field a distribution (`uniform`, `log_uniform`, `integers`, `choice`) or a list
      of values to choose from.
    options: attributes of Sweep.

  Raises:
    UserError: the count is not positive or exceeds the number of different trials, a list is empty
      or not a list, or `Sweep` raises it.
  """
  _check_count("count", count, 1)
  optuna = import_optuna()
  draws = to_draws(fields)
  space = {name: draw.distribution() for name, draw in draws.items()}
  study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=sampler_seed))
  trials: list[Trial] = []
  for _ in range(100 * count):
    drawn = study.ask(space).params
    trial = {name: draw.value(drawn[name]) for name, draw in draws.items()}
    if trial not in trials:
      trials.append(trial)
    if len(trials) == count:
      return Sweep(tuple(trials), **options)
  raise UserError(
    f"count: cannot draw {count} trials, only {len(trials)} different ones were drawn; lower the "
    "count or add values"
  )


def tpe(
  fields: Mapping[str, Draw | Sequence[Any]], count: int, sampler_seed: int = 0, **options: Any
) -> Sweep:
  """Return a sweep of `count` trials, each drawn where the earlier trials did best.

  Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) draws them; the first ten are
  random.

  Args:
    fields: as for `random`.
    options: attributes of Sweep.

  Raises:
    UserError: as `random`.
  """
  import_optuna()
  space = to_draws(fields)
  return Sweep(space=space, count=count, sampler_seed=sampler_seed, **options)


def listed(trials: Iterable[Trial], **options: Any) -> Sweep:
  """Return a sweep of exactly these trials; `options` are attributes of Sweep.

  Raises:
    UserError: `Sweep` raises it.
  """
  plain = ({name: to_python(value) for name, value in trial.items()} for trial in trials)
  return Sweep(tuple(plain), **options)


def import_optuna() -> Any:
  """Return the module optuna, set to log only warnings.

  Raises:
    UserError: Optuna is not installed.
  """
  try:
    import optuna
  except ImportError:
    raise UserError("sweep: Optuna is missing; install it with: pip install optuna") from None
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  return optuna


def _check_count(name: str, value: Any, least: int) -> None:
  if type(value) is not int or value < least:
    raise UserError(f"{name}: {value!r} must be a whole number >= {least}")
  if value > _MAX_COUNT:
    raise UserError(f"{name}: {value!r} must be at most {_MAX_COUNT:,}")


def _describe(trial: Trial) -> str:
  return ", ".join(f"{name}={value!r}" for name, value in trial.items()) or "no fields"
