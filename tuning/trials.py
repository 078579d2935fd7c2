"""The trials of a sweep: what the command line says, the config of each, and its name."""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
from etils import epath

import experiment
from cifar_jax import errors
from cifar_jax.config import check_config, flatten
from cifar_jax.runs import run_folder
from configs import default
from configs.sweeps import Sweep, grid

_OPTIONS = ("at_once", "rank_by")  # of a sweep, which no config field is called
_LONGEST = 120  # characters of a name; file systems take 255


@dataclasses.dataclass(frozen=True)
class Trial:
  """One run of a sweep.

  Attributes:
    name: of its folder; a function of `fields` alone, so that a sweep may grow.
    fields: what the sweep sets, by name.
    config: the base config with the fields set, not resolved.
    path: its run folder.
  """

  name: str
  fields: Mapping[str, Any]
  config: ml_collections.ConfigDict
  path: epath.Path


def parse(text: str) -> Sweep:
  """A sweep from the command line.

  Args:
    text: a file of configs/sweeps/, or fields with values to be combined in every way, such as
      'optimizer.learning_rate=0.1,0.01 model.widths=(16,16),(32,32)'; quotes hold spaces and
      commas together. 'at_once=…' and 'rank_by=…' after either set these of the sweep.

  Raises:
    UserError: it is neither, or the file holds no sweep.
  """
  fields: dict[str, list[Any]] = {}
  options: dict[str, Any] = {}
  file, *words = _split(text, str.isspace) or [""]
  if not file.endswith(".py"):
    file, words = "", [file, *words]
  for word in words:
    name, equals, values = word.partition("=")
    if not equals or not name:
      raise errors.UserError(
        f"--sweep: {word!r} is neither a .py file nor field=value,value such as seed=0,1"
      )
    if name in fields or name in options:
      raise errors.UserError(f"--sweep: {name} is there twice; give all its values at once")
    found = [_literal(name, value) for value in _split(values, ",".__eq__, keep_empty=True)]
    if name in _OPTIONS:
      (options[name],) = found if len(found) == 1 else [tuple(found)]
    elif file:
      raise errors.UserError(
        f"--sweep: {name}: fields cannot be added to a file's; edit a copy of {file}"
      )
    else:
      fields[name] = found
  return dataclasses.replace(_load(file), **options) if file else grid(fields, **options)


def expand(
  sweep: Sweep, config: ml_collections.ConfigDict | None, folder: epath.Path
) -> list[Trial]:
  """The trials, every config checked, none of them in the way of what `folder` holds.

  Args:
    config: what the trials start from; None for the sweep's own base.

  Raises:
    UserError: a field is wrong, or would rank by test images, or `folder` has another sweep's runs.
  """
  if config is None:
    if sweep.base is None:
      raise errors.UserError("--config: missing; name what the sweep's trials start from")
    config = sweep.base.get_config()
  trials: dict[str, Trial] = {}
  for fields in sweep.trials:
    own = config.copy_and_resolve_references()
    for name, value in fields.items():
      set_field(own, name, value)
    _check_validation(own)
    resolved = experiment.resolve(own)
    name = name_of(fields)
    if name in trials:
      raise errors.UserError(f"sweep: two trials are the same: {name}; leave one out")
    path = folder / "trials" / name
    if (path / "config.json").exists():
      run_folder.RunFolder(path, writer=False).refuse_other_config(resolved, default.get_config())
    trials[name] = Trial(name, fields, own, path)
  return list(trials.values())


def set_field(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
  """Sets the field called `name`, such as 'optimizer.learning_rate'; check_config does the rest."""
  *sections, leaf = name.split(".")
  for section in sections:
    if section not in config:
      config[section] = ml_collections.ConfigDict()
    config = config[section]
    if not isinstance(config, ml_collections.ConfigDict):
      raise errors.UserError(f"{name}: no such config field; {section} is a value, not a section")
  try:
    config[leaf] = value
  except TypeError:  # of another type; check_config says so in better words
    with config.ignore_type():
      config[leaf] = value


def _check_validation(config: ml_collections.ConfigDict) -> None:
  check_config(config, default.get_config())
  if config.data.validation == "test" or not config.data.validation:
    raise errors.UserError(
      f"data.validation: a sweep is ranked by validation examples out of the training set, and "
      f"this is {config.data.validation!r}; give a fraction such as 0.1"
    )


def _load(file: str) -> Sweep:
  path = pathlib.Path(file).expanduser()
  if not path.is_file():
    raise errors.UserError(f"--sweep: {file}: no such file")
  spec = importlib.util.spec_from_file_location(f"sweep_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    made = module.get_sweep()
  except errors.UserError:
    raise
  except Exception as error:  # it is a program, and can fail in any way
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise errors.UserError(f"--sweep: {file}: cannot be loaded ({reason})") from error
  if not isinstance(made, Sweep):
    raise errors.UserError(
      f"--sweep: {file}: get_sweep() returned {type(made).__name__}; return what "
      "configs.sweeps.grid, random or listed do"
    )
  return made


def _split(text: str, separates: Callable[[str], bool], keep_empty: bool = False) -> list[str]:
  """The parts of `text` between separators that are in no brackets and no quotes."""
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
    raise errors.UserError(f"--sweep: {text!r}: a bracket or quote has no partner")
  return [part for part in parts if part or keep_empty]


def _literal(name: str, text: str) -> Any:
  if not text:
    raise errors.UserError(f"--sweep: {name}: a value is empty; write '' for an empty text")
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def name_of(fields: Mapping[str, Any]) -> str:
  """Readable, safe in every file system, and another one for other fields."""
  parts, exact = [], True
  for name, value in sorted(fields.items()):
    label, label_exact = _slug(_short(name))
    text, text_exact = _value_slug(value)
    parts.append(f"{label}={text}")
    exact = exact and label_exact and text_exact
  whole = "__".join(parts) or "base"
  if exact and len(whole) <= _LONGEST:
    return whole
  digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=repr).encode()).hexdigest()
  return f"{whole[:_LONGEST]}-{digest[:8]}"


def _short(field: str) -> str:
  """The last word of a field's name, if no other field has the same word."""
  word = field.split(".")[-1]
  return word if _fields_by_last_word().get(word, [f"model.{word}"]) == [field] else field


@functools.cache
def _fields_by_last_word() -> dict[str, list[str]]:
  found: dict[str, list[str]] = {}
  for name in flatten(default.get_config()):
    found.setdefault(name.split(".")[-1], []).append(name)
  return found


def _value_slug(value: Any) -> tuple[str, bool]:
  """A value as part of a file's name, and whether no other value has the same."""
  if isinstance(value, bool) or value is None:
    return str(value).lower(), True
  if isinstance(value, int | float):
    return repr(value).replace("+", ""), True
  if isinstance(value, tuple | list) and value and all(type(item) is int for item in value):
    return "x".join(map(str, value)) + ("x" if len(value) == 1 else ""), True
  text, exact = _slug(value if isinstance(value, str) else repr(value))
  is_word = isinstance(value, str) and re.fullmatch(r"[a-z][a-z_]*[0-9]*", value)
  return text, exact and bool(is_word) and value not in ("true", "false", "none", "nan", "inf")


def _slug(text: str) -> tuple[str, bool]:
  slug = re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._") or "empty"
  return slug, slug == text and "__" not in text
