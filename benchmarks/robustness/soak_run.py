"""The run that soak.py disturbs: start it, watch it, kill it, resume it, compare its outcome."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from benchmarks import records
from cifar_jax import errors
from cifar_jax.runs import checkpoint_arrays, test_uses

EPOCHS = 3
STEPS = 16  # per epoch
LIMIT = 900.0  # seconds; a start that takes longer hangs

# Parts of the program's messages, by which the soak recognises what a run does.
HAS_DATA = " parameters, "
PREPARES = "preparing "
UNREADABLE = "cannot be read"
SAVED = "saved; the same command resumes"
BUSY = "another run is writing"
FULL_WHEN_PREPARING = "free disk space"
_FIELDS = {
  "data.name": "digits",
  "data.normalize": "unit",
  "data.validation": 144,
  "model.name": "simple_cnn",
  "model.widths": (4, 4, 8),
  "model.dense": (16,),
  "num_epochs": EPOCHS,
  "batch_size": 80,
  "eval_batch_size": 120,
  "augment": "random_crop(padding=2) | random_flip()",
  "optimizer.learning_rate": 0.02,
  "optimizer.momentum": 0.9,
}


class Wrong(Exception):
  """The program misbehaved; the argument says how."""


class Place:
  """A folder with a run, and the process of the run.

  Args:
    folder: the folder of this place.
    data: TFDS's directory, which places may share.
    cache: the folder of compiled programs, which places may share.

  Attributes:
    workdir: the run folder.
    environment: more environment variables of the run.
    num_processes: the number of processes that are one run.
    process: the latest start of the run.
    lost: descriptions of checkpoints that a resumed run did not use.
    undo: callbacks for the end of the place.
  """

  process: subprocess.Popen[bytes]

  def __init__(self, folder: pathlib.Path, data: pathlib.Path, cache: pathlib.Path):
    self.workdir, self.data, self.cache = folder / "run", data, cache
    self.environment: dict[str, str] = {}
    self.num_processes = 1
    self.lost: list[str] = []
    self.undo = contextlib.ExitStack()
    self.folder = folder
    self._starts = 0

  def start(self) -> None:
    """Start or resume the run, always by the same command."""
    fields = _FIELDS | {"data.dir": str(self.data)}
    command = [sys.executable, str(records.ROOT / "main.py"), f"--workdir={self.workdir}"]
    command.append(f"--config={records.ROOT / 'configs' / 'default.py'}")
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    if self.num_processes > 1:
      launcher = [sys.executable, str(records.ROOT / "launch" / "local.py"), "--devices=1"]
      command = [*launcher, f"--processes={self.num_processes}", "--", *command]
    environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(self.cache),
    }
    environment |= self.environment
    self._starts += 1
    with self._log.open("wb") as log:
      self.process = subprocess.Popen(
        command, cwd=records.ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
      )

  @property
  def _log(self) -> pathlib.Path:
    return self.folder / f"start-{self._starts}.log"

  def output(self) -> str:
    """Return everything that the latest start has printed."""
    return self._log.read_text(errors="replace")

  def wait_for(self, is_true: Callable[[], object]) -> bool:
    """Wait until a condition is true; return False if the run ends first.

    Raises:
      Wrong: neither happened within LIMIT.
    """
    deadline = time.monotonic() + LIMIT
    while not is_true():
      if self.process.poll() is not None:
        return False
      if time.monotonic() > deadline:
        raise Wrong(f"hangs: {self._tail()}")
      time.sleep(0.002)
    return True

  def kill(self, signum: int = signal.SIGKILL) -> bool:
    """Send a signal and wait for the end; return False if the run had already ended."""
    was_running = self.process.poll() is None
    self.process.send_signal(signum)
    try:
      self.process.wait(LIMIT)
    except subprocess.TimeoutExpired:
      raise Wrong(f"ignores {signal.Signals(signum).name}: {self._tail()}") from None
    return was_running and self.process.returncode != 0

  def wait_for_exit(self, expected_code: int) -> str:
    """Wait until the run exits; return its output.

    Raises:
      Wrong: another exit code, a traceback, or an error of more than one line.
    """
    try:
      code = self.process.wait(LIMIT)
    except subprocess.TimeoutExpired:
      raise Wrong(f"hangs: {self._tail()}") from None
    output = self.output()
    if code != expected_code:
      raise Wrong(f"exit code {code} instead of {expected_code}: {self._tail()}")
    if "Traceback" in output:
      raise Wrong(f"a traceback: {self._tail()}")
    lines = [re.sub(r"^\[\d+\] ", "", line) for line in output.splitlines()]
    if code == 1 and not (lines and lines[-1].startswith("error: ")):
      raise Wrong(f"the last line is not the error: {self._tail()}")
    return output

  @property
  def is_finished(self) -> bool:
    """Whether results.json exists."""
    return (self.workdir / "results.json").exists()

  def finish(self, is_damaged: bool = False) -> str:
    """Start the run and wait until it is done; return its output.

    Adds a description to `lost` if the run does not resume from its newest checkpoint.

    Args:
      is_damaged: whether the newest `latest` may be damaged, so that the one before is right.
    """
    newest, previous = self.newest("latest"), self.newest("latest", back=1)
    was_finished = self.is_finished
    self.start()
    output = self.wait_for_exit(0)
    resumed = re.search(r"Resuming .* at step (\d+),", output)
    step = int(resumed[1]) if resumed else 0
    if is_damaged and step == previous and UNREADABLE in output:
      return output
    if not was_finished and step != newest:
      self.lost.append(f"resumed from step {step} instead of {newest}")
    return output

  def newest(self, kind: str, back: int = 0) -> int:
    """Return the newest step of the checkpoints, or an earlier one, or 0 if there is none.

    Args:
      kind: 'latest' or 'best'.
      back: how many checkpoints before the newest.
    """
    steps = self.steps(kind)
    return steps[-1 - back] if len(steps) > back else 0

  def steps(self, kind: str) -> list[int]:
    """Return the steps of the checkpoints in ascending order."""
    folder = self.workdir / "checkpoints" / kind
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())

  def is_writing(self) -> bool:
    """Return whether a checkpoint is being written."""
    folder = self.workdir / "checkpoints"
    with contextlib.suppress(OSError):
      return any("tmp" in name for kind in os.listdir(folder) for name in os.listdir(folder / kind))
    return False

  def _tail(self) -> str:
    return " / ".join(self.output().splitlines()[-8:])[-1500:]


def outcome(workdir: pathlib.Path) -> dict[str, Any]:
  """Return the arrays, rows and metrics of a finished run by name, without times.

  Raises:
    Wrong: a checkpoint is damaged, an epoch is missing or repeated, or a test was not counted.
  """
  content: dict[str, Any] = {}
  for kind in ("latest", "best"):
    folder = workdir / "checkpoints" / kind
    newest = max(name for name in os.listdir(folder) if name.isdigit())
    try:
      arrays = checkpoint_arrays.read(epath.Path(folder / newest)).arrays
    except (checkpoint_arrays.Unreadable, errors.UserError) as error:
      raise Wrong(str(error)) from error
    content |= {f"{kind} {path}": array for path, array in arrays.items()}
    content[f"{kind} step"] = newest if kind == "latest" else None
  del content["latest seconds"]
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  if [row["epoch"] for row in rows] != list(range(1, EPOCHS + 1)):
    raise Wrong(f"metrics.jsonl has the epochs {[row['epoch'] for row in rows]}")
  for row in rows:
    del row["seconds"], row["images_per_second"]
  results = json.loads((workdir / "results.json").read_text())
  metrics = {k: v for k, v in results.items() if k.startswith(("test_", "val_", "best_"))}
  # A test that was killed, and so repeated, counts again.
  num_uses = len((workdir / test_uses.FILE).read_text().splitlines())
  if metrics.pop("test_uses") != num_uses or not num_uses:
    raise Wrong(f"results.json says {results['test_uses']} tests, {test_uses.FILE} {num_uses}")
  return content | {"metrics.jsonl": rows, "results.json": metrics}


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
  """Return the names under which two outcomes differ in any bit."""
  common = a.keys() & b.keys()
  same = {name for name in common if _bits(a[name]) == _bits(b[name])}
  return sorted((a.keys() | b.keys()) - same)


def _bits(value: Any) -> Any:
  if isinstance(value, np.ndarray):
    return value.dtype, value.shape, value.tobytes()
  return value


@contextlib.contextmanager
def place(root: pathlib.Path, data: pathlib.Path, cache: pathlib.Path) -> Iterator[Place]:
  """Yield a new place below `root`; at the end kill its run and remove it."""
  folder = pathlib.Path(tempfile.mkdtemp(dir=root))
  new_place = Place(folder, data, cache)
  try:
    yield new_place
  finally:
    if hasattr(new_place, "process") and new_place.process.poll() is None:
      # The launcher passes SIGTERM on to its processes, which would outlive it after SIGKILL.
      if new_place.num_processes > 1:
        new_place.process.terminate()
      else:
        new_place.process.kill()
      new_place.process.wait()
    new_place.undo.close()
    shutil.rmtree(folder)
