"""What --mode=check reports: items, and what is wrong with them."""

from collections.abc import Callable
from typing import NamedTuple


class Finding(NamedTuple):
  """Something that is damaged.

  Attributes:
    path: the file or folder.
    problem: what is wrong with it.
    remedy: what can be restored, and how.
    repair: does it; returns what it did. None if this program cannot.
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
    checked: what was looked at, such as '38 epochs, 4 checkpoints'.
    findings: what is damaged.
  """

  path: str
  kind: str
  checked: str
  findings: list[Finding]


def free_name(path: str, exists: Callable[[str], bool]) -> str:
  """Return a new name for what is set aside: path.damaged, path.damaged-2, and so on."""
  name, number = f"{path}.damaged", 1
  while exists(name):
    number += 1
    name = f"{path}.damaged-{number}"
  return name
