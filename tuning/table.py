"""The tables of a sweep: a live one on a terminal while trials run, and the ranking at the end."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cifar_jax.runtime import console
from cifar_jax.runtime.text_table import format_table

_RESERVED_LINES = 3  # lines of the terminal that the live table leaves free
_METRIC_NAMES = {"val_accuracy": "validation accuracy", "val_loss": "validation loss"}


def ranking_table(summary: Mapping[str, Any]) -> str:
  """Return the ranking of a sweep as text, one line for each configuration, the best first.

  Args:
    summary: the contents of sweep.json.
  """
  entries = summary["ranking"]
  fields = list(dict.fromkeys(name for entry in entries for name in entry["fields"]))
  rank_by = summary["rank_by"]
  metrics = [rank_by, *(name for name in _METRIC_NAMES if name != rank_by)]
  rows = [
    [
      str(entry["rank"] or entry["status"]),
      *(_format(entry["fields"], name, "{}") for name in fields),
      *(format_metric(entry, name) for name in metrics),
      _format(entry, "runs", "{}"),
      _format(entry, "epochs_run", "{:g}"),
      _format(entry, "seconds_to_train", "{:.0f}"),
    ]
    for entry in entries
  ]
  return format_table(["rank", *fields, *metrics, "runs", "epochs", "seconds"], rows)


def named_metric(name: str, metrics: Mapping[str, Any]) -> str:
  """Return a validation metric as text, with its name and, for several runs, its standard error."""
  return f"{_METRIC_NAMES[name]} {format_metric(metrics, name)}"


def format_metric(metrics: Mapping[str, Any], name: str) -> str:
  """Return a metric as text, with its standard error if it has one."""
  form = "{:.2%}" if name.endswith("accuracy") else "{:.4f}"
  if (metrics.get(name) or 0) >= 1e4:  # the loss of a run that diverged
    form = "{:.2e}"
  text, error = _format(metrics, name, form), _format(metrics, f"{name}_standard_error", form)
  return f"{text} ± {error}" if error else text


def _format(values: Mapping[str, Any], name: str, form: str) -> str:
  return "" if values.get(name) is None else form.format(values[name])


@contextlib.contextmanager
def live_table(
  header: Sequence[str], get_rows: Callable[[], Sequence[Sequence[str]]]
) -> Iterator[None]:
  """Show a live table during the block, if standard error is a terminal.

  The table is redrawn every second, above the progress bar. Log lines below level WARNING are
  dropped, because the table shows the same facts; warnings are printed above the table.
  """
  terminal = console.terminal()
  if not terminal.is_terminal:
    yield
    return

  def render() -> Text:
    lines = format_table(header, get_rows()).splitlines()
    room = max(terminal.height - _RESERVED_LINES, 1)
    if len(lines) > room:
      lines = [*lines[: room - 1], f"… and {len(lines) - room + 1} more"]
    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

  live = Live(
    get_renderable=render,
    console=terminal,
    refresh_per_second=1,
    redirect_stdout=False,
  )
  handlers, console.log.handlers = console.log.handlers, [_AboveTable(terminal)]
  live.start(refresh=True)
  try:
    yield
  finally:
    live.stop()
    console.log.handlers = handlers


class _AboveTable(logging.Handler):
  """Prints warnings and errors above the live table of a terminal."""

  def __init__(self, terminal: Console):
    super().__init__(logging.WARNING)
    self._terminal = terminal

  def emit(self, record: logging.LogRecord) -> None:
    self._terminal.print(Text(self.format(record)))
