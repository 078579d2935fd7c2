"""Check, flatten and compare configs.

`check_config` rejects an invalid config before any expensive work starts. The arguments of the
model, optimizer, schedule and augmentation are checked when these are created, because only their
own functions define them.
"""

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import ml_collections

from cifar_jax import errors

# Values of config fields by full name, such as 'optimizer.learning_rate'.
Fields: TypeAlias = dict[str, Any]

METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_objective")
# Sections that may hold arguments which configs/default.py does not list.
_OPEN = ("model.", "optimizer.", "schedule.", "data.options.", "proxy.model.")
_CHOICES = {
  "dtype": ("auto", "float32", "bfloat16"),
  "data.normalize": ("standardize", "unit"),
  "plateau.mode": ("min", "max"),
  "early_stopping.mode": ("min", "max"),
  "select.mode": ("min", "max"),
}
_AT_LEAST = {
  "seed": 0,
  "num_seeds": 1,
  "num_epochs": 1,
  "batch_size": 1,
  "eval_batch_size": 1,
  "data.split_seed": 0,
  "data.train_examples": 0,
  "data.epoch_examples": 0,
  "data.resident_bytes": 0,
  "data.workers": 0,
  "optimizer.learning_rate": 0,
  "lookahead.every": 0,
  "lookahead.power": 0,
  "proxy.keep": 0,
  "proxy.learn_every": 1,
  "plateau.patience": 1,
  "plateau.min_delta": 0,
  "plateau.cooldown": 0,
  "plateau.min_lr": 0,
  "early_stopping.patience": 0,
  "early_stopping.min_delta": 0,
  "stop_on_spike.epochs": 1,
  "checkpoint_every": 1,
  "keep_every": 0,
  "microbatch": 0,
  "steps_per_dispatch": 0,
}
_AT_MOST = {  # devices hold all other integers as int32
  "num_seeds": 10_000,
  "data.split_seed": 2**32 - 1,
  "data.epoch_examples": 100_000_000,  # more example numbers would fill the memory
  "data.resident_bytes": 2**63 - 1,
}
_INT32_MAX = 2**31 - 1
_FLOAT32_MAX = 3.4e38


def flatten(config: Mapping[str, Any] | ml_collections.ConfigDict, prefix: str = "") -> Fields:
  """Return the fields of a config by full name; an empty section adds none."""
  fields: Fields = {}
  for key, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      fields |= flatten(value, f"{prefix}{key}.")
    else:
      fields[prefix + key] = value
  return fields


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Return the config as config.json stores it, with sections as dicts and tuples as lists."""
  return json.loads(json.dumps(config.to_dict()))


def from_json(
  saved: Mapping[str, Any], defaults: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Return the config in a config.json: lists become tuples, and missing fields get defaults.

  Args:
    saved: the content of config.json, without a run's history.
    defaults: a config that holds every field with its default.
  """

  def merge(section: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(known)
    for name, value in section.items():
      if isinstance(value, Mapping) and isinstance(known.get(name, {}), Mapping):
        value = merge(value, known.get(name, {}))
      merged[name] = _as_tuple(value)
    return merged

  return ml_collections.ConfigDict(merge(saved, defaults.to_dict()))


def _as_tuple(value: Any) -> Any:
  """Return a value with its lists converted to tuples."""
  return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def changed_fields(fields: Fields, reference: Fields) -> Fields:
  """Return the fields that are missing from `reference` or differ from it."""
  return {
    name: value
    for name, value in fields.items()
    if name not in reference or reference[name] != value
  }


def differences(before: Fields, after: Fields) -> dict[str, tuple[Any, Any]]:
  """Return the fields that differ, sorted, with both values; 'absent' marks a missing one."""
  names = sorted(before.keys() | after.keys())
  both = {name: (before.get(name, "absent"), after.get(name, "absent")) for name in names}
  return {name: values for name, values in both.items() if values[0] != values[1]}


def check_config(config: ml_collections.ConfigDict, defaults: ml_collections.ConfigDict) -> None:
  """Raise UserError, naming the field, if `config` has an unknown field or an invalid value.

  Args:
    defaults: a config that holds every field with its default, as configs/default.py returns it.
  """
  fields = flatten(config)
  _check_names_and_types(fields, flatten(defaults))
  _check_choices(fields)
  _check_limits(fields)
  _check_ranges(config)
  if config.data.file_by_file and config.data.train_examples:
    raise errors.UserError(
      "data.train_examples: cannot be combined with data.file_by_file; set one of the two"
    )
  if config.proxy.keep > config.batch_size:
    raise errors.UserError(
      f"proxy.keep: {config.proxy.keep} is more than the {config.batch_size} examples of a batch; "
      "lower it"
    )
  if config.microbatch:
    num_rows = config.proxy.keep or config.batch_size
    if num_rows % config.microbatch:
      raise errors.UserError(
        f"microbatch: {config.microbatch} does not divide the {num_rows} examples of a step; take "
        "a divisor"
      )
  _check_validation(config.data.validation)
  for name in ("loss.l2", "optimizer.lr_multipliers", "optimizer.freeze_after"):
    _check_rules(name, fields[name])
  for name in ("optimizer.freeze", "proxy.freeze"):
    for pattern in fields[name]:
      _check_pattern(name, pattern)
  for name in ("plateau", "early_stopping", "select"):
    _check_monitor(name, config)


def _check_names_and_types(fields: Fields, defaults: Fields) -> None:
  for name, value in fields.items():
    if name in defaults:
      _check_type(name, value, defaults[name])
    elif not name.startswith(_OPEN):
      raise errors.UserError(f"{name}: no such config field{_hint(name, defaults)}")
  for name, default in defaults.items():
    if any(field.startswith(f"{name}.") for field in fields):
      raise errors.UserError(f"{name}: must be of type {type(default).__name__}, not a section")
    if name not in fields:
      raise errors.UserError(
        f"{name}: missing from the config; start it from configs.default.get_config()"
      )


def _check_choices(fields: Fields) -> None:
  from cifar_jax.augment import test_time  # lazy, because reports and `prepare` need no JAX

  for name, choices in (_CHOICES | {"tta": ("", *test_time.KINDS)}).items():
    if fields[name] not in choices:
      known = ", ".join(choice or "''" for choice in choices)
      raise errors.UserError(f"{name}: {fields[name]!r} is not one of {known}")


def _check_limits(fields: Fields) -> None:
  for name, value in fields.items():
    least = _AT_LEAST.get(name)
    if least is not None and not value >= least:
      raise errors.UserError(f"{name}: {value!r} must be at least {least}")
    for number in _list_numbers(value):
      maximum = _AT_MOST.get(name, _INT32_MAX)
      if isinstance(number, int) and number > maximum:
        raise errors.UserError(f"{name}: {number!r} must be at most {maximum}")
      if not abs(number) <= _FLOAT32_MAX:
        raise errors.UserError(f"{name}: {number!r} must be finite, and fit in float32")
  if fields["seed"] + fields["num_seeds"] - 1 > _INT32_MAX:
    raise errors.UserError(
      f"seed: {fields['seed']} with num_seeds={fields['num_seeds']} gives seeds above "
      f"{_INT32_MAX}; lower it"
    )


def _list_numbers(value: object) -> Iterator[int | float]:
  """Yield a field's value if it is a number, or the numbers in it if it is a tuple."""
  if isinstance(value, (int, float)):
    yield value
  elif isinstance(value, (tuple, list)):
    for part in value:
      yield from _list_numbers(part)


def _check_ranges(config: ml_collections.ConfigDict) -> None:
  if not 0 <= config.loss.label_smoothing < 1:
    raise errors.UserError(f"loss.label_smoothing: {config.loss.label_smoothing} must be in [0, 1)")
  if not 0 < config.last_epoch <= 1:
    raise errors.UserError(f"last_epoch: {config.last_epoch} must be in (0, 1]")
  if not 0 <= config.ema_decay < 1:
    raise errors.UserError(f"ema_decay: {config.ema_decay} must be in [0, 1)")
  if config.stop_on_spike.factor and not config.stop_on_spike.factor > 1:
    raise errors.UserError(
      f"stop_on_spike.factor: {config.stop_on_spike.factor} must be more than 1, or 0 to never stop"
    )
  if not 0 <= config.lookahead.decay <= 1:
    raise errors.UserError(f"lookahead.decay: {config.lookahead.decay} must be in [0, 1]")


def _hint(name: str, known: Iterable[str]) -> str:
  matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  return f"; did you mean {matches[0]!r}?" if matches else "; see configs/default.py for all fields"


def _check_type(name: str, value: object, reference: object) -> None:
  if name == "data.validation":
    return
  wanted = type(reference)
  fits = isinstance(value, (int, float) if wanted is float else wanted)
  if wanted is not bool and isinstance(value, bool):
    fits = False
  if not fits:
    raise errors.UserError(f"{name}: {value!r} must be of type {wanted.__name__}")


def _check_validation(value: object) -> None:
  if isinstance(value, str):
    order, _, fraction = value.partition(":")
    is_valid = value in ("batch_1", "test") or (
      order in ("last", "random") and re.fullmatch(r"0?\.[0-9]+", fraction) is not None
    )
  else:
    is_valid = not isinstance(value, bool) and (
      (isinstance(value, float) and 0 <= value < 1) or (isinstance(value, int) and value >= 0)
    )
  if not is_valid:
    raise errors.UserError(
      f"data.validation: {value!r} must be a fraction in [0, 1), a count of examples, "
      "'batch_1', 'test', 'last:0.2' or 'random:0.2'"
    )


def _check_rules(name: str, rules: Iterable[object]) -> None:
  for rule in rules:
    if not (
      isinstance(rule, tuple | list)
      and len(rule) == 2
      and isinstance(rule[0], str)
      and isinstance(rule[1], int | float)
      and 0 <= rule[1] < math.inf
    ):
      raise errors.UserError(
        f"{name}: {rule!r} must be a pair (pattern of parameter paths, number >= 0)"
      )
    _check_pattern(name, rule[0])


def _check_pattern(name: str, pattern: object) -> None:
  reason = "it must be a string"
  if isinstance(pattern, str):
    try:
      re.compile(pattern)
      return
    except (re.error, RecursionError, OverflowError) as error:
      reason = str(error)
  raise errors.UserError(f"{name}: {pattern!r} is not a regular expression ({reason})")


def _check_monitor(section: str, config: ml_collections.ConfigDict) -> None:
  monitor = config[section].monitor
  if not monitor:
    return
  if monitor not in METRICS:
    raise errors.UserError(f"{section}.monitor: {monitor!r} is not one of {', '.join(METRICS)}")
  if monitor == "val_objective" and not config.loss.l2:
    raise errors.UserError(
      f"{section}.monitor: 'val_objective' is the loss with its penalties, but loss.l2 is empty; "
      "use 'val_loss'"
    )
  mode, best = config[section].mode, "max" if monitor.endswith("accuracy") else "min"
  if mode != best:
    raise errors.UserError(
      f"{section}.mode: {mode!r} would take the worst {monitor} for the best; set it to {best!r}"
    )
  if monitor.startswith("val_") and not config.data.validation:
    raise errors.UserError(
      f"{section}.monitor: {monitor!r} needs validation examples, but data.validation is "
      f"{config.data.validation!r}; set it, or set {section}.monitor=''"
    )
