"""Access control: checks on every request before it reaches a route, headers on every answer.

A page of another site can make a browser send requests here. A wrong `Host` (a name that was made
to resolve to this machine) and a POST from another origin are therefore refused. Unless the server
listens on loopback only, every request needs the token.
"""

import asyncio
import hmac
import ipaddress
import urllib.parse
from collections.abc import Mapping
from http import cookies

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_COOKIE = "cifar_jax_token"
_HEADERS = {
  "content-security-policy": (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  ),
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "cache-control": "no-store",
}


class Guard:
  """ASGI middleware that refuses requests which must not be answered.

  Args:
    app: the application behind it.
    token: the token that every request must have. With None no token is needed, but only loopback
      names are accepted as `Host`.
  """

  def __init__(self, app: ASGIApp, token: str | None):
    self._app, self._token = app, token

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return

    has_begun = False

    async def send_with_headers(message: Message) -> None:
      nonlocal has_begun
      has_begun = True
      if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        for name, value in _HEADERS.items():
          headers.setdefault(name, value)
      await send(message)

    answer = self._refuse(scope)
    try:
      await (answer or self._app)(scope, receive, send_with_headers)
    except asyncio.CancelledError:  # the server ends before the request
      if not has_begun:
        stopping = _error("server: is being stopped; try again", 503, {"retry-after": "2"})
        await stopping(scope, receive, send_with_headers)

  def _refuse(self, scope: Scope) -> Response | None:
    headers = Headers(scope=scope)
    host = _host_name(headers.get("host", ""))
    if self._token is None and host not in LOOPBACK_NAMES:
      return _error(f"host: {host!r} is not this machine; open http://127.0.0.1", 421)
    if scope["method"] not in ("GET", "HEAD") and not _is_same_origin(headers):
      return _error("origin: requests from other sites are refused; open the page itself", 403)
    if self._token is None or self._is_known(headers):
      return None
    if scope["method"] == "GET" and self._matches(_query_token(scope)):
      answer = RedirectResponse(scope["path"], 303)
      answer.set_cookie(_COOKIE, self._token, httponly=True, samesite="lax")
      return answer
    return _error("token: missing or wrong; open the address that the command printed", 401)

  def _is_known(self, headers: Headers) -> bool:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and self._matches(value.strip()):
      return True
    try:
      morsel = cookies.SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
    except cookies.CookieError:
      return False
    return morsel is not None and self._matches(morsel.value)

  def _matches(self, text: str) -> bool:
    assert self._token is not None
    return hmac.compare_digest(text.encode(), self._token.encode())


def is_loopback(host: str) -> bool:
  """Return whether an address to listen on can be reached from this machine only."""
  if host == "localhost":
    return True
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _host_name(host: str) -> str:
  """Return a `Host` header without its port."""
  try:
    return urllib.parse.urlsplit(f"//{host}").hostname or ""
  except ValueError:
    return ""


def _is_same_origin(headers: Headers) -> bool:
  """Return whether a request comes from a program or from this server's page."""
  if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
    return False
  origin = headers.get("origin")
  if origin is None:
    return True
  return origin in (f"{scheme}://{headers.get('host')}" for scheme in ("http", "https"))


def _query_token(scope: Scope) -> str:
  return QueryParams(scope["query_string"]).get("token", "")


def _error(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
  return JSONResponse({"error": message}, status, headers)
