"""Rules in a config that select parameters by patterns (re.search) of their paths.

A path joins a parameter's names with slashes, such as 'ResNetBlock_0/Conv_1/kernel'.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from cifar_jax import errors
from cifar_jax.registry import check_number
from cifar_jax.types import PyTree


def join_path(path: tuple[Any, ...]) -> str:
  """Return a parameter's path from its keys in the tree."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def list_paths(params: PyTree) -> list[str]:
  """Return the paths of all parameters, in the order of jax.tree.leaves."""
  return [join_path(path) for path, _ in jax.tree.leaves_with_path(params)]


def kernel_mask(params: PyTree) -> PyTree:
  """Return True for leaves named 'kernel' (of convolutions and dense layers), otherwise False."""
  return jax.tree.map_with_path(lambda path, _: join_path(path).split("/")[-1] == "kernel", params)


def match_rules(
  field: str, rules: Iterable[tuple[str, float]], params: PyTree
) -> list[float | None]:
  """Return, for each parameter, the number in the first rule whose pattern matches, or None.

  Args:
    field: the config's field that holds the rules, for errors.
    rules: (pattern, number >= 0) pairs.
    params: a tree of parameters; the result has the order of its leaves.

  Raises:
    UserError: a rule is not such a pair, or is not the first match of any parameter.
  """
  compiled = [_compile_rule(field, rule) for rule in rules]
  paths = list_paths(params)
  matches = [
    next((i for i, (pattern, _) in enumerate(compiled) if pattern.search(path)), None)
    for path in paths
  ]
  for i, (pattern, _) in enumerate(compiled):
    if i not in matches:
      is_shadowed = any(pattern.search(path) for path in paths)
      matched = "only parameters that an earlier pattern matches" if is_shadowed else "no parameter"
      raise _no_match(field, pattern.pattern, matched, paths)
  return [None if i is None else compiled[i][1] for i in matches]


def label_frozen(frozen: Mapping[str, tuple[str, ...]], params: PyTree) -> PyTree:
  """Return 'frozen' for parameters whose path matches a pattern, 'trained' for the others.

  frozen: patterns by the config's field that holds them, for errors.

  Raises:
    UserError: a pattern matches no parameter.
  """
  paths = list_paths(params)
  for field, patterns in frozen.items():
    for pattern in patterns:
      if not any(re.search(pattern, path) for path in paths):
        raise _no_match(field, pattern, "no parameter", paths)

  def label(path: tuple[Any, ...], _: jax.Array) -> str:
    patterns = itertools.chain.from_iterable(frozen.values())
    is_frozen = any(re.search(pattern, join_path(path)) for pattern in patterns)
    return "frozen" if is_frozen else "trained"

  return jax.tree.map_with_path(label, params)


def _no_match(field: str, pattern: str, matched: str, paths: list[str]) -> errors.UserError:
  examples = ", ".join(paths[:5]) + (", …" if len(paths) > 5 else "")
  return errors.UserError(f"{field}: pattern {pattern!r} matches {matched}; parameters: {examples}")


def _compile_rule(field: str, rule: tuple[str, float]) -> tuple[re.Pattern[str], float]:
  """Return a checked rule of `field` with its pattern compiled."""
  if not (isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)):
    raise errors.UserError(
      f"{field}: must be (pattern, number) pairs such as (('kernel', 1e-4),), got {rule!r}"
    )
  pattern, number = rule
  check_number(field, number, f"a number >= 0 for {pattern!r}", lambda x: x >= 0)
  try:
    return re.compile(pattern), float(number)  # as an integer it might not fit into int32
  except re.error as error:
    raise errors.UserError(f"{field}: {pattern!r} is not a regular expression: {error}") from error
