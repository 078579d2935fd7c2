"""Lock files, and what is done where the file system has no locks."""

import contextlib
import errno
from collections.abc import Callable, Iterator

import filelock
from etils import epath

from cifar_jax.runtime.console import log

# As on NFS without its lock service, or on Lustre mounted without -o flock.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held(path: epath.Path, busy: Callable[[], None]) -> Iterator[None]:
  """Holds the lock file at `path`; where there are no locks that is said, and the work goes on.

  Args:
    busy: called if another process holds it. It may raise; if it returns, that process is awaited.

  Raises:
    OSError: the lock file cannot be made.
  """
  # A lock by mere existence, filelock's way out, would outlive a killed run and shut out the next.
  lock = filelock.FileLock(path, fallback_to_soft=False)
  try:
    try:
      lock.acquire(timeout=0)
    except filelock.Timeout:
      busy()
      lock.acquire()
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    log.warning(
      "%s: this file system has no locks (%s); see to it that nothing else writes there",
      path.parent,
      error.strerror,
    )
  try:
    yield
  finally:
    lock.release()
