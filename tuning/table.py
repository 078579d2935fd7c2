"""What a person sees of a sweep: a table that follows it on a terminal, the ranking at its end."""

import contextlib
import logging
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from cifar_jax.runtime import console

_SECONDS = 1.0  # between two drawings
_KEPT_FREE = 3  # lines of the terminal: the progress bar's, and some of what was there before


def ranking(found: Mapping[str, Any]) -> str:
  """The table of what run_sweep returns: a line for each configuration, the best first."""
  entries = found["ranking"]
  fields = list(dict.fromkeys(name for entry in entries for name in entry["fields"]))
  by = found["rank_by"]
  figures = [by, *(name for name in ("val_accuracy", "val_loss") if name != by)]
  rows = [["rank", *fields, *figures, "runs", "epochs", "seconds"]]
  for entry in entries:
    rows.append(
      [
        str(entry["rank"] or entry["status"]),
        *(_number(entry["fields"], name, "{}") for name in fields),
        *(spread(entry, name) for name in figures),
        _number(entry, "runs", "{}"),
        _number(entry, "epochs_run", "{:g}"),
        _number(entry, "seconds_to_train", "{:.0f}"),
      ]
    )
  lines = aligned(rows)
  lines.insert(1, "-" * max(map(len, lines)))
  return "\n".join(lines)


def metric(name: str, values: Mapping[str, Any]) -> str:
  """A validation figure with its name, and its standard error if there are several runs."""
  said = {"val_accuracy": "validation accuracy", "val_loss": "validation loss"}[name]
  return f"{said} {spread(values, name)}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  """Rows of texts as lines with columns."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    for row in rows
  ]


@contextlib.contextmanager
def followed(lines: Callable[[], list[str]]) -> Iterator[None]:
  """On a terminal keeps the table of `lines()` in view, above the progress bar; else does nothing.

  Log lines of level INFO, which tell of each epoch, are left out meanwhile: the table does.
  """
  if not sys.stderr.isatty():
    yield
    return
  live = _Live(lines)
  handlers, console.log.handlers = console.log.handlers, [live]
  live.start()
  try:
    yield
  finally:
    live.stop()
    console.log.handlers = handlers


class _Live(logging.Handler):
  """Draws, and draws again over what it drew; messages are put above."""

  def __init__(self, lines: Callable[[], list[str]]):
    super().__init__(logging.WARNING)
    self._lines = lines
    self._drawn = 0
    self._over = threading.Event()
    self._thread = threading.Thread(target=self._follow, daemon=True)

  def start(self) -> None:
    self._draw()
    self._thread.start()

  def stop(self) -> None:
    self._over.set()
    self._thread.join()
    self._draw()

  def emit(self, record: logging.LogRecord) -> None:
    self._draw(self.format(record))

  def _follow(self) -> None:
    while not self._over.wait(_SECONDS):
      self._draw()

  def _draw(self, above: str = "") -> None:
    columns, rows = shutil.get_terminal_size()
    lines = self._lines()
    room = max(rows - _KEPT_FREE, 1)
    if len(lines) > room:
      lines = [*lines[: room - 1], f"… and {len(lines) - room + 1} more"]
    text = "\r\033[J" if not self._drawn else f"\r\033[{self._drawn}A\033[J"
    text += f"{above}\n" if above else ""
    text += "".join(f"{line[: columns - 1]}\n" for line in lines)
    with tqdm.get_lock():  # the bar is below, and comes back with its next step
      sys.stderr.write(text)
      sys.stderr.flush()
      self._drawn = len(lines)


def _number(entry: Mapping[str, Any], name: str, form: str) -> str:
  return "" if entry.get(name) is None else form.format(entry[name])


def spread(entry: Mapping[str, Any], name: str) -> str:
  """A figure, with its standard error if there is one."""
  form = "{:.2%}" if name.endswith("accuracy") else "{:.4f}"
  if (entry.get(name) or 0) >= 1e4:  # the loss of a run that diverged
    form = "{:.2e}"
  text, error = _number(entry, name, form), _number(entry, f"{name}_standard_error", form)
  return f"{text} ± {error}" if error else text
