"""Being asked to stop: SIGTERM and SIGINT are noted, and the run saves and ends where it can."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


class Interrupted(Exception):
  """A signal asked the run to stop; everything is saved and the same command resumes."""

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT in a list instead of dying; a second one of them does kill."""
  received: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield received
    return

  def note(signum: int, _: Any) -> None:
    received.append(signum)
    signal.signal(signum, signal.SIG_DFL)

  before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield received
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler)


def any_process(stop: list[int]) -> bool:
  """Whether any process was asked to stop, so that all stop after the same epoch."""
  if jax.process_count() == 1:
    return bool(stop)
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.array(len(stop))).any())
