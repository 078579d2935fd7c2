"""The trials of a sweep: their configs and their names."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import ml_collections
from etils import epath

import experiment
from cifar_jax import errors
from cifar_jax.config import check_config, flatten
from cifar_jax.runs import run_folder
from configs import default
from configs.sweeps import Sweep

_NAME_LENGTH = 120  # characters at most; file systems allow 255


@dataclasses.dataclass(frozen=True)
class Trial:
  """One run of a sweep.

  Attributes:
    name: the name of its folder. The name depends on `fields` only, so that a sweep may grow.
    fields: the fields that the sweep sets, by name.
    config: the base config with these fields, unresolved.
    path: the run folder.
  """

  name: str
  fields: Mapping[str, Any]
  config: ml_collections.ConfigDict
  path: epath.Path


def choose_base(
  sweep: Sweep, config: ml_collections.ConfigDict | None
) -> tuple[ModuleType, ml_collections.ConfigDict]:
  """Return the module that best.py starts from, and the config that trials start from.

  Args:
    config: the command line's config, which takes precedence; None for the sweep's base.

  Raises:
    UserError: neither is given.
  """
  if config is not None:
    return default, config
  if sweep.base is None:
    raise errors.UserError("--config: missing; name the config that the trials start from")
  return sweep.base, sweep.base.get_config()


def expand(
  sweep: Sweep, config: ml_collections.ConfigDict | None, folder: epath.Path
) -> list[Trial]:
  """Return the trials that a sweep lists, each with a valid config; [] if it has a search space.

  Args:
    config: the config that the trials start from; None for the sweep's base.
    folder: the sweep's folder.

  Raises:
    UserError: two trials are the same, the first rung is too late, or `make_trial` raises it for a
      trial or for the ends of the search space.
  """
  _, config = choose_base(sweep, config)
  trials: dict[str, Trial] = {}
  for fields in sweep.trials:
    trial = make_trial(fields, config, folder)
    if trial.name in trials:
      raise errors.UserError(f"sweep: two trials are the same: {trial.name}; leave one out")
    trials[trial.name] = trial
  ends = [draw.values_to_check() for draw in sweep.space.values()]
  for i in range(max(map(len, ends), default=0)):
    values = (column[min(i, len(column) - 1)] for column in ends)
    make_trial(dict(zip(sweep.space, values, strict=True)), config, folder)
  if sweep.pruner and sweep.first_rung >= config.num_epochs:
    raise errors.UserError(
      f"first_rung: {sweep.first_rung} must be less than num_epochs, which is {config.num_epochs}"
    )
  return list(trials.values())


def make_trial(
  fields: Mapping[str, Any], config: ml_collections.ConfigDict, folder: epath.Path
) -> Trial:
  """Return the trial that sets these fields of a config.

  Args:
    folder: the sweep's folder.

  Raises:
    UserError: a field is invalid, there are no validation examples besides test images, or `folder`
      holds a trial of the same name with another config.
  """
  trial_config = config.copy_and_resolve_references()
  for name, value in fields.items():
    set_field(trial_config, name, value)
  _check_trial_config(trial_config)
  resolved = experiment.resolve(trial_config)
  name = name_trial(fields)
  path = folder / "trials" / name
  if (path / "config.json").exists():
    run_folder.RunFolder(path, writer=False).raise_if_other_config(resolved, default.get_config())
  return Trial(name, fields, trial_config, path)


def set_field(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
  """Set a field by full name, such as 'optimizer.learning_rate'; any name and type is accepted.

  Missing sections are created. `check_config` rejects unknown names and wrong types.

  Raises:
    UserError: a part of the name before the last is a value, not a section.
  """
  *sections, leaf = name.split(".")
  for section in sections:
    if section not in config:
      config[section] = ml_collections.ConfigDict()
    config = config[section]
    if not isinstance(config, ml_collections.ConfigDict):
      raise errors.UserError(f"{name}: no such config field; {section} is a value, not a section")
  try:
    config[leaf] = value
  except TypeError:  # a different type, for which check_config has a better message
    with config.ignore_type():
      config[leaf] = value


def _check_trial_config(config: ml_collections.ConfigDict) -> None:
  check_config(config, default.get_config())
  if config.data.validation == "test" or not config.data.validation:
    raise errors.UserError(
      f"data.validation: {config.data.validation!r} leaves no validation examples to rank a sweep "
      "by; give a fraction of the training set such as 0.1"
    )


def name_trial(fields: Mapping[str, Any]) -> str:
  """Return the name of a trial: readable, safe in every file system, and unique to its fields."""
  parts, is_unique = [], True
  for name, value in sorted(fields.items()):
    label, label_is_unique = _slug(_short(name))
    text, text_is_unique = _value_slug(value)
    parts.append(f"{label}={text}")
    is_unique = is_unique and label_is_unique and text_is_unique
  readable = "__".join(parts) or "base"
  if is_unique and len(readable) <= _NAME_LENGTH:
    return readable
  digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=repr).encode()).hexdigest()
  return f"{readable[:_NAME_LENGTH]}-{digest[:8]}"


def _short(field: str) -> str:
  """Return the last word of a field's name if no other field ends with it, else the full name."""
  word = field.split(".")[-1]
  return word if _fields_by_last_word().get(word, [f"model.{word}"]) == [field] else field


@functools.cache
def _fields_by_last_word() -> dict[str, list[str]]:
  fields: dict[str, list[str]] = {}
  for name in flatten(default.get_config()):
    fields.setdefault(name.split(".")[-1], []).append(name)
  return fields


def _value_slug(value: Any) -> tuple[str, bool]:
  """Return a value as part of a file's name, and whether no other value has the same text."""
  if isinstance(value, bool) or value is None:
    return str(value).lower(), True
  if isinstance(value, int | float):
    return repr(value).replace("+", ""), True
  if isinstance(value, tuple | list) and value and all(type(item) is int for item in value):
    return "x".join(map(str, value)) + ("x" if len(value) == 1 else ""), True
  text, is_unique = _slug(value if isinstance(value, str) else repr(value))
  is_word = isinstance(value, str) and re.fullmatch(r"[a-z][a-z_]*[0-9]*", value)
  return text, is_unique and bool(is_word) and value not in ("true", "false", "none", "nan", "inf")


def _slug(text: str) -> tuple[str, bool]:
  """Return a text as part of a file's name, and whether it is unchanged."""
  slug = re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._") or "empty"
  return slug, slug == text and "__" not in text
