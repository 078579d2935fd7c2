"""How often the test images of a run were used: `test_uses.jsonl` in its folder.

Every evaluation on test images adds a line: its time, its mode and its purpose. The line is written
before the evaluation, so that no figure is ever seen without being counted. An evaluation that is
repeated, because the process was killed before it had written its results, counts again. Several
seeds that are evaluated together count once. A finished run that is started again evaluates
nothing, and so adds nothing.

A run that starts from the state or the weights of another run inherits that run's lines, and so its
count; the lines also say if those weights were selected on the test set. Lines are added and never
removed.

Uses of the test images through `Run.load_data` are not counted.
"""

import datetime
import json
import os

from etils import epath

from cifar_jax import errors
from cifar_jax.types import Row

FILE = "test_uses.jsonl"
OFFICIAL = "test"  # the name of the dataset's own test set


def record(folder: epath.PathLike, mode: str, purpose: str, test_set: str = OFFICIAL) -> None:
  """Add a use of test images to a run folder; call before the evaluation.

  Args:
    mode: the mode of the command, such as 'train'.
    purpose: what the figures are for, in a few words.
    test_set: the name of the images, if they are not the dataset's own test set.

  Raises:
    UserError: the file cannot be written.
  """
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  row = {"time": now, "mode": mode, "purpose": purpose, "test_set": test_set}
  _append(epath.Path(folder), [row])


def inherit(folder: epath.PathLike, parent: epath.PathLike) -> None:
  """Add the parent's uses to a run that starts from it, unless the folder has uses already.

  Args:
    folder: the folder of the run that starts.
    parent: the folder of the run that it starts from, or of that run's weights.safetensors.

  Raises:
    UserError: the file cannot be written.
  """
  if (epath.Path(folder) / FILE).exists():  # an earlier start, since killed, added them
    return
  path = epath.Path(parent)
  if "://" not in str(parent):
    path = path.expanduser().resolve()
  added = {"selected_on": "test"} if _is_selected_on_test(path) else {}
  rows = [
    row | {"inherited_from": row.get("inherited_from", path.name)} | added for row in uses(path)
  ]
  if rows:
    _append(epath.Path(folder), rows)


def uses(folder: epath.PathLike) -> list[Row]:
  """Return the uses of a run and of the runs that it started from, the oldest first.

  Each has the time, mode, purpose and test_set as `record` wrote them; inherited ones also have
  'inherited_from', the name of the run folder. A damaged line has none of these, and still counts.
  A finished run from before the file existed was tested at least once, at its end.
  """
  path = epath.Path(folder)
  if not (path / FILE).exists():
    return _uses_before_counting(path)
  rows = []
  for line in (path / FILE).read_bytes().split(b"\n"):
    if line:
      try:
        row = json.loads(line)
      except (ValueError, RecursionError):
        row = None
      rows.append(row if isinstance(row, dict) else {})
  return rows


def count(folder: epath.PathLike, test_set: str = OFFICIAL) -> int:
  """Return how often a run and the runs that it started from have used a test set."""
  return sum(row.get("test_set", OFFICIAL) == test_set for row in uses(folder))


def began_with_weights_selected_on_test(folder: epath.PathLike) -> bool:
  """Return whether a run that this run started from was selected on the test set."""
  return any(row.get("selected_on") == OFFICIAL for row in uses(folder))


def describe(number: int, images: str = "test images") -> str:
  """Return a count as text, such as 'test images used 3 times'."""
  times = {1: "once", 2: "twice"}.get(number, f"{number:,} times")
  return f"{images} used {times}" if number else f"{images} never used"


def _uses_before_counting(path: epath.Path) -> list[Row]:
  """Return the uses that results.json proves, and results_N_epochs.json of a continued run."""
  rows = []
  for file in sorted(path.glob("results*.json")):
    try:
      results = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
      continue
    if isinstance(results, dict) and results.get("test_accuracy") is not None:
      purpose = "selected weights, before uses were counted"
      row = {"mode": "train", "purpose": purpose, "test_set": OFFICIAL}
      rows.append({"time": results.get("finished"), **row})
  return rows


def _is_selected_on_test(path: epath.Path) -> bool:
  try:
    results = json.loads((path / "results.json").read_text())
  except (OSError, ValueError, RecursionError):
    return False
  return isinstance(results, dict) and results.get("selected_on") == OFFICIAL


def _append(path: epath.Path, rows: list[Row]) -> None:
  file = path / FILE
  if not file.exists():
    rows = [*_uses_before_counting(path), *rows]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  try:
    if "://" in str(path):  # files in buckets cannot be appended to
      old = file.read_text() if file.exists() else ""
      file.write_text(old + text)
      return
    with open(file, "ab") as stream:
      if stream.tell() and not _ends_with_newline(file):  # a killed process left a partial line
        text = "\n" + text
      stream.write(text.encode())
      stream.flush()
      os.fsync(stream.fileno())
  except OSError as error:
    raise errors.UserError(
      f"{file}: cannot be written ({error.strerror or error}), and test images are not used "
      "without a record; fix this, then run the same command again"
    ) from error


def _ends_with_newline(file: epath.Path) -> bool:
  with open(file, "rb") as stream:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"
