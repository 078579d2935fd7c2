"""Lock files, and file systems without locks."""

import fcntl

import filelock
import pytest

from cifar_jax import errors
from cifar_jax.runs import locks


@pytest.mark.parametrize("number", locks._NO_LOCKS)
def test_without_locks_a_warning_is_logged_and_work_continues(
  number, tmp_path, monkeypatch, log_lines
):
  def flock(descriptor, operation):
    raise OSError(number, "No locks available")

  monkeypatch.setattr(fcntl, "flock", flock)
  with locks.hold_lock(tmp_path / ".lock", pytest.fail):
    assert log_lines == [
      f"{tmp_path}: this file system has no locks (No locks available); let nothing else write "
      "there"
    ]


def test_a_busy_lock_is_refused_or_awaited(tmp_path):
  def refuse():
    raise errors.UserError("busy")

  other = filelock.FileLock(tmp_path / ".lock")
  other.acquire()
  with pytest.raises(errors.UserError), locks.hold_lock(tmp_path / ".lock", refuse):
    pass
  with locks.hold_lock(tmp_path / ".lock", other.release):  # released while the lock waits
    pass
