"""Checks of run folders: JSON files, whether these agree, and the arrays of every checkpoint."""

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import filelock
import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.runs import checkpoint_arrays, checkpoint_files, checkpoints, run_folder
from cifar_jax.types import Row
from trust.findings import Finding, Item, setting_aside

_BEST_EPOCH = "control.select.best_epoch"  # in `latest`, counted from 0
_RESTORE = "restore the file from a copy"
_UNSET = object()


def is_run(files: list[str], folders: list[str]) -> bool:
  """Return whether a folder with these files and folders is a run folder."""
  parts = {"config.json", "dataset.json", "metrics.jsonl", "results.json"} & set(files)
  return len(parts) > 1 or (bool(parts) and "checkpoints" in folders)


def check_run(path: pathlib.Path) -> Item:
  """Check a run folder that no run is writing to."""
  if _is_busy(path):
    return Item(str(path), "run", "nothing, because a run is writing to it", [])
  run = _RunCheck(path)
  try:
    checked = run.check()
  except (LookupError, TypeError, ValueError, AttributeError) as error:
    checked = "not everything"
    problem = f"a file holds content that this program does not write ({error!r})"
    run.findings.append(Finding(str(path), problem, "restore the JSON files from a copy"))
  return Item(str(path), "run", checked, run.findings)


def check_sweep(path: pathlib.Path) -> Item:
  """Check that every trial that sweep.json calls finished exists, with the same figures."""
  findings = []
  try:
    trials = json.loads((path / "sweep.json").read_text())["trials"]
    for trial in trials:
      if trial["status"] == "finished":
        findings += _check_trial(path, trial)
    checked = f"{len(trials)} trials"
  except (OSError, ValueError, LookupError, TypeError) as error:
    checked = "sweep.json"
    remedy = "repeat the command of the sweep, which writes the file again"
    findings.append(Finding(str(path / "sweep.json"), f"cannot be read ({error})", remedy))
  return Item(str(path), "sweep", checked, findings)


def _check_trial(path: pathlib.Path, trial: Row) -> list[Finding]:
  file = path / "trials" / trial["name"] / "results.json"
  remedy = "repeat the command of the sweep, which trains the trials that have no results"
  if not file.exists():
    return [Finding(str(file), "missing, but sweep.json has its figures", remedy)]
  try:
    content = json.loads(file.read_text())
  except ValueError:
    return []  # the check of the trial's run folder reports this
  wrong = [name for name in trial if name in content and content[name] != trial[name]]
  wrong = [name for name in wrong if name not in ("name", "fields", "status")]
  if wrong:
    problem = f"{wrong[0]} is {content[wrong[0]]}, but {trial[wrong[0]]} in sweep.json"
    return [Finding(str(file), problem, "restore one of the files from a copy")]
  return []


class _Intact(NamedTuple):
  """An intact checkpoint: its step and its content."""

  step: int
  saved: checkpoint_arrays.Saved


class _Damaged(NamedTuple):
  """A checkpoint that cannot be read.

  Attributes:
    kind: the name of its directory, 'latest' or 'best'.
    step: its step.
    problem: why it cannot be read.
  """

  kind: str
  step: int
  problem: str


class _RunCheck:
  """The check of one run folder.

  Attributes:
    findings: what is damaged.
  """

  def __init__(self, path: pathlib.Path):
    self._path, self._folder = path, epath.Path(path).resolve()
    self.findings: list[Finding] = []

  def check(self) -> str:
    """Check everything; return what was checked."""
    config = self._read("config.json", "its fields are needed to resume and to load the weights")
    self._rows = self._read_rows()
    results = self._read_results()
    dataset = self._read_dataset(results)
    saved, checked = self._check_checkpoints()
    if results is not None:
      self._check_agreement(results, config, dataset)
      self._check_last(saved)
    return f"{len(self._rows)} epochs, {checked}"

  def _add(self, name: str, problem: str, remedy: str, repair: Any = None) -> None:
    self.findings.append(Finding(str(self._path / name), problem, remedy, repair))

  def _read(self, name: str, use: str, repair: Any = None, is_optional: bool = False) -> Row | None:
    """Return a JSON file of the folder; None, after a finding, if it is missing or damaged."""
    file = self._path / name
    if not file.exists():
      if not is_optional:
        self._add(name, "missing", f"{_RESTORE}; {use}", repair)
      return None
    try:
      return run_folder.read_json(epath.Path(file), "")
    except (errors.UserError, OSError):
      self._add(name, "not a JSON object", f"{_RESTORE}; {use}", repair)
      return None

  def _read_results(self) -> Row | None:
    use = "the training command writes it again, from the last checkpoint, once it is moved away"
    repair = setting_aside(self._path / "results.json")
    return self._read("results.json", use, repair, is_optional=True)

  def _read_dataset(self, results: Row | None) -> Row | None:
    is_record = not (self._path / "checkpoints").exists()
    if results is None or "data" not in results:
      return self._read("dataset.json", "it describes the classes", is_optional=is_record)

    def rewrite() -> str:
      if (self._path / "dataset.json").exists():
        setting_aside(self._path / "dataset.json")()
      run_folder.RunFolder(self._path).write_dataset(results["data"])
      return "written again from results.json, which holds the same"

    use = "or write it again: results.json holds the same under 'data'"
    return self._read("dataset.json", use, rewrite, is_optional=is_record)

  def _read_rows(self) -> list[Row]:
    """Return the rows of metrics.jsonl up to the first damaged one."""
    file, rows = self._path / "metrics.jsonl", []
    remedy = f"{_RESTORE}; the weights are not affected, but the run cannot be resumed without it"
    try:
      lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    except OSError as error:
      self._add(file.name, f"cannot be read ({error.strerror or error})", remedy)
      return []
    step = 0
    for number, line in enumerate(lines, 1):
      try:
        row = json.loads(line)
        if row["epoch"] != number or not row["step"] > step:
          raise ValueError
      except (ValueError, LookupError, TypeError, RecursionError):
        problem = f"line {number} is not the row of epoch {number} with a step after {step}"
        self._add(file.name, problem, remedy)
        break
      step = row["step"]
      rows.append(row)
    return rows

  def _check_agreement(self, results: Row, config: Row | None, dataset: Row | None) -> None:
    """Compare results.json with config.json, dataset.json and metrics.jsonl."""
    expected: Row = {"epochs_run": len(self._rows)}
    if config is not None:
      seed, num_seeds = config.get("seed", 0), config.get("num_seeds", 1)
      expected["seeds"] = list(range(seed, seed + num_seeds))
      expected["model"] = config.get("model", {}).get("name")
      expected["dtype"] = config.get("dtype")
    if dataset is not None:
      expected["data"] = dataset
    wrong = [(name, results.get(name, _UNSET), value) for name, value in expected.items()]
    wrong = [entry for entry in wrong if entry[1] is not _UNSET and entry[1] != entry[2]]
    wrong += self._wrong_validation(results)
    for name, value, other in wrong[:3]:
      shown = f"{name} is {value}, but {other} in the other files"
      if name == "data":
        shown = "its description of the data is not that of dataset.json"
      self._add("results.json", shown, "restore the file that was changed from a copy")

  def _wrong_validation(self, results: Row) -> list[tuple[str, Any, Any]]:
    """Return the validation figures that differ from those in the selected epoch's row."""
    wrong = []
    for i, entry in enumerate(results.get("per_seed", [results])):
      epoch = entry.get("best_epoch", 0)
      if not 0 < epoch <= len(self._rows):
        continue
      row = self._rows[epoch - 1]
      row = row["seeds"][i] if "seeds" in row else row
      for name in ("val_loss", "val_accuracy"):
        if name in row and entry.get(name) not in (None, row[name]):
          wrong.append((name, entry[name], row[name]))
    return wrong

  def _check_checkpoints(self) -> tuple[int | None, str]:
    """Read every checkpoint; return the step of the newest intact `latest`, and what was read."""
    root = self._folder / "checkpoints"
    if not root.exists():
      return None, "no checkpoints"
    directories = sorted(d for d in root.iterdir() if d.is_dir() and d.name != "set_aside")
    saved_steps = [
      (d, step) for d in directories for step in sorted(checkpoint_files.list_steps(d))
    ]
    newest: dict[str, _Intact] = {}  # by kind; older ones are dropped, to save memory
    damaged = []
    for directory, step in saved_steps:
      folder = checkpoint_files.checkpoint_folder(directory, step)
      try:
        newest[directory.name] = _Intact(step, checkpoint_arrays.read(folder))
      except (checkpoint_arrays.Unreadable, errors.UserError) as error:
        problem = str(error).removeprefix(f"{folder}: ")
        damaged.append(_Damaged(directory.name, step, problem))
    latest, best = newest.get("latest"), newest.get("best")
    for checkpoint in damaged:
      self._report_checkpoint(checkpoint, latest, best)
    self._check_best(latest, best, any(checkpoint.kind == "best" for checkpoint in damaged))
    return latest.step if latest else None, f"{len(saved_steps)} checkpoints"

  def _report_checkpoint(
    self, damaged: _Damaged, latest: _Intact | None, best: _Intact | None
  ) -> None:
    """Add the finding of a damaged checkpoint, with its remedy."""
    kind, step, problem = damaged
    name = f"checkpoints/{kind}/{checkpoint_files.checkpoint_folder(self._folder, step).name}"
    rebuild = self._rebuilding(latest)
    if kind == "best" and rebuild:
      self._add(name, problem, "`latest` holds these weights: start the run, or repair", rebuild)
    elif kind == "latest" and latest:
      remedy = f"the run resumes from step {latest.step}, with the same bits; set this one aside"
      self._add(name, problem, remedy, lambda: self._set_aside("latest", step))
    elif kind == "latest" and best:
      remedy = "restore it from a copy; the selected weights, in `best`, are intact"
      self._add(name, problem, remedy)
    else:
      self._add(name, problem, "restore it from a copy; no other checkpoint holds these weights")

  def _check_best(self, latest: _Intact | None, best: _Intact | None, is_damaged: bool) -> None:
    """Compare the selected weights with those that `latest` holds."""
    rebuild = self._rebuilding(latest)
    if latest is None or rebuild is None or is_damaged:
      return
    checksums, prefix = latest.saved.checksums, checkpoint_files.BEST
    expected = {p.removeprefix(prefix): s for p, s in checksums.items() if p.startswith(prefix)}
    if best is None:
      problem = "the selected weights are missing"
    elif best.saved.checksums != expected:
      problem = "the selected weights are not those that `latest` holds"
    else:
      return
    self._add("checkpoints/best", problem, "start the run, or repair: `latest` holds them", rebuild)

  def _check_last(self, newest: int | None) -> None:
    """Add a finding if a finished run has no intact checkpoint of its last step."""
    last = self._rows[-1]["step"] if self._rows else 0
    is_reported = any("checkpoints/latest" in finding.path for finding in self.findings)
    if newest is not None and newest != last and not is_reported:
      problem = f"the newest is from step {newest}, but the run ended at step {last}"
      remedy = (
        "move results.json away and repeat the training command, which ends with the same bits"
      )
      self._add("checkpoints/latest", problem, remedy)

  def _rebuilding(self, latest: _Intact | None) -> Callable[[], str] | None:
    """Return a repair that writes `best` from `latest`; None if that has no selected weights."""
    if latest is None:
      return None
    arrays = latest.saved.arrays
    epochs = (np.atleast_1d(arrays.get(_BEST_EPOCH, -1)) + 1).tolist()
    variables = {p: a for p, a in arrays.items() if p.startswith(checkpoint_files.BEST)}
    if not any(epochs) or not variables or max(epochs) > len(self._rows):
      return None
    steps = [self._rows[epoch - 1]["step"] if epoch else 0 for epoch in epochs]

    def rebuild() -> str:
      best = {path.removeprefix(checkpoint_files.BEST): a for path, a in variables.items()}
      with run_folder.RunFolder(self._path).locked():
        store = checkpoints.Checkpoints(self._folder)
        try:
          store.keep_best(steps, best)
        finally:
          store.close()
      return "written again from `latest`; any older files are in checkpoints/set_aside"

    return rebuild

  def _set_aside(self, kind: str, step: int) -> str:
    with run_folder.RunFolder(self._path).locked():
      files = checkpoint_files.CheckpointFiles(self._folder / "checkpoints")
      try:
        files.set_aside(getattr(files, kind), step)
      finally:
        files.close()
    return "moved to checkpoints/set_aside"


def _is_busy(path: pathlib.Path) -> bool:
  """Return whether a run holds the folder's lock."""
  file = path / ".lock"
  if not file.exists():
    return False
  try:
    with filelock.FileLock(file, timeout=0, fallback_to_soft=False):
      return False
  except filelock.Timeout:
    return True
  except OSError:  # a read-only archive, or a file system without locks
    return False
