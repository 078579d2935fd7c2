"""A Hugging Face hub on loopback: the requests that creating, committing and downloading make.

Files are stored as git blobs (uploadMode 'regular'), never by LFS or Xet.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator

Files = dict[str, bytes]


class Hub:
  """The repositories of a hub, and what was asked of it.

  Attributes:
    endpoint: its address, as HF_ENDPOINT names it.
    commits: by repository and commit, the files; the newest commit of a repository is the last.
    private: the repositories that were created as private.
    requests: method and path of every request.
    sizes: sizes to report in place of the true ones, by file.
  """

  def __init__(self) -> None:
    self.commits: dict[str, dict[str, Files]] = {}
    self.private: set[str] = set()
    self.requests: list[str] = []
    self.sizes: dict[str, int] = {}
    self.endpoint = ""

  def files(self, repository: str, revision: str = "main") -> tuple[str, Files] | None:
    """Return a commit and its files; None if there is no such commit."""
    commits = self.commits.get(repository, {})
    commit = list(commits)[-1] if revision == "main" and commits else revision
    return (commit, commits[commit]) if commit in commits else None

  def commit(self, repository: str, files: Files) -> str:
    """Add a commit that changes files, and return its name."""
    commits = self.commits.setdefault(repository, {})
    older = list(commits.values())[-1] if commits else {}
    name = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
    commits[name] = {**older, **files}
    return name


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
  """Run a hub until the context ends."""
  hub = Hub()

  class Handler(_Handler):
    pass

  Handler.hub = hub
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  hub.endpoint = f"http://127.0.0.1:{server.server_port}"
  thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
  thread.start()
  try:
    yield hub
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
  hub: Hub
  protocol_version = "HTTP/1.1"

  def log_message(self, *arguments: object) -> None:
    pass

  def do_POST(self) -> None:
    body = self._read()
    parts = self._parts()
    if parts[:3] == ["api", "repos", "create"]:
      self._create(json.loads(body))
    elif parts[:2] == ["api", "validate-yaml"]:
      self._answer({"errors": [], "warnings": []})
    elif parts[4:5] == ["preupload"]:
      names = [file["path"] for file in json.loads(body)["files"]]
      modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
      self._answer({"files": modes})
    elif parts[4:5] == ["commit"]:
      lines = [json.loads(line) for line in body.splitlines()]
      files = [line["value"] for line in lines if line["key"] == "file"]
      repository = "/".join(parts[2:4])
      contents = {file["path"]: base64.b64decode(file["content"]) for file in files}
      commit = self.hub.commit(repository, contents)
      page = f"{self.hub.endpoint}/{repository}/commit/{commit}"
      self._answer({"commitUrl": page, "commitOid": commit})
    else:
      self._refuse()

  def _create(self, request: dict) -> None:
    repository = f"{request['organization']}/{request['name']}"
    if repository in self.hub.commits:
      self._answer({"url": f"{self.hub.endpoint}/{repository}"}, 409)
      return
    self.hub.commits[repository] = {}
    if request.get("visibility") == "private" or request.get("private"):
      self.hub.private.add(repository)
    self._answer({"url": f"{self.hub.endpoint}/{repository}"})

  def do_GET(self) -> None:
    parts = self._parts()
    if parts[:2] == ["api", "models"]:
      revision = parts[5] if len(parts) > 5 else "main"
      self._describe("/".join(parts[2:4]), revision, parts[4:5] == ["tree"])
    elif parts[2:3] == ["resolve"]:
      self._send_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
    else:
      self._refuse()

  do_HEAD = do_GET

  def _describe(self, repository: str, revision: str, as_tree: bool) -> None:
    found = self.hub.files(repository, revision)
    if found is None:
      self._refuse()
      return
    commit, files = found
    listing = [
      (name, self.hub.sizes.get(name, len(data)), hashlib.sha1(data).hexdigest())
      for name, data in files.items()
    ]
    if as_tree:
      self._answer([{"type": "file", "path": n, "size": s, "oid": oid} for n, s, oid in listing])
      return
    siblings = [{"rfilename": n, "size": s, "blobId": oid} for n, s, oid in listing]
    self._answer({"id": repository, "sha": commit, "siblings": siblings, "tags": []})

  def _send_file(self, repository: str, revision: str, name: str) -> None:
    found = self.hub.files(repository, revision)
    if found is None or name not in found[1]:
      self._refuse()
      return
    commit, files = found
    etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
    self._send(files[name], 200, {"ETag": etag, "X-Repo-Commit": commit})

  def _refuse(self) -> None:
    self._send(b"", 404, {"X-Error-Code": "RepoNotFound"})

  def _answer(self, content: object, code: int = 200) -> None:
    self._send(json.dumps(content).encode(), code, {"Content-Type": "application/json"})

  def _send(self, body: bytes, code: int, headers: dict[str, str]) -> None:
    self.send_response(code)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(body)

  def _parts(self) -> list[str]:
    path = urllib.parse.urlparse(self.path).path
    self.hub.requests.append(f"{self.command} {path}")
    return [urllib.parse.unquote(part) for part in path.strip("/").split("/")]

  def _read(self) -> bytes:
    if self.headers.get("Transfer-Encoding") != "chunked":
      return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    body = b""
    while size := int(self.rfile.readline(), 16):
      body += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return body
