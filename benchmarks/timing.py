"""Timing several sides in turn: A B A B.

A side is one program in a process of its own: ours (`benchmarks/speed/ours.py`) or a peer
(`benchmarks/peers/`). It warms up until everything it will be asked for is compiled, prints one
line of JSON that describes it, and then takes requests for so many steps from standard input, each
answered with the seconds that they took. `measure` asks all sides in turn, so that a machine that
grows slower or faster shows as a spread of the ratios instead of favouring one.
"""

import contextlib
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.records import ROOT, on_gpu, side_environment


class Failed(Exception):
  """A side that could not be measured; says why in one line."""

  def __str__(self) -> str:
    return f"failed: {self.args[0]}"


class Skipped(Failed):
  """A side whose libraries are not there."""

  def __str__(self) -> str:
    return f"skipped: {self.args[0]}"


class Side:
  """One program to be measured, in a process of its own.

  Args:
    name: what tables call it.
    command: starts it.
    environment: all of its variables.
  """

  def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]):
    self.name, self._command, self._environment = name, list(command), environment
    self.description: dict[str, Any] = {}

  def start(self) -> None:
    self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
    try:
      self._process = subprocess.Popen(
        self._command,
        cwd=ROOT,
        env=self._environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=self._errors,
        text=True,
      )
    except OSError as error:
      raise Skipped(f"{self._command[0]}: {error.strerror}") from error
    self._lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=self._read, daemon=True).start()

  def _read(self) -> None:
    for line in self._process.stdout:
      if line.startswith("{"):
        self._lines.put(line)
    self._lines.put(None)

  def wait(self, limit: float) -> dict[str, Any]:
    """The next line it prints, read as JSON.

    Raises:
      Failed: it ended, or took more than `limit` seconds.
    """
    try:
      line = self._lines.get(timeout=limit)
    except queue.Empty:
      self._process.kill()  # its answer would come too late
      raise Failed(f"took more than {limit:.0f} s") from None
    if line is None:
      self._lines.put(None)  # for whoever asks next
      self._errors.seek(0)
      raise reason(self._errors.read(), self._process.wait())
    return json.loads(line)

  def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
    """Sends a line of JSON and returns the answer; errors as for `wait`."""
    try:
      self._process.stdin.write(json.dumps(request) + "\n")
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # wait() says why
    return self.wait(limit)

  def stop(self) -> None:
    self._process.kill()
    self._process.wait()
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._errors.close()


def reason(output: str, code: int) -> Failed:
  """What a program's last words say."""
  lines = [line.strip() for line in output.splitlines() if line.strip()]
  errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
  last = (errors or lines or [f"ended with code {code}"])[-1]
  if last.startswith(("ModuleNotFoundError", "ImportError")):
    return Skipped(last.split(": ", 1)[1])
  return Failed(last[:300])


def ours(name: str, model: str, options, data_dir: str, *arguments: str, devices: int = 0) -> Side:
  """Our side, training `model`; `arguments` are those of benchmarks/speed/ours.py."""
  command = [
    sys.executable,
    "-m",
    "benchmarks.speed.ours",
    f"--model={model}",
    f"--data_dir={data_dir}",
  ]
  if options.dtype:
    command.append(f"--dtype={options.dtype}")  # else as main.py has it
  return Side(name, [*command, *arguments], side_environment(devices))


_PEERS = {  # name in tables, program, variables
  "torch": ("PyTorch", "torch_train.py", {}),
  "keras_jax": ("Keras/JAX", "keras_train.py", {"KERAS_BACKEND": "jax"}),
  "keras_tensorflow": ("Keras/TensorFlow", "keras_train.py", {"KERAS_BACKEND": "tensorflow"}),
}


def peer(name: str, model: str, options, *arguments: str, serve: bool = True, **extra: str) -> Side:
  """The side of 'torch', 'keras_jax' or 'keras_tensorflow'; `extra` are more variables."""
  title, script, variables = _PEERS[name]
  command = [options.peer_python, str(ROOT / "benchmarks" / "peers" / script), f"--model={model}"]
  command += [f"--threads={len(os.sched_getaffinity(0))}", *["--serve"] * serve, *arguments]
  environment = side_environment(**variables, **extra)
  environment["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")  # main.py's are ours
  if os.path.abspath(options.peer_python) != sys.executable:
    environment.pop("PYTHONPATH", None)  # names packages of this Python
  return Side(title, command, environment)


# --- Measuring -----------------------------------------------------------------------------------


class Cell(NamedTuple):
  """One thing to be measured: `steps` of a side's input; 0 steps are an epoch."""

  side: Side
  input: str  # 'constant', 'plain' or 'augmented'
  epoch: bool = False


class Timing(NamedTuple):
  """Seconds of a step (or an epoch) in each round, or why there are none."""

  seconds: list[float]
  problem: str = ""

  @property
  def median(self) -> float | str:
    """'' where nothing was measured."""
    return statistics.median(self.seconds) if self.seconds else ""

  @property
  def milliseconds(self) -> float | str:
    return 1000 * self.median if self.seconds else ""


@contextlib.contextmanager
def running(sides: Sequence[Side], limit: float) -> Iterator[dict[Side, str]]:
  """Starts all sides, waits until each is warm, yields why any is not, and ends them all.

  On a GPU one warms up after the other: XLA and cuDNN choose their kernels by timing them, for
  which they need it alone.
  """
  problems: dict[Side, str] = {}
  started, in_turn = [], on_gpu()

  def warm(side: Side, seconds: float) -> None:
    try:
      side.description = side.wait(max(1.0, seconds))
    except Failed as error:
      problems[side] = str(error)

  try:
    end = time.monotonic() + limit
    for side in sides:
      try:
        side.start()
      except Failed as error:
        problems[side] = str(error)
        continue
      started.append(side)
      if in_turn:
        warm(side, limit)
    for side in started if not in_turn else ():
      warm(side, end - time.monotonic())
    yield problems
  finally:
    for side in started:
      side.stop()


def measure(
  cells: Sequence[Cell],
  problems: dict[Side, str],
  rounds: int,
  seconds: float,
  limit: float,
) -> dict[Cell, Timing]:
  """Seconds per step or epoch of each cell, in `rounds` rounds over all cells.

  A first short block of each says how many steps last `seconds`; it is not counted.
  """
  found = {cell: Timing([], problems.get(cell.side, "")) for cell in cells}
  steps = {}

  def block(cell: Cell, count: int) -> tuple[float, int]:
    time.sleep(0.05)  # the threads of the side before go to sleep
    answer = cell.side.ask({"input": cell.input, "steps": count}, limit)
    return answer["seconds"], answer["steps"]

  for number in range(-1, rounds):
    for cell in cells:
      if found[cell].problem:
        continue
      try:
        if number >= 0:
          took, done = block(cell, steps[cell])
          found[cell].seconds.append(took if cell.epoch else took / done)
        elif cell.epoch:
          steps[cell] = 0
        else:
          took, done = block(cell, 2)
          steps[cell] = max(2, round(seconds * done / took))
      except Failed as error:
        found[cell] = Timing([], str(error))
  return found


def ratio(a: Timing, b: Timing) -> dict[str, float] | None:
  """a / b, round by round: 'median', 'lowest', 'highest'; None where either was not measured."""
  if not (a.seconds and b.seconds):
    return None
  each = [x / y for x, y in zip(a.seconds, b.seconds, strict=True)]
  return {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}
