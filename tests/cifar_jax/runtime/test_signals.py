"""Signals that ask a run to save and exit."""

import collections
import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_jax.runtime import distributed, signals

MAX_QUEUED = 4


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_collected_and_a_second_one_ends_the_process(signum):
  before = signal.getsignal(signum)
  with signals.stop_signals() as received:
    assert received == []
    os.kill(os.getpid(), signum)
    assert received == [signum]
    assert signal.getsignal(signum) == signal.SIG_DFL  # the second one ends the process
  assert signal.getsignal(signum) == before


def stops(order: list[int], signalled: dict[int, int], num_processes: int, monkeypatch):
  """Return after how many dispatches each process stops.

  Args:
    order: the numbers of the processes, in the order in which they would like to dispatch.
    signalled: by process, the number of dispatches after which it receives a signal.
  """
  messages = collections.defaultdict(dict)
  current = 0
  monkeypatch.setattr(distributed, "joined", lambda: True)
  monkeypatch.setattr(distributed, "unique_name", lambda name: name)
  monkeypatch.setattr(
    distributed, "publish", lambda name, value: messages[name].update({current: value})
  )
  monkeypatch.setattr(distributed, "published", lambda name: list(messages[name].values()))
  received = [[] for _ in range(num_processes)]
  points = [signals.StopPoint(received[i], MAX_QUEUED) for i in range(num_processes)]
  counts, stopped = [0] * num_processes, [0] * num_processes
  must_check = [False] * num_processes
  for current in order * 80:
    if stopped[current]:
      continue
    if not must_check[current]:
      counts[current] += 1
      must_check[current] = True
      if counts[current] >= signalled.get(current, 10**9):
        received[current].append(15)
    # A process waits until the dispatch before those that may be queued is done, by all.
    elif counts[current] - min(counts) <= MAX_QUEUED:
      must_check[current] = False
      if points[current].is_reached(counts[current]):
        stopped[current] = counts[current]
  return stopped


@settings(deadline=None)
@given(
  order=st.lists(st.integers(0, 2), min_size=6, max_size=30),
  signalled=st.dictionaries(st.integers(0, 2), st.integers(1, 20), min_size=1),
)
def test_all_processes_stop_after_the_same_dispatch(order, signalled):
  with pytest.MonkeyPatch.context() as monkeypatch:
    at = stops([*order, 0, 1, 2], signalled, 3, monkeypatch)
  assert len(set(at)) == 1
  earliest = min(signalled.values())
  assert earliest < at[0] <= earliest + 2 * MAX_QUEUED + 1


def test_a_single_process_stops_at_once():
  received: list[int] = []
  point = signals.StopPoint(received, MAX_QUEUED)
  assert not point.is_reached(1)
  received.append(15)
  assert point.is_reached(2)
