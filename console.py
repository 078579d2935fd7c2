"""What a person sees of long work: lines, and a bar on a terminal where lines would be too many."""

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger("cifar-jax")  # apart from absl's, in which libraries tell of every file

HEARTBEAT_SECONDS = 30


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


class Progress:
  """Counts `total` units of work: `with Progress('epoch 1/10', 390, 'step') as p: p.advance(1)`."""

  def __init__(self, title: str, total: int, unit: str, done: int = 0):
    self._title, self._total, self._unit, self._done = title, total, unit, done
    self._started_at = done
    self._start = self._last = time.monotonic()
    self._bar = None
    if sys.stderr.isatty():
      self._bar = tqdm(
        total=total, initial=done, desc=title, unit=unit, leave=False, dynamic_ncols=True
      )

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *_: object) -> None:
    if self._bar is not None:
      self._bar.close()

  def advance(self, units: int, **values: float) -> None:
    """Counts `units` more as done; `values` are shown beside, such as loss=1.23."""
    self._done += units
    shown = {name: f"{value:.4f}" for name, value in values.items()}
    if self._bar is not None:
      self._bar.set_postfix(shown, refresh=False)
      self._bar.update(units)
      return
    now = time.monotonic()
    if now - self._last >= HEARTBEAT_SECONDS and self._done < self._total:
      self._last = now
      rate = (self._done - self._started_at) / (now - self._start)
      log.info(
        "%s: %s %d/%d, %.1f %s/s, %.0f s left%s",
        self._title,
        self._unit,
        self._done,
        self._total,
        rate,
        self._unit,
        (self._total - self._done) / rate,
        "".join(f", {name} {value}" for name, value in shown.items()),
      )
