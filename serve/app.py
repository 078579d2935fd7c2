"""The routes: the page, the runs, and predictions.

Every answer other than a page or a picture is JSON; an error is `{"error": "field: problem; what to
do"}`. The query names runs as `/runs` lists them.
"""

import asyncio
import base64
import contextlib
import hashlib
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from analysis.report import page as report_page
from cifar_jax import errors
from cifar_jax.runtime.console import log
from serve import openapi
from serve.guard import Guard
from serve.networks import MAX_NETWORKS, Networks
from serve.runs import RunIndex
from serve.uploads import Admission, Upload, busy

MAX_SECONDS = 60.0  # to answer photos that have arrived
_PAGE = pathlib.Path(__file__).with_name("page")
_PAGE_FILES = {  # route: file
  "/": "index.html",
  "/docs": "docs.html",
  **{f"/{file.name}": file.name for file in sorted(_PAGE.iterdir()) if file.suffix != ".html"},
}
_SORT_HASH = base64.b64encode(hashlib.sha256(report_page.SORT.encode()).digest()).decode()
# A report may come from elsewhere, so it has no access to this server; only its sort script runs.
_REPORT_POLICY = (
  "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
  f"script-src 'sha256-{_SORT_HASH}'; frame-ancestors 'self'"
)


def create_app(workdirs: Sequence[str], token: str | None = None) -> Starlette:
  """Return the application.

  Args:
    workdirs: run folders, and folders of them.
    token: the token that every request must have; None to serve this machine only.

  Raises:
    UserError: one of `workdirs` is not a folder.
  """
  routes = _Routes(RunIndex(workdirs))

  @contextlib.asynccontextmanager
  async def lifespan(_: Starlette) -> AsyncIterator[None]:
    yield
    routes.networks.close()

  application = Starlette(
    routes=[
      *(Route(route, _page_file(name)) for route, name in _PAGE_FILES.items()),
      Route("/openapi.json", _openapi),
      Route("/runs", routes.list_runs),
      Route("/run", routes.show_run),
      Route("/metrics", routes.list_metrics),
      Route("/figure", routes.show_figure),
      Route("/report", routes.show_report),
      Route("/predict", routes.predict, methods=["POST"]),
      Route("/grad_cam", routes.explain, methods=["POST"]),
    ],
    middleware=[Middleware(Guard, token=token)],
    exception_handlers={
      HTTPException: _answer_http_error,
      errors.UserError: _answer_user_error,
      ClientDisconnect: _answer_nobody,
      Exception: _answer_fault,
    },
    lifespan=lifespan,
  )
  application.state.networks = routes.networks
  return application


class _Routes:
  """The routes that need the runs or their networks."""

  def __init__(self, index: RunIndex):
    self.networks = Networks(index)
    self._index, self._admission = index, Admission()

  async def list_runs(self, _: Request) -> Response:
    rows = await run_in_threadpool(self._index.list_runs)
    return JSONResponse({"folders": [root.name for root in self._index.roots], "runs": rows})

  async def show_run(self, request: Request) -> Response:
    with _unknown_is_404():
      return JSONResponse(await run_in_threadpool(self._index.details, _query(request, "run")))

  async def list_metrics(self, request: Request) -> Response:
    name, after = _query(request, "run"), request.query_params.get("after", "0")
    if not after.isascii() or not after.isdigit() or len(after) > 9:
      raise HTTPException(400, "after: must be a number of epochs, such as 0")
    with _unknown_is_404():
      rows = await run_in_threadpool(self._index.metrics, name, int(after))
    return JSONResponse({"run": name, "after": int(after), "rows": rows})

  async def show_figure(self, request: Request) -> Response:
    name, figure = _query(request, "run"), _query(request, "name")
    with _unknown_is_404():
      content = await run_in_threadpool(self._index.figure, name, figure)
    return Response(content, media_type="image/png")

  async def show_report(self, request: Request) -> Response:
    with _unknown_is_404():
      content = await run_in_threadpool(self._index.report, _query(request, "run"))
    return Response(
      content, media_type="text/html", headers={"content-security-policy": _REPORT_POLICY}
    )

  async def predict(self, request: Request) -> Response:
    async with self._admission.receive(request) as upload, _time_limit():
      with _unknown_is_404():
        served = await self.networks.load(await self._names(upload))
      return JSONResponse(await self.networks.classify(served, upload.photos))

  async def explain(self, request: Request) -> Response:
    async with self._admission.receive(request) as upload, _time_limit():
      if len(upload.photos) > 1:
        raise HTTPException(400, "images: more than one; send one photo for each picture")
      with _unknown_is_404():
        served = await self.networks.load((await self._names(upload))[:1])
      class_name = upload.fields.get("class", [""])[0]
      picture = await self.networks.explain(served[0], upload.photos[0], class_name)
    return Response(picture, media_type="image/png")

  async def _names(self, upload: Upload) -> list[str]:
    """Return the names of the runs that a request asks for, each once."""
    names = list(dict.fromkeys(upload.fields.get("runs", ())))
    if not names:
      known = list(await run_in_threadpool(self._index.paths))
      if len(known) != 1:
        raise HTTPException(400, "runs: missing; send the name of at least one run of /runs")
      names = known
    if len(names) > MAX_NETWORKS:
      raise HTTPException(400, f"runs: {len(names)} are too many; send at most {MAX_NETWORKS}")
    return names


def _page_file(name: str) -> Callable[[Request], Awaitable[Response]]:
  async def answer(_: Request) -> Response:
    return FileResponse(_PAGE / name, headers={"cache-control": "no-cache"})

  return answer


async def _openapi(_: Request) -> Response:
  return JSONResponse(openapi.describe())


def _query(request: Request, name: str) -> str:
  value = request.query_params.get(name)
  if value is None:
    raise HTTPException(400, f"{name}: missing; add ?{name}=…")
  return value


@contextlib.contextmanager
def _unknown_is_404() -> Iterator[None]:
  try:
    yield
  except (KeyError, FileNotFoundError) as error:
    name = errors.printable(error.args[0] if error.args else "")
    raise HTTPException(404, f"{name!r}: unknown; use a name that /runs or /run lists") from error


@contextlib.asynccontextmanager
async def _time_limit() -> AsyncIterator[None]:
  try:
    async with asyncio.timeout(MAX_SECONDS):
      yield
  except TimeoutError:
    raise busy("server: the answer took too long; try again", seconds=5) from None


def _json_error(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
  return JSONResponse({"error": errors.printable(message)}, status, headers)


async def _answer_http_error(_: Request, error: Exception) -> Response:
  assert isinstance(error, HTTPException)
  return _json_error(error.detail, error.status_code, error.headers)


async def _answer_user_error(_: Request, error: Exception) -> Response:
  return _json_error(str(error), 422)


async def _answer_nobody(_: Request, error: Exception) -> Response:
  return _json_error("request: ended early; send it again", 400)


async def _answer_fault(_: Request, error: Exception) -> Response:
  if errors.is_out_of_memory(error):
    return _json_error("server: too little memory; send fewer or smaller photos", 507)
  log.error("a request failed", exc_info=error)
  return _json_error("server: an error, described in its log; try again", 500)
