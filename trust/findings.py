"""The report of --mode=check: items, and what is wrong with them."""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple


class Finding(NamedTuple):
  """Something that is damaged.

  Attributes:
    path: the file or folder.
    problem: what is wrong with it.
    remedy: what can be restored, and how.
    repair: a function that repairs this and returns what it did; None if this program cannot.
  """

  path: str
  problem: str
  remedy: str
  repair: Callable[[], str] | None = None


class Item(NamedTuple):
  """A run folder, a dataset or a file that was checked.

  Attributes:
    path: where it is.
    kind: 'run', 'sweep', 'dataset', 'decoded images' or 'archive'.
    checked: what was checked, such as '38 epochs, 4 checkpoints'.
    findings: what is damaged.
  """

  path: str
  kind: str
  checked: str
  findings: list[Finding]


def setting_aside(path: pathlib.Path, then: str = "") -> Callable[[], str]:
  """Return a repair that renames a file or folder; `then` is added to what it returns."""

  def repair() -> str:
    target, number = f"{path}.damaged", 1
    while os.path.exists(target):
      number += 1
      target = f"{path}.damaged-{number}"
    os.rename(path, target)
    return f"moved to {target}{then}"

  return repair
