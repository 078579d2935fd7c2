"""Things that a config names: the call of the one named, and messages about the rest."""

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cifar_jax import errors


def unknown(field: str, kind: str, name: object, known: Iterable[str]) -> errors.UserError:
  """The error for a name that is not known, or not given (None): names the closest and all."""
  known = list(known)
  what = "missing" if name is None else f"unknown {kind} {name!r}"
  close = difflib.get_close_matches(str(name), known, n=1)
  hint = f"did you mean {close[0]!r}? " if close else ""
  return errors.UserError(f"{field}: {what}; {hint}known: {', '.join(known)}")


def call_named(
  section: str,
  registry: Mapping[str, Callable[..., Any]],
  config: Mapping[str, Any],
  *args: Any,
  common: Sequence[str] = (),
  **context: Any,
) -> Any:
  """Calls registry[config["name"]](*args, **context, **the rest of config).

  Arguments whose value is None are left to their defaults.

  Args:
    section: where `config` stands in the whole config, for the messages: 'schedule.name: …'.
    registry: functions by name; parameters that a config may set are those with a default.
    common: arguments that the caller has taken out of `config`, for the messages.
    context: parameters that the caller sets; the functions have no default for them.

  Raises:
    UserError: the name or an argument is unknown, or a flag's value is neither True nor False.
  """
  given = {field: value for field, value in dict(config).items() if value is not None}
  name = given.pop("name", None)
  if name not in registry:
    raise unknown(f"{section}.name", section, name, sorted(registry))
  parameters = inspect.signature(registry[name]).parameters.values()
  accepted = {p.name: p.default for p in parameters if p.default is not p.empty}
  for field, value in given.items():
    if field not in accepted:
      raise errors.UserError(
        f"{section}.{field}: {name!r} takes no such argument; "
        f"it takes: {', '.join([*accepted, *common]) or 'none'}"
      )
    if isinstance(accepted[field], bool) and not isinstance(value, bool):
      raise errors.UserError(f"{section}.{field}: must be True or False, got {value!r}")
  return registry[name](*args, **context, **given)


def check_number(
  field: str, value: Any, requirement: str, holds: Callable[[Any], bool] = lambda x: True
) -> None:
  """Raises UserError unless `value` is a finite number for which `holds`, or a JAX array.

  A JAX array may be traced, in which case nothing is known of its value.
  """
  import jax  # here, because `datasets` needs this module and not a second of jax's start-up

  if isinstance(value, jax.Array):
    return
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not (is_number and math.isfinite(value) and holds(value)):
    raise errors.UserError(f"{field}: must be {requirement}, got {value!r}")
