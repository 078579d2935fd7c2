"""Does a run survive faults? Disturb runs, one fault after the other, and compare the outcomes.

  python -m benchmarks.robustness.soak --times=100 --others=3 --minutes=25

A run of a tiny network on the digits (three epochs, seconds) is disturbed; then the same command is
repeated until the run is done. `equal` counts the faults after which every array of the last
checkpoints, metrics.jsonl and results.json are bit for bit those of an undisturbed run (times
excepted), with each epoch in metrics.jsonl once. `kept` counts the faults after which the run
resumed from the newest intact checkpoint, and every error was one line without a traceback.

SIGKILL comes at random moments: in turn while the run prepares data, compiles, trains, writes a
checkpoint or tests, and at any time from the start; up to five times in a row. Full disks and
read-only folders are mounted file systems, which need root; without it their rows are skipped. The
clock is that of Python's `time`. A layer in front of the C library (file_faults.py), which needs
g++, makes any operation on a file of the run folder fail with EIO, EMFILE or ENOSPC, and kills the
run before any operation on a checkpoint; checkpoint_faults.py fails every operation of a save in
turn. Of two processes that are one run, one is killed in a save; the outcome must then be that of
an undisturbed run of two processes.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.robustness import soak_faults, soak_files
from benchmarks.robustness.soak_run import Place, Wrong, differing, outcome, place

_AGAIN = ("training", "checkpoint", "evaluation", "any time")  # as further kills of the same run
_COMPILATIONS = 10  # at most, because each is followed by a new compilation
_COLUMNS = ["fault", "times", "equal", "kept"]
_KILL = "SIGKILL: "
_OTHERS = soak_faults.OTHERS | soak_files.FAULTS
_FAULTS = {f"{_KILL}{name}": fault for name, fault in soak_faults.KILLS.items()} | _OTHERS


@dataclasses.dataclass
class Count:
  """The outcomes of a fault.

  Attributes:
    times: how often it happened.
    equal, kept: see the module's docstring.
    problems: descriptions of the wrong outcomes.
    skipped: why this machine does not permit the fault, or ''.
  """

  times: int = 0
  equal: int = 0
  kept: int = 0
  problems: list[str] = dataclasses.field(default_factory=list)
  skipped: str = ""

  def row(self, fault: str) -> dict[str, Any]:
    """Return the row of the record."""
    row = {"fault": fault, "times": self.times, "equal": self.equal, "kept": self.kept}
    row |= {"problems": self.problems} if self.problems else {}
    return row | ({"skipped": self.skipped} if self.skipped else {})


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The outcome of a trial.

  Attributes:
    faults: the faults that happened.
    is_equal, is_kept: see the module's docstring.
    problem: a description of what is wrong, or ''.
  """

  faults: list[str]
  is_equal: bool
  is_kept: bool
  problem: str


class Tally:
  """The outcomes of all faults, and the record, which each trial updates."""

  def __init__(self, options: argparse.Namespace):
    self.counts = {name: Count() for name in _FAULTS}
    self._record = records.Record("soak", options, _COLUMNS)

  def add(self, result: Outcome) -> None:
    """Count the outcome of a trial for each of its faults."""
    for name in result.faults:
      count = self.counts[name]
      count.times += 1
      count.equal += result.is_equal
      count.kept += result.is_kept
      if result.problem:
        count.problems.append(result.problem)
        print(f"{name}: {result.problem}", file=sys.stderr, flush=True)
    self._record.content["rows"] = [count.row(name) for name, count in self.counts.items()]
    self._record.write()

  def num_kills(self) -> int:
    """Return how often SIGKILL was sent."""
    return sum(count.times for name, count in self.counts.items() if name.startswith(_KILL))

  def show(self) -> bool:
    """Print the table; return whether every outcome is right."""
    self._record.content["rows"] = []
    for name, count in self.counts.items():
      row = count.row(name)
      if count.problems:
        row["note"] = f"{len(count.problems)} wrong"
      elif count.skipped:
        row["note"] = count.skipped
      self._record.add(row)
    return all(count.equal == count.kept == count.times for count in self.counts.values())


def run_trial(
  faults: list[str],
  rng: np.random.Generator,
  folders: list[pathlib.Path],
  expected: dict[int, dict[str, Any]],
) -> Outcome:
  """Disturb a new run by one fault after the other, finish it, and compare its outcome.

  Args:
    folders: the arguments of `place`.
    expected: the outcomes of undisturbed runs by number of processes; a missing one is added.

  Raises:
    Skipped: this machine does not permit a fault.
  """
  happened: list[str] = []
  with place(*folders) as at:
    try:
      for name in faults:
        _strike(name, at, rng, happened)
        if at.is_finished:
          break
      if not at.is_finished:
        at.finish()
      if at.num_processes not in expected:
        expected[at.num_processes] = _undisturbed_outcome(folders, at.num_processes)
      differences = differing(outcome(at.workdir), expected[at.num_processes])
    except Wrong as error:
      return Outcome(happened or faults[:1], False, False, str(error))
  problems = [*at.lost, *([f"different: {', '.join(differences[:5])}"] if differences else [])]
  return Outcome(happened, not differences, not at.lost, "; ".join(problems))


def _undisturbed_outcome(folders: list[pathlib.Path], num_processes: int = 1) -> dict[str, Any]:
  """Return the outcome of a run that nothing disturbs; see `place` for `folders`."""
  with place(*folders) as at:
    at.num_processes = num_processes
    at.finish()
    return outcome(at.workdir)


def _strike(name: str, at: Place, rng: np.random.Generator, happened: list[str]) -> None:
  """Disturb a run by a fault; add its name to `happened` unless the run ended before."""
  with contextlib.suppress(soak_faults.Missed):
    try:
      _FAULTS[name](at, rng)
    except Wrong:
      happened.append(name)
      raise
    happened.append(name)


class Schedule:
  """Chooses the faults of each trial: kills in turn, and the other faults in between.

  Args:
    num_kills: number of SIGKILLs.
    num_others: number of each other fault.
  """

  def __init__(self, num_kills: int, num_others: int):
    self._num_kills = num_kills
    self._others = [name for name in _OTHERS for _ in range(num_others)]

  def is_done(self, num_killed: int) -> bool:
    """Return whether no trial is left after a number of SIGKILLs."""
    return not self._others and num_killed >= self._num_kills

  def next(self, num_killed: int, rng: np.random.Generator) -> list[str]:
    """Return the names of the faults of the next trial."""
    if self._others and (num_killed >= self._num_kills or rng.random() < 0.4):
      return [self._others.pop(int(rng.integers(len(self._others))))]
    kills = list(soak_faults.KILLS)
    first = kills[num_killed % len(kills)]
    if first == "compilation" and num_killed >= _COMPILATIONS * len(kills):
      first = "any time"
    num_more = min(int(rng.integers(5)), max(0, self._num_kills - num_killed - 1))
    return [f"{_KILL}{name}" for name in [first, *rng.choice(_AGAIN, num_more)]]

  def skip(self, name: str) -> None:
    """Leave out a fault from now on."""
    self._others = [other for other in self._others if other != name]


def main() -> bool:
  parser = records.bare_parser(__doc__, "soak")
  parser.add_argument("--times", type=int, default=100, help="number of SIGKILLs")
  parser.add_argument("--others", type=int, default=3, help="number of each other fault")
  parser.add_argument("--minutes", type=float, default=25, help="no new trial after this time")
  parser.add_argument("--seed", type=int, default=0, help="of the moments and the damage")
  options = records.parse(parser)
  rng = np.random.default_rng(options.seed)
  tally = Tally(options)
  schedule = Schedule(options.times, options.others)
  end = time.monotonic() + 60 * options.minutes

  with tempfile.TemporaryDirectory(prefix="soak_") as root:
    folders = [pathlib.Path(root, name) for name in ("places", "data", "cache")]
    folders[0].mkdir()
    _undisturbed_outcome(folders)  # prepares and compiles, so that all others start alike
    expected = {1: _undisturbed_outcome(folders)}
    while not schedule.is_done(tally.num_kills()) and time.monotonic() < end:
      faults = schedule.next(tally.num_kills(), rng)
      try:
        tally.add(run_trial(faults, rng, folders, expected))
      except soak_faults.Skipped as error:
        tally.counts[faults[0]].skipped = f"skipped: {error}"
        schedule.skip(faults[0])
  return tally.show()


if __name__ == "__main__":
  sys.exit(not main())
