"""Locks on folders; a warning where the file system has none."""

import contextlib
import errno
from collections.abc import Callable, Iterator

import filelock
from etils import epath

from cifar_jax import errors
from cifar_jax.runtime.console import log

# NFS without its lock service, or Lustre mounted without `-o flock`, raises one of these.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def lock_folder(folder: epath.Path, name: str, busy: str | None = None) -> Iterator[None]:
  """Hold the lock file `name` of a folder, which is created if needed.

  Object stores have no locks: in a bucket this does nothing.

  Args:
    busy: the message of the UserError if another process holds the lock; None to wait for that
      process.

  Raises:
    UserError: another process holds the lock, or the folder cannot be written.
  """
  if "://" in str(folder):
    yield
    return

  def refuse() -> None:
    if busy is not None:
      raise errors.UserError(f"workdir: {busy}")

  with contextlib.ExitStack() as stack:
    try:
      folder.mkdir(parents=True, exist_ok=True)
      stack.enter_context(hold_lock(folder / name, refuse))
    except OSError as error:
      raise errors.UserError(
        f"workdir: {folder} cannot be written ({error.strerror or error}); use another folder"
      ) from None
    yield


@contextlib.contextmanager
def hold_lock(path: epath.Path, on_busy: Callable[[], None]) -> Iterator[None]:
  """Hold the lock file at `path`.

  If the file system has no locks, log a warning and continue without one.

  Args:
    on_busy: called if another process holds the lock. It may raise; if it returns, wait for that
      process.

  Raises:
    OSError: the lock file cannot be created.
  """
  # filelock's fallback is a lock by mere existence, which would outlive a killed run.
  lock = filelock.FileLock(path, fallback_to_soft=False)
  try:
    try:
      lock.acquire(timeout=0)
    except filelock.Timeout:
      on_busy()
      lock.acquire()
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    log.warning(
      "%s: this file system has no locks (%s); let nothing else write there",
      path.parent,
      error.strerror,
    )
  try:
    yield
  finally:
    lock.release()
