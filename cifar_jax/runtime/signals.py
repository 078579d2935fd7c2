"""Graceful shutdown: on SIGTERM, SIGINT or SIGUSR1, save and exit at the next safe point.

launch/slurm.sh has SLURM send SIGUSR1 before the time limit, to tell it from `scancel`.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(Exception):
  """A signal stopped the run; everything is saved, and the same command resumes.

  Attributes:
    signum: the number of the signal.
  """

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
  """Collect the numbers of the signals in a list; the second of a kind ends the process."""
  received: list[int] = []
  if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
    yield received
    return

  def note(signum: int, _: FrameType | None) -> None:
    received.append(signum)
    signal.signal(signum, signal.SIG_DFL)

  previous = {s: signal.signal(s, note) for s in _SIGNALS}
  try:
    yield received
  finally:
    for signum, handler in previous.items():
      signal.signal(signum, handler)


def any_process(received: list[int]) -> bool:
  """Return whether any process received a signal, so that all stop after the same epoch."""
  import jax  # here, so that main.py can report a wrong flag without it

  if jax.process_count() == 1:
    return bool(received)
  import numpy as np
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.array(len(received))).any())
