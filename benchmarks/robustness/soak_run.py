"""A run that soak.py disturbs: started, watched, killed, started again, compared."""

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
from cifar_jax.runs import checkpoints

EPOCHS = 3
STEPS = 16  # an epoch
LIMIT = 900.0  # seconds that a start may take: more is a hang
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
  """The program did not do what it should; says what."""


class Place:
  """A folder with a run, its data and its compiled programs, and what the run has said.

  Attributes:
    folder: holds everything that is the place's own.
    workdir, data, cache: the run folder, TFDS's folder, and that of compiled programs.
    environment: variables beside this process's.
    process: the run that was started last.
    lost: what was there when a fault struck and was not used afterwards.
    undo: what is to be undone with the place.
  """

  def __init__(self, folder: pathlib.Path, data: pathlib.Path, cache: pathlib.Path):
    self.workdir, self.data, self.cache = folder / "run", data, cache
    self.environment: dict[str, str] = {}
    self.process: subprocess.Popen | None = None
    self.lost: list[str] = []
    self.undo = contextlib.ExitStack()
    self.folder = folder
    self._starts = 0

  def start(self) -> None:
    """Starts the run, or what resumes it; always the same command."""
    fields = _FIELDS | {"data.dir": str(self.data)}
    command = [sys.executable, str(records.ROOT / "main.py"), f"--workdir={self.workdir}"]
    command.append(f"--config={records.ROOT / 'configs' / 'default.py'}")
    command += [f"--config.{name}={value}" for name, value in fields.items()]
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

  def said(self) -> str:
    """All that the last start has printed."""
    return self._log.read_text(errors="replace")

  def wait_for(self, holds: Callable[[], object]) -> bool:
    """Waits until something holds; False if the run ended first.

    Raises:
      Wrong: it took too long.
    """
    deadline = time.monotonic() + LIMIT
    while not holds():
      if self.process.poll() is not None:
        return False
      if time.monotonic() > deadline:
        raise Wrong(f"hangs: {self._tail()}")
      time.sleep(0.002)
    return True

  def kill(self, signum: int = signal.SIGKILL) -> bool:
    """Sends a signal and waits for the end; False if the run had ended already."""
    running = self.process.poll() is None
    self.process.send_signal(signum)
    try:
      self.process.wait(LIMIT)
    except subprocess.TimeoutExpired:
      raise Wrong(f"{signal.Signals(signum).name} is not answered: {self._tail()}") from None
    return running and self.process.returncode != 0

  def end(self, code: int) -> str:
    """Waits for the run's own end, which must have this exit code; returns what it said.

    Raises:
      Wrong: another code, a traceback, or an error of more than one line.
    """
    try:
      found = self.process.wait(LIMIT)
    except subprocess.TimeoutExpired:
      raise Wrong(f"hangs: {self._tail()}") from None
    said = self.said()
    if found != code:
      raise Wrong(f"exit code {found} instead of {code}: {self._tail()}")
    if "Traceback" in said:
      raise Wrong(f"a traceback: {self._tail()}")
    if code == 1 and [line.startswith("error: ") for line in said.splitlines()][-1:] != [True]:
      raise Wrong(f"its last line is not the error: {self._tail()}")
    return said

  @property
  def finished(self) -> bool:
    return (self.workdir / "results.json").exists()

  def run_to_the_end(self, damaged: bool = False) -> str:
    """Starts the run and waits for it; returns what it said.

    Args:
      damaged: whether the newest `latest` may be, so that the one before is good enough.
    """
    newest, before = self.newest("latest"), self.newest("latest", back=1)
    finished = self.finished
    self.start()
    said = self.end(0)
    resumed = re.search(r"Resuming .* at step (\d+),", said)
    step = int(resumed[1]) if resumed else 0
    if damaged and step == before and "cannot be read" in said:
      return said
    if not finished and step != newest:
      self.lost.append(f"resumed from step {step} where {newest} was there")
    return said

  def newest(self, which: str, back: int = 0) -> int:
    """The newest step, or one so many before, of the checkpoints there; 0 for none."""
    steps = self.steps(which)
    return steps[-1 - back] if len(steps) > back else 0

  def steps(self, which: str) -> list[int]:
    """The steps of the checkpoints there, in their order."""
    folder = self.workdir / "checkpoints" / which
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())

  def is_writing(self) -> bool:
    """Whether a checkpoint is half written."""
    folder = self.workdir / "checkpoints"
    with contextlib.suppress(OSError):
      return any(
        "tmp" in name for which in os.listdir(folder) for name in os.listdir(folder / which)
      )
    return False

  def _tail(self) -> str:
    return " / ".join(self.said().splitlines()[-8:])[-1500:]


def outcome(workdir: pathlib.Path) -> dict[str, Any]:
  """What a finished run has come to, without clocks: arrays, rows and figures by name.

  Raises:
    Wrong: a checkpoint is damaged, or an epoch is missing or there twice.
  """
  found: dict[str, Any] = {}
  for which in ("latest", "best"):
    folder = workdir / "checkpoints" / which
    newest = max(name for name in os.listdir(folder) if name.isdigit())
    try:
      arrays = checkpoints.read(epath.Path(folder / newest))
    except checkpoints.Unreadable as error:
      raise Wrong(str(error)) from error
    found |= {f"{which} {path}": array for path, array in arrays.items()}
    found[f"{which} step"] = newest if which == "latest" else None
  del found["latest seconds"]
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  if [row["epoch"] for row in rows] != list(range(1, EPOCHS + 1)):
    raise Wrong(f"metrics.jsonl has the epochs {[row['epoch'] for row in rows]}")
  for row in rows:
    del row["seconds"], row["images_per_second"]
  results = json.loads((workdir / "results.json").read_text())
  figures = {k: v for k, v in results.items() if k.startswith(("test_", "val_", "best_"))}
  return found | {"metrics.jsonl": rows, "results.json": figures}


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
  """The names under which two outcomes are not the same bits."""
  both = a.keys() & b.keys()
  same = {name for name in both if _bits(a[name]) == _bits(b[name])}
  return sorted((a.keys() | b.keys()) - same)


def _bits(value: Any) -> Any:
  if isinstance(value, np.ndarray):
    return value.dtype, value.shape, value.tobytes()
  return value


@contextlib.contextmanager
def place(root: pathlib.Path, data: pathlib.Path, cache: pathlib.Path) -> Iterator[Place]:
  """A new place below `root`, which goes in the end, and whatever still runs there with it."""
  folder = pathlib.Path(tempfile.mkdtemp(dir=root))
  made = Place(folder, data, cache)
  try:
    yield made
  finally:
    if made.process is not None and made.process.poll() is None:
      made.process.kill()
      made.process.wait()
    made.undo.close()
    shutil.rmtree(folder)
