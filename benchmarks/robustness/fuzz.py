"""Can any file break it? Thousands of damaged ones, and what came of each kind.

  python -m benchmarks.robustness.fuzz --examples=2000 --minutes=20

Real files are damaged at random (bits flipped, pieces cut out, put in, moved; in JSON also values
replaced and left out) and given to the functions that read them, in this process. Either the file
is read, and what is read has the form it must have, or an error for users tells of it in one line;
everything else counts as `broken`, as does what takes longer than ten seconds. Hypothesis makes the
damage, and the smallest that breaks something is kept in the record.
"""

import base64
import collections
import contextlib
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
from hypothesis import strategies as st

from benchmarks import records
from benchmarks.robustness import fuzz_targets
from cifar_jax import errors

_SECONDS = 10  # for one file
_AT_ONCE = 100  # files between two looks at the clock
READ, REFUSED = "read", "refused"
_COLUMNS = ["target", "files", "read", "refused", "broken", "slowest ms"]


class Hangs(Exception):
  """A file takes longer than it may."""


def try_one(read: Callable[[Any], object], given: Any) -> str:
  """READ or REFUSED; raises whatever else comes of it."""
  try:
    with _limited():
      read(given)
  except errors.UserError as error:
    if len(str(error).splitlines()) != 1:
      raise AssertionError(f"not one line: {error!r}") from error
    return REFUSED
  return READ


@contextlib.contextmanager
def _limited() -> Iterator[None]:
  def fail(*_: Any) -> None:
    raise Hangs(f"more than {_SECONDS} s")

  before = signal.signal(signal.SIGALRM, fail)
  signal.setitimer(signal.ITIMER_REAL, _SECONDS)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def fuzz(
  target: fuzz_targets.Target, examples: int, seed: int, end: float = float("inf")
) -> dict[str, Any]:
  """A row of the table: damages a target's files until there are enough, or the time is over."""
  counts: collections.Counter[str] = collections.Counter()
  broken: dict[str, str] = {}
  slowest = 0.0

  @hypothesis.settings(
    max_examples=_AT_ONCE,
    deadline=None,
    database=None,
    print_blob=False,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(st.data())
  def run(data: st.DataObject) -> None:
    nonlocal slowest
    given = data.draw(target.files)
    start = time.monotonic()
    try:
      counts[try_one(target.read, given)] += 1
    except (Exception, MemoryError) as error:  # is what is looked for
      counts["broken"] += 1
      kind = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
      shown = base64.b64encode(given).decode() if isinstance(given, bytes) else repr(given)
      if len(shown) < len(broken.get(kind, shown + " ")):
        broken[kind] = shown
    slowest = max(slowest, time.monotonic() - start)

  for i in range(-(-examples // _AT_ONCE)):
    if time.monotonic() < end:
      hypothesis.seed(seed + i)(run)()
  row = {"target": target.name, "files": counts.total()}
  row |= {name: counts[name] for name in (READ, REFUSED, "broken")}
  return row | {"slowest ms": 1000 * slowest, "smallest": broken}


def main() -> bool:
  records.end_with_signals()
  parser = records.bare_parser(__doc__, "fuzz")
  parser.add_argument("--examples", type=int, default=2000, help="files of each target")
  parser.add_argument("--minutes", type=float, default=20, help="for all targets together")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--targets", default="", help="some of them, with commas between")
  options = parser.parse_args()
  record = records.Record("fuzz", options, _COLUMNS)
  end = time.monotonic() + 60 * options.minutes
  with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
    targets = fuzz_targets.make(pathlib.Path(folder))
    wanted = options.targets.split(",") if options.targets else [t.name for t in targets]
    for i, target in enumerate(targets):
      if target.name in wanted:
        share = (end - time.monotonic()) / (len(targets) - i)
        row = fuzz(target, options.examples, options.seed, time.monotonic() + share)
        record.add({k: v for k, v in row.items() if k != "smallest"}, smallest=row["smallest"])
        for kind in row["smallest"]:
          print(f"  {kind}", flush=True)
  return not any(row["broken"] for row in record.content["rows"])


if __name__ == "__main__":
  sys.exit(not main())
