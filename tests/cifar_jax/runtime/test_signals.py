"""Signals that ask a run to save and exit."""

import os
import signal

import pytest

from cifar_jax.runtime import signals


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_collected_and_a_second_one_ends_the_process(signum):
  before = signal.getsignal(signum)
  with signals.stop_signals() as received:
    assert received == []
    os.kill(os.getpid(), signum)
    assert received == [signum]
    assert signal.getsignal(signum) == signal.SIG_DFL  # the second one ends the process
  assert signal.getsignal(signum) == before
