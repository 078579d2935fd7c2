"""Errors that end the program: one line each, on any terminal."""

import io
import sys

import jax
import pytest

from cifar_jax.runtime import shutdown


def exit_line(error, capsys):
  with pytest.raises(SystemExit) as ended:
    shutdown.exit_with(error)
  assert ended.value.code == 1
  (line,) = capsys.readouterr().err.splitlines()
  return line


def test_too_little_memory_is_one_line(capsys):
  error = jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9663676416 bytes.\nBFC:\n…"
  )
  assert exit_line(error, capsys) == (
    "error: batch_size: too little memory (RESOURCE_EXHAUSTED: Out of memory while trying to "
    "allocate 9663676416 bytes.); set remat=True or microbatch, or take a smaller batch, "
    "a smaller network, or more devices"
  )
  assert "too little memory (MemoryError)" in exit_line(MemoryError(), capsys)


def test_a_file_name_cannot_control_the_terminal(capsys):
  error = OSError(28, "No space left on device", "a\x1b[2J\nb")
  assert exit_line(error, capsys) == "error: a\\x1b[2J\\nb: No space left on device"


def test_characters_that_the_locale_lacks_are_escaped(monkeypatch):
  raw = io.BytesIO()
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
  shutdown.escape_output()
  print("91.2 ± 0.1 %")
  sys.stdout.flush()
  assert raw.getvalue() == b"91.2 \\xb1 0.1 %\n"
