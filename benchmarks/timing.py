"""Time several sides in turn: A B A B.

A side is one program in a process: ours (`benchmarks/speed/ours.py`) or a peer
(`benchmarks/peers/`). It warms up until everything that it will run is compiled, and prints one
line of JSON that describes it. It then reads requests for a number of steps from standard input and
answers each with the seconds that they took. `measure` asks all sides in turn, so that a machine
whose speed drifts shows as a spread of the ratios instead of favouring one side.
"""

import argparse
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
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NamedTuple

from benchmarks.records import ROOT, on_gpu, side_environment
from cifar_jax.types import Row


class Failed(Exception):
  """A side cannot be measured; the argument is the reason, in one line."""

  def __str__(self) -> str:
    return f"failed: {self.args[0]}"


class Skipped(Failed):
  """A side's program or libraries are missing."""

  def __str__(self) -> str:
    return f"skipped: {self.args[0]}"


class Side:
  """A program to measure, in a process.

  Args:
    name: its name in tables.
    command: the command that starts it.
    environment: all of its environment variables.

  Attributes:
    description: the first line that it printed, once it is warm.
  """

  def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]):
    self.name, self._command, self._environment = name, list(command), environment
    self.description: Row = {}

  def start(self) -> None:
    """Start the process; raise Skipped if its program is missing."""
    self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open while the process lives)
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
    assert self._process.stdin is not None and self._process.stdout is not None
    self._requests = self._process.stdin
    self._answers: queue.Queue[str | None] = queue.Queue()  # None: the process has ended
    threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

  def _read(self, output: IO[str]) -> None:
    for line in output:
      if line.startswith("{"):
        self._answers.put(line)
    self._answers.put(None)

  def wait(self, limit: float) -> Row:
    """Return the next line of JSON that the process prints.

    Raises:
      Failed: the process ended, or took more than `limit` seconds.
    """
    try:
      line = self._answers.get(timeout=limit)
    except queue.Empty:
      self._process.kill()  # a late answer would be taken for the next one
      raise Failed(f"took more than {limit:.0f} s") from None
    if line is None:
      self._answers.put(None)  # for the next call
      self._errors.seek(0)
      raise failure(self._errors.read(), self._process.wait())
    return json.loads(line)

  def ask(self, request: Row, limit: float) -> Row:
    """Send a line of JSON and return the answer; raises as `wait` does."""
    with contextlib.suppress(BrokenPipeError):  # wait() raises with the reason
      self._requests.write(json.dumps(request) + "\n")
      self._requests.flush()
    return self.wait(limit)

  def stop(self) -> None:
    """Kill the process."""
    self._process.kill()
    self._process.wait()
    with contextlib.suppress(BrokenPipeError):
      self._requests.close()
    self._errors.close()


def failure(output: str, code: int) -> Failed:
  """Return an exception with the last error that a program printed, or its exit code."""
  lines = [line.strip() for line in output.splitlines() if line.strip()]
  errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
  last = (errors or lines or [f"ended with code {code}"])[-1]
  if last.startswith(("ModuleNotFoundError", "ImportError")):
    return Skipped(last.split(": ", 1)[1])
  return Failed(last[:300])


def ours(
  name: str,
  model: str,
  options: argparse.Namespace,
  data_dir: str,
  *arguments: str,
  devices: int = 0,
) -> Side:
  """Return our side, which trains `model`.

  Args:
    name: its name in tables.
    options: the benchmark's options.
    arguments: more arguments of benchmarks/speed/ours.py.
    devices: number of virtual CPU devices; 0 leaves the devices as they are.
  """
  command = [sys.executable, "-m", "benchmarks.speed.ours"]
  command += [f"--model={model}", f"--data_dir={data_dir}"]
  if options.dtype:
    command.append(f"--dtype={options.dtype}")
  return Side(name, [*command, *arguments], side_environment(devices))


class Peer(NamedTuple):
  """A peer: its name in tables, its program in benchmarks/peers/, and its variables."""

  title: str
  program: str
  variables: dict[str, str]


_PEERS = {
  "torch": Peer("PyTorch", "torch_train.py", {}),
  "torch_compiled": Peer("PyTorch compiled", "torch_train.py", {"TORCH_COMPILE": "1"}),
  "keras_jax": Peer("Keras/JAX", "keras_train.py", {"KERAS_BACKEND": "jax"}),
  "keras_tensorflow": Peer("Keras/TensorFlow", "keras_train.py", {"KERAS_BACKEND": "tensorflow"}),
}


def peer(
  name: str,
  model: str,
  options: argparse.Namespace,
  *arguments: str,
  serve: bool = True,
  variables: Mapping[str, str] | None = None,
) -> Side:
  """Return the side of a peer, which trains `model`.

  Args:
    name: 'torch', 'torch_compiled', 'keras_jax' or 'keras_tensorflow'.
    options: the benchmark's options, with `peer_python`.
    arguments: more arguments of the program.
    serve: whether the program answers requests.
    variables: more environment variables.
  """
  title, program, peer_variables = _PEERS[name]
  command = [options.peer_python, str(ROOT / "benchmarks" / "peers" / program), f"--model={model}"]
  command += [f"--threads={len(os.sched_getaffinity(0))}", *["--serve"] * serve, *arguments]
  environment = side_environment(variables=peer_variables | dict(variables or {}))
  environment["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")  # main.py's flags are for ours only
  if os.path.abspath(options.peer_python) != sys.executable:
    environment.pop("PYTHONPATH", None)  # holds packages of this Python
  return Side(title, command, environment)


# --- Measuring -----------------------------------------------------------------------------------


class Cell(NamedTuple):
  """A measurement: steps, or epochs, of a side on one kind of input."""

  side: Side
  input: str  # 'constant', 'plain' or 'augmented'
  epoch: bool = False


class Timing(NamedTuple):
  """Seconds of a step (or an epoch) in each round, or the reason why there are none."""

  seconds: list[float]
  problem: str = ""

  @property
  def median(self) -> float | None:
    """The median of the rounds in seconds; None if nothing was measured."""
    return statistics.median(self.seconds) if self.seconds else None

  @property
  def milliseconds(self) -> float | None:
    """The median of the rounds in milliseconds; None if nothing was measured."""
    return 1000 * statistics.median(self.seconds) if self.seconds else None


@contextlib.contextmanager
def running(sides: Sequence[Side], limit: float) -> Iterator[dict[Side, str]]:
  """Start all sides, wait until each is warm, and stop all sides at the end.

  On a GPU the sides warm up one after the other, because XLA and cuDNN select kernels by timing
  them.

  Args:
    limit: maximum seconds of the warm-up.

  Yields:
    The problem of each side that failed to start.
  """
  problems: dict[Side, str] = {}
  started: list[Side] = []
  one_at_a_time = on_gpu()

  def warm_up(side: Side, seconds: float) -> None:
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
      if one_at_a_time:
        warm_up(side, limit)
    for side in () if one_at_a_time else started:
      warm_up(side, end - time.monotonic())
    yield problems
  finally:
    for side in started:
      side.stop()


def measure(
  cells: Sequence[Cell],
  problems: Mapping[Side, str],
  rounds: int,
  seconds: float,
  limit: float,
) -> dict[Cell, Timing]:
  """Return the seconds per step or epoch of each cell in several rounds over all cells.

  A short block of each cell first finds the number of steps that last `seconds`; it does not count.

  Args:
    problems: the sides that cannot be measured; see `running`.
    limit: maximum seconds of a block.
  """
  timings = {cell: Timing([], problems.get(cell.side, "")) for cell in cells}
  steps: dict[Cell, int] = {}

  def run_block(cell: Cell, num_steps: int) -> tuple[float, int]:
    time.sleep(0.05)  # lets the threads of the previous side go to sleep
    answer = cell.side.ask({"input": cell.input, "steps": num_steps}, limit)
    return answer["seconds"], answer["steps"]

  for number in range(-1, rounds):
    for cell in cells:
      if timings[cell].problem:
        continue
      try:
        if number >= 0:
          block_seconds, done = run_block(cell, steps[cell])
          timings[cell].seconds.append(block_seconds if cell.epoch else block_seconds / done)
        elif cell.epoch:
          steps[cell] = 0  # stands for an epoch
        else:
          block_seconds, done = run_block(cell, 2)
          steps[cell] = max(2, round(seconds * done / block_seconds))
      except Failed as error:
        timings[cell] = Timing([], str(error))
  return timings


def ratio(a: Timing, b: Timing) -> dict[str, float] | None:
  """Return 'median', 'lowest' and 'highest' of a / b, round by round; None if one is missing."""
  if not (a.seconds and b.seconds):
    return None
  ratios = [x / y for x, y in zip(a.seconds, b.seconds, strict=True)]
  return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
