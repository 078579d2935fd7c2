"""Parse the value of --sweep."""

import ast
import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

from cifar_jax import errors
from configs import sweeps
from configs.sweeps import Range, Sweep

# Options of a sweep and of its sampler; no config field has these names.
_OPTIONS = ("at_once", "rank_by", "pruner", "first_rung", "reduction")
_SAMPLING = ("sampler", "count", "sampler_seed")
_RANGES: dict[str, Callable[..., Range]] = {
  "uniform": sweeps.uniform,
  "log_uniform": sweeps.log_uniform,
  "integers": sweeps.integers,
}


def parse(text: str) -> Sweep:
  """Parse the value of --sweep.

  Args:
    text: a file of configs/sweeps/, or fields with values to combine in every way, such as
      'optimizer.learning_rate=0.1,0.01 model.widths=(16,16),(32,32)'. Quotes protect spaces and
      commas. With 'sampler=random count=20', or sampler=tpe, that many trials are drawn, and
      values may also be uniform(low,high), log_uniform(low,high) and integers(low,high). Either
      may be followed by options of Sweep, such as 'at_once=…', 'rank_by=…' and 'pruner=halving'.

  Raises:
    UserError: the text is none of these, or the file defines no sweep.
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
    values = [_parse_value(name, part) for part in parts]
    if name in _OPTIONS or (name in _SAMPLING and not file):
      (options[name],) = values if len(values) == 1 else [tuple(values)]
    elif file:
      raise errors.UserError(
        f"--sweep: {name}: a file's fields cannot be extended here; edit a copy of {file}"
      )
    else:
      fields[name] = values
  return dataclasses.replace(_load(file), **options) if file else _make_sweep(fields, options)


def _make_sweep(fields: dict[str, list[Any]], options: dict[str, Any]) -> Sweep:
  """Return the sweep of these fields, made by the sampler in `options`."""
  ranges = [name for name, values in fields.items() if any(isinstance(v, Range) for v in values)]
  sampler = options.pop("sampler", "grid")
  if sampler == "grid":
    if ranges:
      raise errors.UserError(
        f"--sweep: {ranges[0]}: a range cannot be part of a grid; add sampler=random or "
        "sampler=tpe, and count=20"
      )
    for name in _SAMPLING:
      if name in options:
        raise errors.UserError(
          f"--sweep: {name}: a grid has every combination; add sampler=random or sampler=tpe"
        )
    return sweeps.grid(fields, **options)
  if sampler not in ("random", "tpe"):
    raise errors.UserError(f"--sweep: sampler: {sampler!r} is not one of grid, random, tpe")
  if "count" not in options:
    raise errors.UserError("--sweep: count: missing; give the number of trials, such as count=20")
  for name in ranges:
    if len(fields[name]) > 1:
      raise errors.UserError(f"--sweep: {name}: a range cannot have further values; leave one out")
  space = {name: values[0] if name in ranges else values for name, values in fields.items()}
  return (sweeps.random if sampler == "random" else sweeps.tpe)(space, **options)


def _load(file: str) -> Sweep:
  """Return the sweep that `get_sweep()` of a Python file returns."""
  path = pathlib.Path(file).expanduser()
  if not path.is_file():
    raise errors.UserError(f"--sweep: {file}: no such file")
  spec = importlib.util.spec_from_file_location(f"sweep_{path.stem}", path)
  assert spec is not None and spec.loader is not None  # never None for a .py file
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
      "configs.sweeps.grid, random, tpe and listed do"
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
    raise errors.UserError(f"--sweep: {text!r}: a bracket or quote is unmatched; add its partner")
  return [part for part in parts if part or keep_empty]


def _parse_value(name: str, text: str) -> Any:
  """Return the value of a Python literal, the Range of a call, or any other text unchanged."""
  if not text:
    raise errors.UserError(f"--sweep: {name}: a value is empty; write '' for an empty string")
  call, bracket, _ = text.partition("(")
  if bracket and call in _RANGES:
    return _parse_range(name, call, text)
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _parse_range(name: str, call: str, text: str) -> Range:
  try:
    node = ast.parse(text, mode="eval").body
    if not isinstance(node, ast.Call):
      raise ValueError
    keywords = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
    return _RANGES[call](*map(ast.literal_eval, node.args), **keywords)
  except (TypeError, ValueError, SyntaxError):
    raise errors.UserError(
      f"--sweep: {name}: {text!r} is not a range; write {call}(low,high) with two numbers"
    ) from None
