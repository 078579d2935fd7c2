"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Collection, Iterator
from typing import BinaryIO, cast

from etils import epath

from cifar_jax import errors


def write_atomically(path: epath.Path, content: bytes) -> None:
  """Write a file under a temporary name and rename it, so that no reader sees a part.

  Raises:
    OSError: the file cannot be written.
  """
  temporary = _temporary_name(path)
  temporary.write_bytes(content)
  temporary.replace(path)


def prepare_output(output: str | os.PathLike, endings: Collection[str]) -> epath.Path:
  """Return the path that --output names, in a folder that exists.

  endings: the accepted endings, such as '.csv'.

  Raises:
    UserError: the name has another ending, or the path is a folder or cannot be written.
  """
  path = epath.Path(output).expanduser()
  if path.suffix not in endings:
    raise errors.UserError(
      f"--output: {path} must end in {' or '.join(endings)}; the ending chooses the format"
    )
  with _explain_output(path):
    if path.is_dir():
      raise errors.UserError(f"--output: {path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    temporary.write_bytes(b"")  # fail now if it cannot be written
    temporary.unlink()
  return path


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[BinaryIO]:
  """Open the file of --output for writing in pieces; it appears when the block ends.

  If the block raises an error, the partial file is removed, and an existing file of this name is
  kept.

  Raises:
    UserError: the file cannot be written.
  """
  temporary = _temporary_name(path)
  with _explain_output(path):
    try:
      with temporary.open("wb") as file:
        yield cast(BinaryIO, file)
      temporary.replace(path)
    except BaseException:
      with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
      raise


@contextlib.contextmanager
def explain_failure(subject: str, remedy: str) -> Iterator[None]:
  """Convert an OSError from writing into a one-line `UserError`.

  subject: the start of the line, such as '--picture: a.png' or 'run/export:'.
  """
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f"{subject} cannot be written ({error.strerror or error}); {remedy}"
    ) from error


def _explain_output(path: epath.Path) -> contextlib.AbstractContextManager[None]:
  return explain_failure(f"--output: {path}", "name another file")


def _temporary_name(path: epath.Path) -> epath.Path:
  return path.with_name(f".{path.name}.tmp")
