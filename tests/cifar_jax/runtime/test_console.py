"""Progress: a bar on a terminal, plain lines elsewhere."""

import io
import logging
import re
import time

import pytest
from rich.live import Live

from cifar_jax.runtime import console


@pytest.fixture
def lines(monkeypatch, log_lines):
  """The log, with a line at every step."""
  monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
  return log_lines


class Terminal(io.StringIO):
  """Standard error as a terminal."""

  def isatty(self):
    return True


@pytest.fixture
def open_terminal(monkeypatch):
  """Makes standard error a terminal of 80 columns; called in the test, when pytest has set it."""

  def start() -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("LINES", "24")):
      monkeypatch.setenv(name, value)
    console.terminal.cache_clear()  # rich reads the size once
    return terminal

  yield start
  console.terminal.cache_clear()


def wait_for(text: str, terminal: Terminal) -> str:
  """Return what the terminal shows, without colours, once it shows `text`."""
  end = time.monotonic() + 20
  while text not in (shown := re.sub(r"\033\[[\d;]*m", "", terminal.getvalue())):
    assert time.monotonic() < end, shown
    time.sleep(0.01)
  return shown


def test_lines_without_a_terminal(lines, capsys):
  with console.progress("epoch 1/2", 400, "steps", done=100) as advance:
    advance(100, loss=1.25)
    advance(200)
  assert len(lines) == 1  # the caller logs the end
  assert lines[0].startswith("epoch 1/2: 200 of 400 steps (50%), ")
  assert lines[0].endswith(" s left, loss 1.2500")
  with console.progress("downloading", None, "B") as advance:
    advance(5000)
  assert lines[1] == "downloading: 5,000 B"
  with console.progress("epoch 2/2", 400, "steps", lines=False) as advance:
    advance(100)
  assert len(lines) == 2
  assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(lines, open_terminal):
  terminal = open_terminal()
  with console.progress("epoch 1/2", 4, "steps", done=1) as advance:
    advance(2, loss=0.5)
    drawn = wait_for("loss 0.5000", terminal)
  assert lines == []
  assert "epoch 1/2" in drawn and "3/4 steps" in drawn
  shown = terminal.getvalue()
  assert shown.rindex("\033[?25h") > shown.rindex("\033[?25l")  # the cursor is visible


def test_log_lines_and_live_displays_stand_above_the_bar(open_terminal, monkeypatch):
  monkeypatch.setattr(console.log, "handlers", [])
  monkeypatch.setattr(console.log, "propagate", True)
  level = console.log.level
  terminal = open_terminal()
  console.show_log()
  with (
    Live("a table", console=console.terminal(), refresh_per_second=1),
    console.progress("[epoch 1/2]", 4, "steps") as advance,
  ):
    advance(1)
    console.log.info("[an epoch] ended")
    _, below = wait_for("1/4 steps", terminal).split("[an epoch] ended\n", 1)
  console.log.setLevel(level)
  assert below.index("a table") < below.index("[epoch 1/2]")


def test_show_log_writes_lines_without_a_terminal(capsys, monkeypatch):
  monkeypatch.setattr(console.log, "handlers", [])
  monkeypatch.setattr(console.log, "propagate", True)
  level = console.log.level
  console.show_log()
  console.log.info("%s [bold]", "é")
  console.log.info("left out %s", "a\x1b[2J\nb.png")
  console.log.debug("hidden")
  assert console.log.level == logging.INFO
  console.log.setLevel(level)
  line, escaped = capsys.readouterr().err.splitlines()
  assert escaped.endswith(" left out a\\x1b[2J\\nb.png")
  assert line.endswith(" é [bold]") and line[2] == line[5] == ":"
