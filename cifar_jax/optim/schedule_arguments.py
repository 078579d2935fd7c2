"""The types that all schedules use, and checks of arguments that several schedules have."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

from cifar_jax import errors
from cifar_jax.registry import check_number

# A learning rate: a number, or a scalar that may be traced.
Rate: TypeAlias = float | jax.Array
# The result of a schedule function: maps a step, float32 of shape [], to the learning rate.
Curve: TypeAlias = Callable[[jax.Array], jax.typing.ArrayLike]


class RunLength(NamedTuple):
  """The length of a run in updates; both numbers are positive."""

  steps_per_epoch: int
  total_steps: int


def check_fraction(name: str, value: Any) -> None:
  """Raise UserError unless the argument `name` is a fraction of the learning rate, >= 0."""
  check_number(f"schedule.{name}", value, "a fraction of learning_rate >= 0", lambda x: x >= 0)


def round_steps(epochs: float, steps_per_epoch: float) -> int:
  """Return epochs (>= 0) as a whole number of steps, at most 2**31 - 1.

  Devices count steps in int32, so no run reaches a later step anyway.
  """
  return round(min(epochs * steps_per_epoch, 2**31 - 1))


def resolve_steps(
  steps_argument: tuple[str, float | None],
  epochs_argument: tuple[str, float | None],
  default_epochs: float,
  run: RunLength,
) -> float:
  """Return a duration in steps, a float, from two arguments, of which a config sets at most one.

  Args:
    steps_argument: the name and value of the argument in steps.
    epochs_argument: the name and value of the argument in epochs.
    default_epochs: the duration in epochs if both values are None.
    run: gives the number of steps in an epoch.

  Raises:
    UserError: both arguments are set, or one is not a number > 0.
  """
  steps_name, steps = steps_argument
  epochs_name, epochs = epochs_argument
  if steps is not None and epochs is not None:
    raise errors.UserError(
      f"schedule.{steps_name}: {epochs_name} is set too; set one and leave the other None"
    )
  if steps is not None:
    check_number(f"schedule.{steps_name}", steps, "a number > 0", lambda x: x > 0)
    return steps * 1.0
  epochs = default_epochs if epochs is None else epochs
  check_number(f"schedule.{epochs_name}", epochs, "a number > 0", lambda x: x > 0)
  return epochs * float(run.steps_per_epoch)
