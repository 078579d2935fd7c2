"""Lock files, and file systems without locks."""

import fcntl

import filelock
import pytest

from cifar_jax import errors
from cifar_jax.runs import locks


@pytest.mark.parametrize("number", locks._NO_LOCKS)
def test_where_there_are_no_locks_that_is_said_and_work_goes_on(
  number, tmp_path, monkeypatch, log_lines
):
  def flock(descriptor, operation):
    raise OSError(number, "No locks available")

  monkeypatch.setattr(fcntl, "flock", flock)
  with locks.held(tmp_path / ".lock", pytest.fail):
    assert log_lines == [
      f"{tmp_path}: this file system has no locks (No locks available); see to it that nothing "
      "else writes there"
    ]


def test_a_lock_that_is_held_is_waited_for_or_not(tmp_path):
  def refuse():
    raise errors.UserError("busy")

  other = filelock.FileLock(tmp_path / ".lock")
  other.acquire()
  with pytest.raises(errors.UserError), locks.held(tmp_path / ".lock", refuse):
    pass
  with locks.held(tmp_path / ".lock", other.release):  # freed while it waits
    pass
