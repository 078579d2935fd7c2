"""Can a damaged file break a reader? Damage thousands of files, and count what happens.

  python -m benchmarks.robustness.fuzz --examples=2000 --minutes=20

Real files are damaged at random (bits flipped, parts cut, inserted and moved; in JSON also values
replaced and removed) and passed to the functions that read them, in this process. Either the
content is read and has the right form, or the reader raises a `UserError` of one line. Everything
else counts as `broken`, as does a file that takes more than ten seconds of CPU time or a minute in
all. Hypothesis draws the damage. The record keeps the smallest file that causes each error.

Wrong values of a config's fields, and of the flags of every mode, are tried in the same way:

  python -m benchmarks.robustness.fuzz --targets='config, to check;config, to train;flags'
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
import jax
from hypothesis import strategies as st

from benchmarks import records
from benchmarks.robustness import fuzz_targets
from benchmarks.robustness.fuzz_damage import Target
from cifar_jax import errors
from cifar_jax.runtime import shutdown
from cifar_jax.types import Row

_CPU_SECONDS, _SECONDS = 10, 60  # for one file
_AT_ONCE = 100  # files between two checks of the time
READ, REFUSED, BROKEN = "read", "refused", "broken"
_COLUMNS = ["target", "files", READ, REFUSED, BROKEN, "slowest ms"]


class Hangs(Exception):
  """A file takes too long."""


def try_one(read: Callable[[Any], object], file: Any) -> str:
  """Read a file; return READ or REFUSED, or raise the error that breaks the reader."""
  try:
    with _time_limit():
      read(file)
  except errors.UserError as error:
    if len(str(error).splitlines()) != 1:
      raise AssertionError(f"not one line: {error!r}") from error
    return REFUSED
  return READ


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
  """Raise Hangs after ten seconds of CPU time, or a minute."""

  def fail(*_: Any) -> None:
    raise Hangs(f"more than {_CPU_SECONDS} s of CPU time, or {_SECONDS} s in all")

  limits = {
    signal.SIGPROF: (signal.ITIMER_PROF, _CPU_SECONDS),
    signal.SIGALRM: (signal.ITIMER_REAL, _SECONDS),
  }
  handlers = {number: signal.signal(number, fail) for number in limits}
  for timer, seconds in limits.values():
    signal.setitimer(timer, seconds)
  try:
    yield
  finally:
    for number, (timer, _) in limits.items():
      signal.setitimer(timer, 0)
      signal.signal(number, handlers[number])


def fuzz(target: Target, examples: int, seed: int, end: float = float("inf")) -> tuple[Row, Row]:
  """Damage and read the files of a target.

  Args:
    examples: number of files.
    seed: the seed of the damage.
    end: the time (of time.monotonic) after which no more files are read.

  Returns:
    The row of the table, and the smallest file that causes each error.
  """
  counts: collections.Counter[str] = collections.Counter()
  smallest: dict[str, str] = {}
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
    file = data.draw(target.files)
    start = time.monotonic()
    try:
      counts[try_one(target.read, file)] += 1
    except (Exception, MemoryError) as error:
      counts[BROKEN] += 1
      kind = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
      text = base64.b64encode(file).decode() if isinstance(file, bytes) else repr(file)
      if kind not in smallest or len(text) < len(smallest[kind]):
        smallest[kind] = text
    slowest = max(slowest, time.monotonic() - start)

  for i in range(-(-examples // _AT_ONCE)):
    if time.monotonic() < end:
      hypothesis.seed(seed + i)(run)()
      jax.clear_caches()  # a process may have some 65,000 memory maps, and programs take several
  row: Row = {"target": target.name, "files": counts.total()}
  row |= {name: counts[name] for name in (READ, REFUSED, BROKEN)}
  return row | {"slowest ms": 1000 * slowest}, smallest


def main() -> bool:
  parser = records.bare_parser(__doc__, "fuzz")
  parser.add_argument("--examples", type=int, default=2000, help="number of files of each target")
  parser.add_argument("--minutes", type=float, default=20, help="for all targets")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--targets", default="", help="names of targets, separated by semicolons")
  options = records.parse(parser)
  shutdown.silence_libraries()
  record = records.Record("fuzz", options, _COLUMNS)
  end = time.monotonic() + 60 * options.minutes
  with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
    targets = fuzz_targets.make(pathlib.Path(folder))
    names = options.targets.split(";") if options.targets else [t.name for t in targets]
    for i, target in enumerate(targets):
      if target.name in names:
        seconds = (end - time.monotonic()) / (len(targets) - i)
        row, smallest = fuzz(target, options.examples, options.seed, time.monotonic() + seconds)
        record.add(row, smallest=smallest)
        for kind in smallest:
          print(f"  {kind}", flush=True)
  return not any(row[BROKEN] for row in record.content["rows"])


if __name__ == "__main__":
  sys.exit(not main())
