"""`--mode=serve`: listen on an address, print how to open the page, answer until interrupted."""

import logging
import os
import secrets
import socket
from asyncio import Transport
from collections.abc import Sequence
from typing import NamedTuple

import python_multipart  # noqa: F401, so that without it the start fails, not the first photo
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cifar_jax import errors
from cifar_jax.runtime.console import log
from serve import app, guard

_SECONDS_TO_ASK = 10.0  # from a connection to its first request
_SECONDS_TO_END = 10  # for open requests, when the server is stopped
_MAX_CONNECTIONS = 512
_TOKEN_VARIABLE, _MIN_TOKEN_LENGTH = "CIFAR_JAX_TOKEN", 16


class Listening(NamedTuple):
  """A server that is ready to run.

  Attributes:
    server: answers requests in `server.run([socket])`.
    socket: is bound to the address.
    address: the URL to open, with the token if there is one.
  """

  server: uvicorn.Server
  socket: socket.socket
  address: str


class _Protocol(H11Protocol):
  """An HTTP protocol that closes a connection on which no request arrives."""

  def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
    super().connection_made(transport)
    self.loop.call_later(_SECONDS_TO_ASK, self._close_if_silent)

  def _close_if_silent(self) -> None:
    if self.cycle is None:
      self.transport.close()


def serve(workdirs: Sequence[str], host: str, port: int) -> None:
  """Serve the page and the endpoints until SIGINT or SIGTERM.

  Args, Raises: as for `listen`.
  """
  listening = listen(workdirs, host, port)
  log.info("the page: %s", listening.address)
  log.info("for programs: POST /predict, described at /docs; end with Ctrl-C")
  try:
    listening.server.run([listening.socket])
  except KeyboardInterrupt:
    log.info("stopped")


def listen(workdirs: Sequence[str], host: str, port: int) -> Listening:
  """Return a server that listens on an address.

  Args:
    workdirs: run folders, and folders of them.
    host: the address. Any but loopback needs a token: the value of the environment variable
      CIFAR_JAX_TOKEN, or a random one.
    port: 0 for any free port.

  Raises:
    UserError: the address cannot be used, the token is invalid, or a folder does not exist.
  """
  token = None if guard.is_loopback(host) else _token()
  application = app.create_app(workdirs, token)
  listener = _bind(host, port)
  config = uvicorn.Config(
    application,
    http=_Protocol,
    ws="none",
    log_config=None,
    access_log=False,
    server_header=False,
    proxy_headers=False,
    limit_concurrency=_MAX_CONNECTIONS,
    timeout_graceful_shutdown=_SECONDS_TO_END,
  )
  logging.getLogger("uvicorn").setLevel(logging.WARNING)
  return Listening(uvicorn.Server(config), listener, _address(listener, host, token))


def _token() -> str:
  """Return the token that the environment sets, or a random one."""
  token = os.environ.get(_TOKEN_VARIABLE, "")
  if token and (len(token) < _MIN_TOKEN_LENGTH or not (token.isascii() and token.isprintable())):
    raise errors.UserError(
      f"{_TOKEN_VARIABLE}: must have at least {_MIN_TOKEN_LENGTH} printable ASCII characters; "
      "make one with: openssl rand -hex 16"
    )
  return token or secrets.token_urlsafe(24)


def _bind(host: str, port: int) -> socket.socket:
  """Return a socket that is bound to an address."""
  if not 0 <= port < 1 << 16:
    raise errors.UserError(f"--port: {port} must be from 0 to 65535; choose another")
  try:
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
  except socket.gaierror as error:
    raise errors.UserError(
      f"--host: {host!r} is unknown ({error.strerror}); use an address of this machine"
    ) from error
  listener = socket.socket(family, kind, protocol)
  listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    listener.bind(address)
    listener.listen()  # clients may connect from now on, and wait
  except OSError as error:
    listener.close()
    raise errors.UserError(
      f"--port: {host}:{port} cannot be used ({error.strerror}); choose another port or host"
    ) from error
  return listener


def _address(listener: socket.socket, host: str, token: str | None) -> str:
  """Return the URL to open."""
  port = listener.getsockname()[1]
  name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
  name = f"[{name}]" if ":" in name else name
  return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
