"""Graceful shutdown: on SIGTERM, SIGINT or SIGUSR1, save and exit at the next safe point.

launch/slurm.sh has SLURM send SIGUSR1 before the time limit, to distinguish it from `scancel`.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from cifar_jax.runtime import distributed

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_CHECK_EVERY = 4  # dispatches


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
  """Yield a list that collects signal numbers; a second signal of a kind ends the process."""
  received: list[int] = []
  if threading.current_thread() is not threading.main_thread():  # only it may set handlers
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


class StopPoint:
  """The dispatch of an epoch after which all processes stop, once one of them received a signal.

  No process waits for the others. A process that received a signal publishes a dispatch so far
  ahead that every process sees the message before it gets there: when a process has finished a
  dispatch, all have at least begun it, because each dispatch reduces over all devices.

  Args:
    received: the numbers of the signals that this process received.
    max_queued: the number of dispatches that a process may begin before it waits for the first.
  """

  def __init__(self, received: list[int], max_queued: int):
    self._received, self._max_queued = received, max_queued
    self._has_published = False
    self._name = distributed.unique_name("stop") if distributed.joined() else ""

  def is_reached(self, num_dispatches: int) -> bool:
    """Return whether to stop after this number of dispatches; call this after each dispatch."""
    if not self._name:
      return bool(self._received)
    if self._received and not self._has_published:
      earliest = num_dispatches + self._max_queued + 1
      distributed.publish(self._name, str(-(-earliest // _CHECK_EVERY) * _CHECK_EVERY))
      self._has_published = True
    if num_dispatches % _CHECK_EVERY:
      return False
    return any(int(at) <= num_dispatches for at in distributed.published(self._name))
