"""Names in configs: call the function that a name stands for, and report unknown names."""

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cifar_jax import errors


def unknown(field: str, kind: str, name: object, known: Iterable[str]) -> errors.UserError:
  """Return an error that lists the known names, for a name that is unknown or missing (None)."""
  known = list(known)
  problem = "missing" if name is None else f"unknown {kind} {name!r}"
  matches = difflib.get_close_matches(str(name), known, n=1)
  hint = f"did you mean {matches[0]!r}? " if matches else ""
  return errors.UserError(f"{field}: {problem}; {hint}known: {', '.join(known)}")


def call_named(
  section: str,
  registry: Mapping[str, Callable[..., Any]],
  config: Mapping[str, Any],
  *args: Any,
  common: Sequence[str] = (),
  **context: Any,
) -> Any:
  """Call registry[config["name"]] with `args`, `context` and the other fields of `config`.

  An argument whose value is None keeps its default.

  Args:
    section: the section's name, for messages such as 'schedule.name: …'.
    registry: functions by name. A config may set their parameters that have a default.
    args: the positional arguments.
    common: arguments that the caller has taken out of `config`; messages list them too.
    context: parameters that the caller sets; the functions have no default for them.

  Raises:
    UserError: the name or an argument is unknown, or a Boolean argument is neither True nor False.
  """
  arguments = {field: value for field, value in dict(config).items() if value is not None}
  name = arguments.pop("name", None)
  if name not in registry:
    raise unknown(f"{section}.name", section, name, sorted(registry))
  parameters = inspect.signature(registry[name]).parameters.values()
  accepted = {p.name: p.default for p in parameters if p.default is not p.empty}
  for field, value in arguments.items():
    if field not in accepted:
      raise errors.UserError(
        f"{section}.{field}: {name!r} takes no such argument; "
        f"it takes: {', '.join([*accepted, *common]) or 'none'}"
      )
    if isinstance(accepted[field], bool) and not isinstance(value, bool):
      raise errors.UserError(f"{section}.{field}: must be True or False, got {value!r}")
  return registry[name](*args, **context, **arguments)


def check_number(
  field: str, value: Any, requirement: str, holds: Callable[[Any], bool] = lambda x: True
) -> None:
  """Raise UserError unless `value` is a finite number that satisfies `holds`.

  Accept any JAX array, because the value of a traced array is unknown.
  """
  import jax  # here, because cifar_jax/data needs this module but not JAX

  if isinstance(value, jax.Array):
    return
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not (is_number and math.isfinite(value) and holds(value)):
    raise errors.UserError(f"{field}: must be {requirement}, got {value!r}")
