"""Receive photos from requests, with limits on sizes, numbers and time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from cifar_jax import errors
from serve.networks import Photo

MAX_BYTES = 64 << 20  # per request
MAX_PHOTOS = 32  # per request
MAX_REQUESTS = 128  # that have arrived and wait for their answers
MAX_TOTAL_BYTES = 1 << 30  # of all requests, including those that are still arriving
MAX_SECONDS = 60.0  # until a request has arrived completely
_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 4096


class Upload(NamedTuple):
  """The parts of a request: its photos, and the values of its other fields by name."""

  photos: list[Photo]
  fields: Mapping[str, list[str]]


class Admission:
  """Admits requests as long as there is room; refuses others at once, with the status 503."""

  def __init__(self) -> None:
    self._num_requests = self._num_bytes = 0

  @contextlib.asynccontextmanager
  async def receive(self, request: Request) -> AsyncIterator[Upload]:
    """Receive the photos of a request; hold them until the context ends.

    Raises:
      HTTPException: the request is not a form, too large or too slow, or there is no room for it.
    """
    size = _declared_size(request)
    self._raise_if_full(size)
    self._num_bytes += size
    try:
      async with contextlib.AsyncExitStack() as stack:
        upload = await _parse(request, stack)
        self._raise_if_full(0)  # others have arrived meanwhile
        self._num_requests += 1  # only now, so that slow clients take no room from others
        stack.callback(self._end_request)
        yield upload
    finally:
      self._num_bytes -= size

  def _raise_if_full(self, size: int) -> None:
    if self._num_requests >= MAX_REQUESTS or self._num_bytes + size > MAX_TOTAL_BYTES:
      raise busy("server: too many requests at the same time; try again")

  def _end_request(self) -> None:
    self._num_requests -= 1


def busy(message: str, seconds: int = 1) -> HTTPException:
  """Return the error for a request that may succeed if it is repeated after some seconds."""
  return HTTPException(503, message, {"retry-after": str(seconds)})


def _declared_size(request: Request) -> int:
  kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
  if kind != "multipart/form-data":
    raise HTTPException(415, "content-type: must be multipart/form-data; see /docs")
  length = request.headers.get("content-length", "")
  if not length.isascii() or not length.isdigit():
    raise HTTPException(411, "content-length: missing; send the size of the request")
  if int(length) > MAX_BYTES:
    raise HTTPException(413, f"request: more than {MAX_BYTES >> 20} MiB; send fewer photos at once")
  return int(length)


async def _parse(request: Request, stack: contextlib.AsyncExitStack) -> Upload:
  try:
    async with asyncio.timeout(MAX_SECONDS):
      form = await stack.enter_async_context(
        request.form(max_files=MAX_PHOTOS, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
      )
  except TimeoutError:
    raise HTTPException(408, "request: arrived too slowly; try again") from None
  photos, fields = [], dict[str, list[str]]()
  for name, value in form.multi_items():
    if isinstance(value, UploadFile):
      photos.append(Photo(errors.printable(value.filename or "photo")[:200], value.file))
    else:
      fields.setdefault(name, []).append(value)
  if not photos:
    raise HTTPException(400, "images: missing; send at least one file as 'images'")
  return Upload(photos, fields)
