"""Downloads from a local server that trickles, breaks off, resumes, and sends wrong files."""

import hashlib
import http.server
import os
import threading
import time

import pytest
from etils import epath

from cifar_jax.data import download, fetch

RATE = 1000.0  # bytes a second, below what loopback reaches


class Reply:
  """What the server does for one path.

  Attributes:
    body: the file.
    breaks: after each of these numbers of bytes a connection ends; later ones are complete.
    trickle: seconds between bytes, on each connection.
    has_ranges: whether the server honours Range.
    length: the announced length, if it is not the real one.
    status: an HTTP error instead of the file, for the first connections.
  """

  def __init__(self, body=b"", breaks=(), trickle=0.0, has_ranges=True, length=None, status=()):
    self.body, self.trickle, self.has_ranges = body, trickle, has_ranges
    self.breaks, self.length, self.status = list(breaks), length, list(status)
    self.starts = []  # the first byte that each connection asked for


class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    reply = self.server.replies.get(self.path)
    if reply is None:
      self.send_error(404)
      return
    start = int(self.headers.get("Range", "bytes=0-")[6:-1])
    reply.starts.append(start)
    if reply.status:
      self.send_error(reply.status.pop(0))
      return
    if start and reply.has_ranges and start >= len(reply.body):
      self.send_error(416)
      return
    if start and reply.has_ranges:
      self.send_response(206)
      self.send_header("Content-Range", f"bytes {start}-{len(reply.body) - 1}/{len(reply.body)}")
    else:
      start = 0
      self.send_response(200)
    length = len(reply.body) - start if reply.length is None else reply.length
    if length >= 0:
      self.send_header("Content-Length", str(length))
    self.end_headers()
    stop = start + reply.breaks.pop(0) if reply.breaks else len(reply.body)
    if not reply.trickle:
      self.wfile.write(reply.body[start:stop])
      return
    for i in range(start, stop):
      self.wfile.write(reply.body[i : i + 1])
      if self.server.is_closing.wait(reply.trickle):
        return

  def log_message(self, *args):
    pass


@pytest.fixture
def server(monkeypatch):
  """A local web server; `server.replies[path]` is a Reply."""
  monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.5)
  monkeypatch.setattr(download, "_RATE_SECONDS", 0.3)
  monkeypatch.setattr(download, "_PAUSE_SECONDS", 0.01)
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
    httpd.replies, httpd.is_closing = {}, threading.Event()
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield httpd
    httpd.is_closing.set()
    httpd.shutdown()
    thread.join()


@pytest.fixture
def get(server, tmp_path):
  """A function that downloads what a reply serves; returns the content."""

  def get(reply, sha256=None, name="f.tgz"):
    server.replies = {f"/x/{name}": reply}
    sha256 = sha256 or hashlib.sha256(reply.body).hexdigest()
    folder = epath.Path(tmp_path)
    path = download.download_file(f"{server.url}/x/{name}", sha256, folder, RATE)
    assert path.name == name and not (folder / f"{name}.part").exists()
    return path.read_bytes()

  return get


def test_download(get):
  body = os.urandom(3_000_000)
  assert get(Reply(body)) == body


def test_a_transfer_that_breaks_off_resumes(get):
  body = os.urandom(100_000)
  reply = Reply(body, breaks=[40_000, 0, 30_000])
  assert get(reply) == body
  assert reply.starts == [0, 40_000, 40_000, 70_000]


def test_a_server_without_ranges_starts_again(get):
  body = os.urandom(100_000)
  reply = Reply(body, breaks=[40_000], has_ranges=False)
  assert get(reply) == body and reply.starts == [0, 40_000]


def test_a_transfer_that_breaks_off_too_often_fails(get, tmp_path):
  body = os.urandom(1000)
  reply = Reply(body, breaks=[10] * 10)
  with pytest.raises(fetch.Failed, match=r"f.tgz: the transfer stopped after 40 of 1000 bytes"):
    get(reply)
  assert reply.starts == [0, 10, 20, 30]
  # The next attempt continues, from any source of the same file.
  assert get(Reply(body)) == body


def test_a_source_that_trickles_is_abandoned(get, tmp_path):
  body = os.urandom(1000)
  reply = Reply(body, trickle=0.05)  # each byte comes well before the time-out
  start = time.monotonic()
  with pytest.raises(fetch.TooSlow, match=r"f.tgz: too slow, 0 kB/s over 0 s; at least 1 kB/s"):
    get(reply)
  assert time.monotonic() - start < 5 and len(reply.starts) == 1
  # The last resort continues where the slow source was left.
  fast = Reply(body)
  assert get(fast) == body and 0 < fast.starts[0] < 1000


def test_a_source_that_stalls_gets_no_more_than_its_attempts(get):
  reply = Reply(os.urandom(1000), trickle=60)
  with pytest.raises(fetch.Failed, match=r"the transfer stopped after \d bytes \(timed out\)"):
    get(reply)
  assert len(reply.starts) == 4


def test_wrong_bytes_from_before_are_downloaded_again(get, tmp_path):
  body = os.urandom(1000)
  (tmp_path / "f.tgz.part").write_bytes(b"wrong" * 20)
  reply = Reply(body)
  assert get(reply) == body and reply.starts == [100, 0]
  (tmp_path / "f.tgz.part").write_bytes(body + b"and more")
  reply = Reply(body)
  (tmp_path / "f.tgz").unlink()
  assert get(reply) == body and reply.starts == [1008, 0]


def test_what_is_complete_is_not_downloaded_again(get, tmp_path):
  body = os.urandom(1000)
  (tmp_path / "f.tgz.part").write_bytes(body)
  reply = Reply(body)
  assert get(reply) == body
  assert get(reply) == body and reply.starts == []


def test_a_busy_server_is_asked_again(get):
  reply = Reply(b"right", status=[503, 429, 416])
  assert get(reply) == b"right" and len(reply.starts) == 4
  reply = Reply(b"right", status=[503] * 9)
  with pytest.raises(fetch.Failed, match=r"busy: Service Unavailable"):
    get(reply, name="busy")
  assert len(reply.starts) == 4


def test_too_large_files_are_refused(get, monkeypatch, tmp_path):
  monkeypatch.setattr(download, "_MAX_BYTES", 1000)
  with pytest.raises(fetch.Failed, match=r"f.tgz: has 1001 bytes; at most 1000 are allowed"):
    get(Reply(bytes(1001)))
  with pytest.raises(fetch.Failed, match=r"f.tgz: sends more than 1000 bytes"):
    get(Reply(bytes(1001), length=-1))  # without an announced length
  assert (tmp_path / "f.tgz.part").stat().st_size <= 1000


def test_download_says_why_it_failed(get, tmp_path):
  right = hashlib.sha256(b"right").hexdigest()
  with pytest.raises(fetch.Failed, match=r"/other: sent 13 bytes whose SHA-256 is not"):
    get(Reply(b"a log-in page"), right, "other")
  assert not (tmp_path / "other.part").exists()
  with pytest.raises(fetch.Failed, match=r"/short: the transfer stopped after 3 of 5 bytes"):
    get(Reply(b"rig", length=5, has_ranges=False), right, "short")
  with pytest.raises(fetch.Failed, match=r"/x/none: Not Found"):
    get(Reply(status=[404]), right, "none")
  with pytest.raises(fetch.Failed, match=r"127.0.0.1:1/f: .*refused"):
    download.download_file("http://127.0.0.1:1/f", right, epath.Path(tmp_path), RATE)


def test_download_leaves_a_full_disk_to_the_caller(server, tmp_path):
  server.replies = {"/f": Reply(b"right")}
  with pytest.raises(FileNotFoundError):
    folder = epath.Path(tmp_path / "no such folder")
    download.download_file(f"{server.url}/f", "0" * 64, folder, RATE)
