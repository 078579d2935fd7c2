"""Getting a data set's files: from a folder, an archive, a URL, or the user's npm client.

Nothing here is ever unpickled, and nothing from an archive reaches the disk: the members asked for
are read into memory, by exact name and up to a size that the caller knows.
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

# Connecting, and each wait for more bytes: a machine with no network moves on quickly.
_TIMEOUT_SECONDS = 10
_CHUNK_BYTES = 1 << 20
# An archive whose table of contents goes on for longer than this is not one of ours.
_MAX_MEMBERS = 1000
_MAX_BYTES = 1 << 30  # the largest of ours has 185 MB


class Failed(Exception):
  """One source did not give the files: 'what: why', without a remedy."""


class Unavailable(errors.UserError):
  """No source of the data set is in reach; a caller may go on with another data set."""


def read(path: epath.Path, limits: Mapping[str, int]) -> dict[str, bytes]:
  """Reads files by name out of a folder or a tar archive.

  Args:
    path: a folder, whose own files are looked at, or an archive (.tar, .tar.gz, .tgz), whose
      members may lie in any folder.
    limits: the most bytes each file may have, by its bare name. Others are not looked at.

  Returns:
    The contents of those of the files that are there.

  Raises:
    Failed: `path` does not exist or is no readable archive, or a file exceeds its limit.
  """
  if not path.exists():
    raise Failed(f"{path}: does not exist")
  try:
    return _read_folder(path, limits) if path.is_dir() else _read_archive(path, limits)
  except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
    why = " ".join(str(error).split())  # tarfile takes a line for each compression it tried
    raise Failed(f"{path}: truncated, corrupt or not a tar archive ({why})") from error
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
    _decompressed(file) as content,
    tarfile.open(fileobj=_Bounded(content, path), mode="r:") as archive,
  ):
    for count, member in enumerate(archive):
      name = member.name.rsplit("/", 1)[-1]
      # Links are passed over: what they name is not under the archive's control alone.
      if member.isreg() and name in limits:
        _check_size(f"{path}: {member.name}", member.size, limits[name])
        files[name] = archive.extractfile(member).read()
      if count == _MAX_MEMBERS:
        raise Failed(f"{path}: has more than {_MAX_MEMBERS} members, so it is another archive")
  return files


def _decompressed(file: IO[bytes]) -> IO[bytes]:
  head = file.read(6)
  file.seek(0)
  for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ\0", lzma)):
    if head.startswith(magic):
      return module.open(file)
  return file


class _Bounded(io.RawIOBase):
  """The first bytes of an archive, beyond which nothing is decompressed, passed over or read.

  tarfile itself takes any length that a header tells of, and a few bytes can tell of gigabytes.
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


def _check_size(what: object, size: int, limit: int) -> None:
  if size > limit:
    raise Failed(f"{what}: has {size} bytes, more than the {limit} it can have")


def first_of(
  name: str, ways: Iterable[Callable[[], epath.Path]], read: Callable[[epath.Path], T], remedy: str
) -> T:
  """What `read` makes of the first source that can be had; each way fetches one to a path.

  Raises:
    Unavailable: every one failed; names data set `name`, what was tried, and the remedy.
  """
  tried = []
  for way in ways:
    try:
      return read(way())
    except Failed as error:
      log.info("%s: not from %s", name, error)
      tried.append(str(error))
  raise Unavailable(
    f"data.name: {name} is not in reach. Tried {'; '.join(tried)}. "
    f"Get it by other means and give --config.data.source: {remedy}"
  )


def download(url: str, sha256: str, folder: epath.Path) -> epath.Path:
  """Downloads one file.

  Args:
    url: http or https.
    sha256: 64 hex digits that the file must have.
    folder: where the file goes, under the name it has in the URL.

  Returns:
    The file's path.

  Raises:
    Failed: no connection, the transfer broke off, or another file came.
    OSError: the folder cannot be written.
  """
  path = folder / url.rsplit("/", 1)[-1]
  digest = hashlib.sha256()
  try:
    response = urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS)
  except (OSError, http.client.HTTPException, ValueError) as error:
    raise Failed(f"{url}: {getattr(error, 'reason', error)}") from error
  total = response.headers.get("Content-Length", "")
  total = int(total) if total.isdecimal() else None
  log.info("downloading %s", url)
  with response, path.open("wb") as file, progress(f"downloading {url}", total, "B") as advance:
    while True:
      # Only the network's errors are this source's; those of the disk are the caller's.
      try:
        chunk = response.read(_CHUNK_BYTES)
      except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{url}: the transfer broke off ({error})") from error
      if not chunk:
        break
      digest.update(chunk)
      file.write(chunk)
      advance(len(chunk))
  if digest.hexdigest() != sha256:
    size = path.stat().length
    raise Failed(f"{url}: {size} bytes with another SHA-256 than {sha256} came")
  return path


def npm_pack(package: str, folder: epath.Path) -> epath.Path:
  """Has the user's own npm client, with the user's own settings, fetch a package's archive.

  Args:
    package: name@version.
    folder: where the archive goes; holds no other .tgz.

  Returns:
    The archive's path.

  Raises:
    Failed: there is no npm, or it could not get the package; says what npm said.
  """
  npm = shutil.which("npm")
  if npm is None:
    raise Failed(f"npm package {package}: npm is not installed")
  command = [npm, "pack", package, "--pack-destination", str(folder)]
  # One retry, not npm's two with a minute between: with no network it says so sooner.
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
          said = process.communicate(timeout=_TIMEOUT_SECONDS)[1]
          break
        except subprocess.TimeoutExpired:
          seconds = time.monotonic() - started
          log.info("npm package %s: still downloading after %.0f s", package, seconds)
    except BaseException:
      process.kill()
      raise
  archives = list(folder.glob("*.tgz"))
  if process.returncode != 0 or len(archives) != 1:
    said = " ".join(line.removeprefix("npm error").strip() for line in said.splitlines()[:4])
    raise Failed(f"npm package {package}: npm pack exited with {process.returncode}: {said}")
  return archives[0]
