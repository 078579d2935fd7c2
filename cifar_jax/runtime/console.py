"""Log lines and progress on standard error: a bar on a terminal, occasional lines elsewhere."""

import contextlib
import functools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cifar_jax import errors

if TYPE_CHECKING:
  from rich.console import Console

log = logging.getLogger("cifar-jax")  # not absl's logger, to which libraries log every file
SECONDS_BETWEEN_LINES = 10.0


@functools.cache
def terminal() -> "Console":
  """Return rich's console on standard error, which live displays share so that they stack."""
  from rich.console import Console

  return Console(stderr=True)


def show_log() -> None:
  """Write `log` to standard error, above the progress bar if there is one."""
  handler = _ErrorHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  log.handlers = [handler]
  log.setLevel(logging.INFO)
  log.propagate = False


class _ErrorHandler(logging.Handler):
  def emit(self, record: logging.LogRecord) -> None:
    text = errors.printable(self.format(record), keep="\n" if record.exc_info else "")
    if sys.stderr.isatty():
      terminal().print(text, markup=False, highlight=False, soft_wrap=True)
    else:
      print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(
  title: str, total: int | None, unit: str, done: int = 0, lines: bool = True
) -> Iterator[Callable[..., None]]:
  """Yield `advance(n, **values)`, to be called when n more units are done.

  A terminal shows a bar. Elsewhere a line with the seconds left is logged now and then. Both show
  the last `values`, such as loss=1.23.

  Args:
    title: the name of the work, such as 'epoch 1/10'.
    total: the number of units in all; None if it is unknown.
    unit: the name of a unit, such as 'step', or 'B' for bytes.
    done: the number of units already done.
    lines: whether to log lines if there is no terminal.
  """
  if sys.stderr.isatty():
    with _show_bar(title, total, unit, done) as advance:
      yield advance
  elif lines:
    yield _line_logger(title, total, unit, done)
  else:
    yield lambda n, **values: None


@contextlib.contextmanager
def _show_bar(title: str, total: int | None, unit: str, done: int) -> Iterator[Callable[..., None]]:
  from rich import progress as bars

  counts: list[bars.ProgressColumn] = [bars.MofNCompleteColumn(), bars.TextColumn(unit)]
  if unit == "B":
    counts = [bars.DownloadColumn(), bars.TransferSpeedColumn()]
  bar = bars.Progress(
    bars.TextColumn("{task.description}", markup=False),
    bars.BarColumn(),
    *counts,
    bars.TimeRemainingColumn(),
    bars.TextColumn("{task.fields[values]}", markup=False),
    console=terminal(),
    transient=True,
    redirect_stdout=False,  # standard output may be a file
  )
  with bar:
    terminal().show_cursor()  # a killed process would leave it hidden
    task = bar.add_task(title, total=total, completed=done, values="")

    def advance(n: int, **values: float) -> None:
      bar.update(task, advance=n, values=_format_values(values))

    yield advance


def _line_logger(title: str, total: int | None, unit: str, done: int) -> Callable[..., None]:
  current, start = done, time.monotonic()
  next_line = start + SECONDS_BETWEEN_LINES

  def advance(n: int, **values: float) -> None:
    nonlocal current, next_line
    current += n
    seconds = time.monotonic() - start
    if start + seconds < next_line or current == total:
      return
    next_line += SECONDS_BETWEEN_LINES
    line = f"{title}: {current:,}"
    if total:
      seconds_left = (total - current) * seconds / (current - done)
      line += f" of {total:,} {unit} ({current / total:.0%}), {seconds_left:.0f} s left"
    else:
      line += f" {unit}"
    log.info("%s", ", ".join(filter(None, [line, _format_values(values)])))

  return advance


def _format_values(values: dict[str, float]) -> str:
  return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
