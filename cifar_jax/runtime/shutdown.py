"""The end of the program: an error becomes one line and an exit code."""

import io
import logging
import sys
import traceback
from typing import NoReturn

from absl import logging as absl_logging

from cifar_jax import errors
from cifar_jax.runtime import distributed
from cifar_jax.runtime.signals import Interrupted


def silence_libraries() -> None:
  """Keep libraries from logging tracebacks of errors that `exit_with` reports in one line."""
  absl_logging.set_verbosity(absl_logging.FATAL)
  logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)
  sys.unraisablehook = _ignore_closed_loops


def escape_output() -> None:
  """Write characters that the locale's encoding lacks as escapes, instead of failing."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")


def exit_with(error: BaseException) -> NoReturn:
  """Report an error that ended the program, and exit with its code.

  The codes are 128 + signal for `Interrupted`, otherwise 1. An error that the user cannot fix is
  raised again, so that Python prints its traceback.
  """
  if isinstance(error, BrokenPipeError):  # `head`, say, has read enough
    sys.stderr.close()
    sys.exit(1)
  if isinstance(error, Interrupted):
    distributed.leave()
    print(f"{error}: saved; the same command resumes", file=sys.stderr)
    sys.exit(128 + error.signum)
  message = _message(error)
  if distributed.joined():
    cause = error.__cause__ if message else error
    if isinstance(cause, RuntimeError | ValueError):  # what collectives raise when a peer is gone
      distributed.await_verdict()
    if message is None:
      traceback.print_exception(error)
    else:
      print(f"error: {message}", file=sys.stderr)
    distributed.abandon(1)
  if message is None:
    raise error
  print(f"error: {message}", file=sys.stderr)
  sys.exit(1)


def _message(error: BaseException) -> str | None:
  """Return the line for an error that the user can fix, or None for a bug in this code."""
  if isinstance(error, errors.UserError):
    return str(error)
  if isinstance(error, OSError):
    return errors.printable(f"{error.filename or 'I/O'}: {error.strerror or error}")
  if errors.is_out_of_memory(error):
    return (
      f"batch_size: too little memory ({errors.first_line(error)}); set remat=True or "
      "microbatch, or take a smaller batch, a smaller network, or more devices"
    )
  if isinstance(error, KeyboardInterrupt):
    return "interrupted"
  return None


def _ignore_closed_loops(unraisable: "sys.UnraisableHookArgs") -> None:
  # After one failed read or write, Orbax abandons others, which outlive their event loop.
  if "Event loop is closed" not in str(unraisable.exc_value):
    sys.__unraisablehook__(unraisable)
