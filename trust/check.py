"""--mode=check: verify every hash of the run folders and the data below some folders.

Nothing is changed without `repair`, and `repair` deletes nothing: it sets damaged checkpoints,
files and folders aside, and writes again what another file also holds.
"""

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

from cifar_jax import errors
from cifar_jax.runtime.console import log
from cifar_jax.runtime.text_table import format_table
from trust import check_data, check_run
from trust.findings import Item

# Subfolders of a run folder that contain no other item.
_PARTS = {"checkpoints", "tensorboard", "plots", "evaluation", "export", "profile"}


def check(paths: Sequence[str], repair: bool = False, as_json: bool = False) -> tuple[str, int]:
  """Check everything below some folders; return the text to print and the exit code.

  Args:
    paths: folders, or single archives.
    repair: whether to restore what can be restored.

  Returns:
    The text, and 1 if something is damaged that `repair` did not restore, else 0.

  Raises:
    UserError: a path does not exist, or holds nothing that can be checked.
  """
  if not paths:
    raise errors.UserError("--mode=check: no folders; name run folders or data directories")
  items = [item for path in paths for item in _check_path(pathlib.Path(path).expanduser())]
  entries, num_left = [], 0
  for item in items:
    for finding in item.findings:
      done = _repair(finding.repair) if repair and finding.repair else ""
      num_left += not done.startswith("repaired")
      entries.append((finding, done))
  if as_json:
    text = json.dumps({"items": [_as_json(item) for item in items], "damaged": num_left}, indent=2)
    return text, int(num_left > 0)
  rows = [
    (item.path, item.kind, "DAMAGED" if item.findings else "intact", item.checked) for item in items
  ]
  lines = [format_table(("path", "what", "result", "checked"), rows)]
  for finding, done in entries:
    is_possible = finding.repair and not repair
    hint = " (--repair does this without deleting)" if is_possible else ""
    lines.append(f"{finding.path}: {finding.problem}; {done or finding.remedy + hint}")
  num_damaged = sum(bool(item.findings) for item in items)
  lines.append(f"{len(items)} checked, {num_damaged} damaged")
  return "\n".join(lines), int(num_left > 0)


def _check_path(path: pathlib.Path) -> list[Item]:
  if not path.exists():
    raise errors.UserError(f"{path}: does not exist; name run folders or data directories")
  items = []
  for item in _walk(path):
    log.info("%s: %s", item.path, "damaged" if item.findings else "intact")
    items.append(item)
  if not items:
    raise errors.UserError(
      f"{path}: holds no run, no dataset and no archive of a known name; name a run folder, a "
      "folder of runs or a data directory"
    )
  return items


def _walk(path: pathlib.Path) -> Iterator[Item]:
  """Check and yield every item at or below a path, in the order of their names."""
  if path.is_file():
    if path.name in check_data.PUBLISHED:
      yield check_data.check_archive(path)
    return
  for name, folders, files in os.walk(path):
    folder = pathlib.Path(name)
    folders[:] = sorted(folder for folder in folders if ".damaged" not in folder)
    if check_run.is_run(files, folders):
      yield check_run.check_run(folder)
      folders[:] = [folder for folder in folders if folder not in _PARTS]
    if "sweep.json" in files:
      yield check_run.check_sweep(folder)
    if check_data.is_tfds(files):
      yield check_data.check_tfds(folder)
    if check_data.is_decoded(files):
      yield check_data.check_decoded(folder)
    for file in sorted(check_data.PUBLISHED.keys() & set(files)):
      yield check_data.check_archive(folder / file)


def _repair(repair: Callable[[], str]) -> str:
  """Call a repair; return what it did, or why it failed."""
  try:
    return f"repaired: {repair()}"
  except (OSError, errors.UserError) as error:
    return f"not repaired ({error})"


def _as_json(item: Item) -> dict[str, object]:
  findings = [
    {
      "path": finding.path,
      "problem": finding.problem,
      "remedy": finding.remedy,
      "can_repair": finding.repair is not None,
    }
    for finding in item.findings
  ]
  return item._asdict() | {"findings": findings}
