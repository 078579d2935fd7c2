"""Download a file over HTTP: resume interrupted transfers, and abandon slow sources."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from typing import IO

from etils import epath

from cifar_jax.data import fetch
from cifar_jax.runtime.console import log, progress

# The limit for connecting and for each wait for more bytes. It is short, so that a machine without
# a network soon tries the next source.
_TIMEOUT_SECONDS = 10
# The rate is averaged over this time, because TCP takes a few seconds to reach full speed.
_RATE_SECONDS = 20
_CHUNK_BYTES = 1 << 20
# The largest file that a dataset here uses has 170 MB.
_MAX_BYTES = 1 << 28
# A source whose transfer breaks off gets this many attempts, with pauses of 2, 4 and 8 seconds.
_ATTEMPTS = 4
_PAUSE_SECONDS = 2.0


class _Retryable(fetch.Failed):
  """This attempt failed, but another may succeed."""


def download_file(url: str, sha256: str, folder: epath.Path, min_rate: float) -> epath.Path:
  """Download a file; continue the part that an earlier attempt or another source left in `folder`.

  An unfinished file has the suffix .part.

  Args:
    url: an http or https URL.
    sha256: the file's required SHA-256, 64 hex digits.
    folder: the folder for the file; the file is named as in the URL.
    min_rate: the lowest acceptable rate, in bytes per second.

  Returns:
    The file's path.

  Raises:
    fetch.TooSlow: the rate was below `min_rate` for 20 seconds.
    fetch.Failed: there is no connection, the transfer broke off too often, or the file is too large
      or has another SHA-256.
    OSError: the folder cannot be written.
  """
  path = folder / url.rsplit("/", 1)[-1]
  part = folder / f"{path.name}.part"
  if path.exists() and _hash(path) == sha256:
    return path
  for attempt in range(1, _ATTEMPTS + 1):
    try:
      _complete(url, sha256, part, min_rate)
      break
    except _Retryable as error:
      if attempt == _ATTEMPTS:
        raise
      log.info("%s; attempt %d of %d", error, attempt + 1, _ATTEMPTS)
      time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
  os.replace(part, path)
  return path


def _complete(url: str, sha256: str, part: epath.Path, min_rate: float) -> None:
  """Download the missing bytes of `part`; remove it and raise Failed if its SHA-256 is wrong."""
  start = part.stat().length if part.exists() else 0
  if start and _hash(part) == sha256:
    return
  _receive(url, part, start, min_rate)
  if _hash(part) == sha256:
    return
  size = part.stat().length
  part.unlink()
  kind = _Retryable if start else fetch.Failed  # the bytes before `start` may be the wrong ones
  raise kind(f"{url}: sent {size} bytes whose SHA-256 is not {sha256}")


def _receive(url: str, part: epath.Path, start: int, min_rate: float) -> None:
  """Download the file from byte `start` on, and append the bytes to `part`.

  A server that ignores Range sends the whole file, which then replaces the content of `part`.
  """
  headers = {"Range": f"bytes={start}-"} if start else {}
  try:
    response = urllib.request.urlopen(
      urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS
    )
  except urllib.error.HTTPError as error:
    error.close()
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
      part.unlink(missing_ok=True)  # it is as long as the file, or longer, but wrong
    is_temporary = error.code in (408, 416, 429) or error.code >= 500
    kind = _Retryable if is_temporary else fetch.Failed
    raise kind(f"{url}: {error.reason}") from error
  except (OSError, http.client.HTTPException, ValueError) as error:
    kind = _Retryable if start else fetch.Failed
    raise kind(f"{url}: {getattr(error, 'reason', error)}") from error
  with response:
    if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
      start = 0  # the server ignores Range
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    if total is not None and total > _MAX_BYTES:
      raise fetch.Failed(f"{url}: has {total} bytes; at most {_MAX_BYTES} are allowed")
    if start:
      log.info("resuming the download of %s after %d bytes", url, start)
    else:
      log.info("downloading %s", url)
    with part.open("ab" if start else "wb") as file:
      _copy(url, response, file, start, total, min_rate)


def _copy(
  url: str,
  response: http.client.HTTPResponse,
  file: IO[bytes],
  start: int,
  total: int | None,
  min_rate: float,
) -> None:
  """Copy the response to a file, checking its size and rate."""
  size = window_size = start
  window_start = time.monotonic()
  with progress(f"downloading {url}", total, "B", start) as advance:
    while True:
      # Only network errors mean that this source failed; the caller handles disk errors.
      try:
        chunk = response.read1(_CHUNK_BYTES)  # whatever has arrived; `read` waits for a full chunk
      except (OSError, http.client.HTTPException) as error:
        raise _Retryable(f"{url}: the transfer stopped after {size} bytes ({error})") from error
      if not chunk:
        break
      size += len(chunk)
      if size > _MAX_BYTES:
        raise fetch.Failed(f"{url}: sends more than {_MAX_BYTES} bytes")
      file.write(chunk)
      advance(len(chunk))
      seconds = time.monotonic() - window_start
      if seconds >= _RATE_SECONDS:
        fetch.check_rate(url, size - window_size, seconds, min_rate)
        window_size, window_start = size, time.monotonic()
  if total is not None and size < total:
    raise _Retryable(f"{url}: the transfer stopped after {size} of {total} bytes")


def _hash(path: epath.Path) -> str:
  """Return a file's SHA-256."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
