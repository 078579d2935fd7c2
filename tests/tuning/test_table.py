"""The live table of a sweep."""

import functools
import io
import re

from rich.console import Console

from cifar_jax.runtime import console
from tuning import table


class Terminal(io.StringIO):
  """Standard error as a terminal of 20 columns and 8 lines."""

  def isatty(self):
    return True


def open_terminal(monkeypatch) -> Terminal:
  """Make standard error a terminal. (In a fixture, pytest would replace it before the test.)"""
  stderr = Terminal()
  monkeypatch.setattr("sys.stderr", stderr)
  for name, value in (("TERM", "xterm"), ("COLUMNS", "20"), ("LINES", "8")):
    monkeypatch.setenv(name, value)
  monkeypatch.setattr(console, "terminal", functools.cache(lambda: Console(stderr=True)))
  return stderr


def test_on_a_terminal_the_table_is_redrawn_below_warnings(monkeypatch):
  terminal = open_terminal(monkeypatch)
  handlers = console.log.handlers
  rows = [["seed=0", "waiting"]]
  with table.live_table(["trial", "status"], lambda: rows):
    rows[0][1] = "running"
    console.log.info("an epoch")
    console.log.warning("careful")
    assert console.log.handlers != handlers
  assert console.log.handlers == handlers
  first, rest = terminal.getvalue().split("careful\n")
  assert "seed=0  waiting\r" in first and "an epoch" not in first + rest
  # The cursor is back on the first line of the table.
  assert first.endswith("\r\033[2K\033[1A\033[2K")
  assert "seed=0  running\n" in rest


def test_a_long_table_is_cut_to_the_terminal(monkeypatch):
  terminal = open_terminal(monkeypatch)
  with table.live_table(["trial"], lambda: [["x" * 30], *([str(i)] for i in range(9))]):
    pass
  lines = [
    re.sub(r"\033\[[^a-zA-Z]*[a-zA-Z]", "", line) for line in terminal.getvalue().split("\n")
  ]
  assert lines[:4] == ["trial", "x" * 19 + "…", "0", "1"]
  assert lines[4].split("\r")[0] == "… and 7 more"
