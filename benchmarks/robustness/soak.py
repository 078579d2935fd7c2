"""Does a run survive what happens to runs? Faults, one after the other, and what came of each.

  python -m benchmarks.robustness.soak --times=100 --others=3 --minutes=25

A run of a tiny network on the digits (three epochs, seconds) is disturbed, then the same command is
given again until it is done. `equal` counts the faults after which every array of the last
checkpoints, metrics.jsonl and results.json are bit for bit those of an undisturbed run, clocks
apart, with each epoch in metrics.jsonl once. `kept` counts those after which the run went on from
the newest checkpoint that was whole, and every error was told in one line without a traceback.

SIGKILL strikes at moments drawn at random, in turn while data are prepared, programs compiled,
steps taken, checkpoints written, weights tested, and at any time from the start; up to five times
in a row. Full disks and read-only folders are small file systems of their own, which takes root;
where they cannot be had the row says so. Clocks are Python's, as `time` tells them.
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile
import time

import numpy as np

from benchmarks import records
from benchmarks.robustness import soak_faults
from benchmarks.robustness.soak_run import Wrong, differing, outcome, place

_AGAIN = ("training", "checkpoint", "evaluation", "any time")  # as further kills of the same run
_COMPILATIONS = 10  # each is followed by programs compiled anew
_COLUMNS = ["fault", "times", "equal", "kept"]


class Tally:
  """What came of each fault: the rows of the table, written after every trial."""

  def __init__(self, options: argparse.Namespace):
    self.rows = {
      name: {"fault": name, "times": 0, "equal": 0, "kept": 0}
      for name in [f"SIGKILL: {name}" for name in soak_faults.KILLS] + list(soak_faults.OTHERS)
    }
    self.record = records.Record("soak", options, _COLUMNS)

  def add(self, faults: list[str], equal: bool, kept: bool, problem: str) -> None:
    for name in faults:
      row = self.rows[name]
      row["times"] += 1
      row["equal"] += equal
      row["kept"] += kept
      if problem:
        row.setdefault("problems", []).append(problem)
        print(f"{name}: {problem}", file=sys.stderr, flush=True)
    self.record.content["rows"] = list(self.rows.values())
    self.record.write()

  def kills(self) -> int:
    return sum(row["times"] for name, row in self.rows.items() if name.startswith("SIGKILL"))

  def show(self) -> bool:
    """Prints the table; whether everything ended as it should."""
    self.record.content["rows"] = []
    for row in self.rows.values():
      problems = row.get("problems", [])
      note = f"{len(problems)} × not as it should be" if problems else row.get("skipped")
      self.record.add(row, **({"note": note} if note else {}))
    return all(row["equal"] == row["kept"] == row["times"] for row in self.rows.values())


def trial(
  faults: list[str], rng: np.random.Generator, folders: list[pathlib.Path], whole: dict
) -> tuple[list[str], bool, bool, str]:
  """Disturbs a new run by one fault after the other; what Tally.add takes of it."""
  struck: list[str] = []
  with place(*folders) as at:
    try:
      for name in faults:
        fault = (
          soak_faults.OTHERS[name]
          if name in soak_faults.OTHERS
          else soak_faults.KILLS[name.removeprefix("SIGKILL: ")]
        )
        with contextlib.suppress(soak_faults.Missed):
          try:
            fault(at, rng)
          except Wrong:
            struck.append(name)
            raise
          struck.append(name)
        if at.finished:
          break
      if not at.finished:
        at.run_to_the_end()
      different = differing(outcome(at.workdir), whole)
    except Wrong as error:
      return struck or faults[:1], False, False, str(error)
  problem = "; ".join(at.lost + ([f"different: {', '.join(different[:5])}"] if different else []))
  return struck, not different, not at.lost, problem


def main() -> bool:
  records.end_with_signals()
  parser = records.bare_parser(__doc__, "soak")
  parser.add_argument("--times", type=int, default=100, help="SIGKILLs")
  parser.add_argument("--others", type=int, default=3, help="of each other fault")
  parser.add_argument("--minutes", type=float, default=25, help="no new trial after so many")
  parser.add_argument("--seed", type=int, default=0, help="of the moments and the damage")
  options = parser.parse_args()
  rng = np.random.default_rng(options.seed)
  tally = Tally(options)
  end = time.monotonic() + 60 * options.minutes

  with tempfile.TemporaryDirectory(prefix="soak_") as root:
    folders = [pathlib.Path(root, name) for name in ("places", "data", "cache")]
    folders[0].mkdir()
    for _ in range(2):  # the first prepares and compiles; the second is what others start from
      with place(*folders) as at:
        at.run_to_the_end()
        whole = outcome(at.workdir)
    todo = [[name] for name in soak_faults.OTHERS for _ in range(options.others)]
    while (todo or tally.kills() < options.times) and time.monotonic() < end:
      kills = tally.kills()
      if todo and (kills >= options.times or rng.random() < 0.4):
        faults = todo.pop(int(rng.integers(len(todo))))
      else:
        first = list(soak_faults.KILLS)[kills % len(soak_faults.KILLS)]
        if first == "compilation" and kills >= _COMPILATIONS * len(soak_faults.KILLS):
          first = "any time"
        more = rng.choice(_AGAIN, min(int(rng.integers(5)), max(0, options.times - kills - 1)))
        faults = [f"SIGKILL: {name}" for name in [first, *more]]
      try:
        tally.add(*trial(faults, rng, folders, whole))
      except soak_faults.Skipped as error:
        tally.rows[faults[0]]["skipped"] = f"skipped: {error}"
        todo = [other for other in todo if other != faults]
  return tally.show()


if __name__ == "__main__":
  sys.exit(not main())
