"""Progress: a bar on a terminal, plain lines elsewhere."""

import pytest

from cifar_jax.runtime import console


@pytest.fixture
def lines(monkeypatch, log_lines):
  """The log, with a line at every step."""
  monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
  return log_lines


def test_lines_elsewhere(lines, capsys):
  with console.progress("epoch 1/2", 400, "steps", done=100) as advance:
    advance(100, loss=1.25)
    advance(200)
  assert len(lines) == 1  # the end of it is for the caller to tell
  assert lines[0].startswith("epoch 1/2: 200 of 400 steps (50%), ")
  assert lines[0].endswith(" s left, loss 1.2500")
  with console.progress("downloading", None, "B") as advance:
    advance(5000)
  assert lines[1] == "downloading: 5,000 B"
  assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(lines, monkeypatch, capsys):
  monkeypatch.setattr("sys.stderr.isatty", lambda: True)
  with console.progress("epoch 1/2", 4, "steps") as advance:
    advance(4, loss=0.5)
  assert lines == []
  shown = capsys.readouterr().err
  assert "epoch 1/2" in shown and "/4 " in shown
