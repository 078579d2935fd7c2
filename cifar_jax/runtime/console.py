"""What a person sees of long work: lines, and a bar on a terminal where lines would be too many."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

log = logging.getLogger("cifar-jax")  # apart from absl's, in which libraries tell of every file
SECONDS_BETWEEN_LINES = 10.0


def show_log() -> None:
  """Shows `log` on standard error, above a progress bar if there is one."""
  handler = _AboveBar()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  log.handlers = [handler]
  log.setLevel(logging.INFO)
  log.propagate = False


class _AboveBar(logging.Handler):
  def emit(self, record: logging.LogRecord) -> None:
    tqdm.write(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def progress(
  what: str, total: int | None, unit: str, done: int = 0, lines: bool = True
) -> Iterator[Callable[..., None]]:
  """Yields `advance(n, **values)`, to be called as n more units are done.

  A bar on a terminal; elsewhere a line now and then, with the speed and the seconds left.

  Args:
    what: what is being done, such as 'epoch 1/10'.
    total: units in all; None when nobody knows.
    unit: name of a unit, such as 'step', or 'B' for bytes.
    done: units done before.
    lines: False where the caller has lines of its own, so that there is a bar or nothing.

  The values, such as loss=1.23, are shown beside.
  """
  if sys.stderr.isatty():
    scale = unit == "B"
    with tqdm(
      desc=what, total=total, unit=unit, initial=done, unit_scale=scale, leave=False
    ) as bar:

      def move(n: int, **values: float) -> None:
        bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()}, refresh=False)
        bar.update(n)

      yield move
    return

  now, before, start = done, done, time.monotonic()
  next_line = start + SECONDS_BETWEEN_LINES

  def tell(n: int, **values: float) -> None:
    nonlocal now, next_line
    now += n
    seconds = time.monotonic() - start
    if not lines or start + seconds < next_line or now == total:
      return
    next_line += SECONDS_BETWEEN_LINES
    rate = (now - before) / seconds
    line = f"{what}: {now:,}"
    if total:
      line += f" of {total:,} {unit} ({now / total:.0%}), {(total - now) / rate:.0f} s left"
    else:
      line += f" {unit}"
    log.info("%s", ", ".join([line, *(f"{name} {value:.4f}" for name, value in values.items())]))

  yield tell
