"""The trials of a sweep: parse --sweep, make the config of each trial, and name it."""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import ml_collections
from etils import epath

import experiment
from cifar_jax import errors
from cifar_jax.config import check_config, flatten
from cifar_jax.runs import run_folder
from configs import default
from configs.sweeps import Sweep, grid

_OPTIONS = ("at_once", "rank_by")  # options of a sweep; no config field has these names
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


def parse(text: str) -> Sweep:
  """Parse the value of --sweep.

  Args:
    text: a file of configs/sweeps/, or fields with values to combine in every way, such as
      'optimizer.learning_rate=0.1,0.01 model.widths=(16,16),(32,32)'. Quotes protect spaces and
      commas. Both may be followed by 'at_once=…' and 'rank_by=…', which set the sweep's options.

  Raises:
    UserError: the text is neither, or the file defines no sweep.
  """
  fields: dict[str, list[Any]] = {}
  options: dict[str, Any] = {}
  file, *words = _split(text, str.isspace) or [""]
  if not file.endswith(".py"):
    file, words = "", [file, *words]
  for word in words:
    name, equals, joined_values = word.partition("=")
    if not equals or not name:
      raise errors.UserError(
        f"--sweep: {word!r} is neither a .py file nor field=value,value such as seed=0,1"
      )
    if name in fields or name in options:
      raise errors.UserError(f"--sweep: {name} is given twice; give all its values at once")
    parts = _split(joined_values, ",".__eq__, keep_empty=True)
    values = [_literal(name, part) for part in parts]
    if name in _OPTIONS:
      (options[name],) = values if len(values) == 1 else [tuple(values)]
    elif file:
      raise errors.UserError(
        f"--sweep: {name}: a file's fields cannot be extended here; edit a copy of {file}"
      )
    else:
      fields[name] = values
  return dataclasses.replace(_load(file), **options) if file else grid(fields, **options)


def base_of(
  sweep: Sweep, config: ml_collections.ConfigDict | None
) -> tuple[ModuleType, ml_collections.ConfigDict]:
  """Return the config that trials start from, and the module that best.py starts from.

  Args:
    config: the config of the command line, which takes precedence; None for the sweep's base.

  Raises:
    UserError: there is neither.
  """
  if config is not None:
    return default, config
  if sweep.base is None:
    raise errors.UserError("--config: missing; name the config that the trials start from")
  return sweep.base, sweep.base.get_config()


def expand(
  sweep: Sweep, config: ml_collections.ConfigDict | None, folder: epath.Path
) -> list[Trial]:
  """Return the trials of a sweep, each with a valid config.

  Args:
    config: the config that the trials start from; None for the sweep's base.
    folder: the sweep's folder.

  Raises:
    UserError: a field is invalid or selects by test images, two trials are the same, or `folder`
      holds a trial of the same name with another config.
  """
  _, config = base_of(sweep, config)
  trials: dict[str, Trial] = {}
  for fields in sweep.trials:
    trial_config = config.copy_and_resolve_references()
    for name, value in fields.items():
      set_field(trial_config, name, value)
    _check_validation(trial_config)
    resolved = experiment.resolve(trial_config)
    name = name_of(fields)
    if name in trials:
      raise errors.UserError(f"sweep: two trials are the same: {name}; leave one out")
    path = folder / "trials" / name
    if (path / "config.json").exists():
      run_folder.RunFolder(path, writer=False).raise_if_other_config(resolved, default.get_config())
    trials[name] = Trial(name, fields, trial_config, path)
  return list(trials.values())


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
  except TypeError:  # another type than before, for which check_config has a better message
    with config.ignore_type():
      config[leaf] = value


def _check_validation(config: ml_collections.ConfigDict) -> None:
  check_config(config, default.get_config())
  if config.data.validation == "test" or not config.data.validation:
    raise errors.UserError(
      f"data.validation: {config.data.validation!r} leaves no validation examples to rank a sweep "
      "by; give a fraction of the training set such as 0.1"
    )


def _load(file: str) -> Sweep:
  """Return the sweep that `get_sweep()` of a Python file returns."""
  path = pathlib.Path(file).expanduser()
  if not path.is_file():
    raise errors.UserError(f"--sweep: {file}: no such file")
  spec = importlib.util.spec_from_file_location(f"sweep_{path.stem}", path)
  assert spec is not None and spec.loader is not None  # true of every .py file
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    sweep = module.get_sweep()
  except errors.UserError:
    raise
  except Exception as error:  # the file is a program, which can fail in any way
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise errors.UserError(f"--sweep: {file}: cannot be loaded ({reason})") from error
  if not isinstance(sweep, Sweep):
    raise errors.UserError(
      f"--sweep: {file}: get_sweep() returned {type(sweep).__name__}; return a Sweep, as "
      "configs.sweeps.grid, random and listed do"
    )
  return sweep


def _split(text: str, separates: Callable[[str], bool], keep_empty: bool = False) -> list[str]:
  """Split `text` at separators outside of brackets and quotes."""
  parts, quote, depth, escaped = [""], "", 0, False
  for character in text:
    if quote:
      quote = "" if character == quote and not escaped else quote
      escaped = character == "\\" and not escaped
    elif character in "'\"":
      quote = character
    elif character in "([{":
      depth += 1
    elif character in ")]}":
      depth -= 1
    elif depth == 0 and separates(character):
      parts.append("")
      continue
    parts[-1] += character
    if depth < 0:
      break
  if quote or depth:
    raise errors.UserError(f"--sweep: {text!r}: a bracket or quote has no partner; add it")
  return [part for part in parts if part or keep_empty]


def _literal(name: str, text: str) -> Any:
  """Return the value of a Python literal, and any other text itself."""
  if not text:
    raise errors.UserError(f"--sweep: {name}: a value is empty; write '' for an empty string")
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def name_of(fields: Mapping[str, Any]) -> str:
  """Return the name of a trial: readable, safe in every file system, different for other fields."""
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
