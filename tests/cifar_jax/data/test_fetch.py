"""Reading folders and archives, downloading, and npm: success, and what is refused."""

import gzip
import hashlib
import http.server
import io
import os
import stat
import tarfile
import threading

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_jax.data import fetch

LIMITS = {"a.bin": 10, "b.bin": 10}


def archive(path, members, mode="w:gz"):
  """Write a tar archive of members, each bytes or a TarInfo; return the archive's path."""
  with tarfile.open(path, mode) as tar:
    for name, content in members.items():
      if isinstance(content, tarfile.TarInfo):
        tar.addfile(content)
        continue
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return epath.Path(path)


def test_read_returns_only_the_named_files(tmp_path):
  members = {"deep/down/a.bin": b"12345", "readme.html": b"x" * 100, "b.bin": b"6"}
  path = archive(tmp_path / "x.tar.gz", members)
  assert fetch.read(path, LIMITS) == {"a.bin": b"12345", "b.bin": b"6"}
  folder = epath.Path(tmp_path / "folder")
  folder.mkdir()
  (folder / "a.bin").write_bytes(b"123")
  (folder / "other").write_bytes(b"x" * 100)
  assert fetch.read(folder, LIMITS) == {"a.bin": b"123"}


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(["a.bin", "p/b.bin", "c"]), st.binary(max_size=10)))
def test_read_returns_what_the_archive_holds(tmp_path_factory, members):
  path = archive(tmp_path_factory.mktemp("read") / "x.tgz", members)
  expected = {name.split("/")[-1]: content for name, content in members.items() if name != "c"}
  assert fetch.read(path, LIMITS) == expected


def test_read_refuses_too_large_files(tmp_path):
  path = archive(tmp_path / "x.tar.gz", {"in/a.bin": b"x" * 11})
  with pytest.raises(
    fetch.Failed, match=r"x.tar.gz: in/a.bin: has 11 bytes; at most 10 are possible"
  ):
    fetch.read(path, LIMITS)
  folder = epath.Path(tmp_path)
  (folder / "a.bin").write_bytes(b"x" * 11)
  with pytest.raises(fetch.Failed, match=r"a.bin: has 11 bytes"):
    fetch.read(folder, LIMITS)


def test_read_skips_links_and_writes_nothing(tmp_path):
  (tmp_path / "secret").write_bytes(b"secret")
  link = tarfile.TarInfo("a.bin")
  link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
  path = archive(tmp_path / "x.tar", {"a.bin": link, "../../b.bin": b"12"}, mode="w")
  before = sorted(tmp_path.iterdir())
  assert fetch.read(path, LIMITS) == {"b.bin": b"12"}
  assert sorted(tmp_path.iterdir()) == before


def test_read_refuses_archives_with_too_many_members(tmp_path):
  path = archive(tmp_path / "x.tar.gz", {f"m{i}": b"" for i in range(1100)})
  with pytest.raises(fetch.Failed, match="more than 1000 members"):
    fetch.read(path, LIMITS)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_read_refuses_huge_sizes_in_headers(tmp_path, kind, compress):
  huge = tarfile.TarInfo("other")
  huge.size, huge.type = 1 << 33, kind
  content = huge.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16)
  path = epath.Path(tmp_path / "x.tar")
  path.write_bytes(compress(content))
  with pytest.raises(fetch.Failed, match=r"x.tar: has more than 1073741824 bytes"):
    fetch.read(path, LIMITS)


def test_read_stops_decompressing_a_bomb(tmp_path, monkeypatch):
  monkeypatch.setattr(fetch, "_MAX_BYTES", 1 << 20)
  path = archive(tmp_path / "x.tar.gz", {"zeros": bytes(1 << 21), "a.bin": b"1"})
  assert path.stat().length < 1 << 13
  with pytest.raises(fetch.Failed, match=r"x.tar.gz: has more than 1048576 bytes"):
    fetch.read(path, LIMITS)


def test_read_names_truncated_and_foreign_files(tmp_path):
  intact = archive(tmp_path / "intact.tgz", {"a.bin": os.urandom(10), "z": os.urandom(5000)})
  content = intact.read_bytes()
  for i, damaged in enumerate(
    [content[:-2500], content[:20], b"", b"\x89PNG no archive", content[:2000] + b"\0" * 3000]
  ):
    path = epath.Path(tmp_path / f"damaged{i}.tgz")
    path.write_bytes(damaged)
    message = rf"damaged{i}.tgz: truncated, corrupt or not a tar"
    with pytest.raises(fetch.Failed, match=message) as caught:
      fetch.read(path, LIMITS | {"z": 5000})
    assert "\n" not in str(caught.value)
  not_tar = epath.Path(tmp_path / "text.tgz")
  not_tar.write_bytes(gzip.compress(b"plain text"))
  with pytest.raises(fetch.Failed, match=r"text.tgz: truncated, corrupt or not a tar archive"):
    fetch.read(not_tar, LIMITS)
  with pytest.raises(fetch.Failed, match=r"nothing here: does not exist"):
    fetch.read(epath.Path(tmp_path / "nothing here"), LIMITS)


@pytest.fixture
def server():
  """A local web server; `server.content[path]` is (body, Content-Length header)."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      if self.path not in self.server.content:
        self.send_error(404)
        return
      body, length = self.server.content[self.path]
      self.send_response(200)
      self.send_header("Content-Length", str(length))
      self.end_headers()
      self.wfile.write(body)

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
    httpd.content = {}
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()


def test_download(server, tmp_path):
  body = os.urandom(3_000_000)
  server.content = {"/x/f.tgz": (body, len(body))}
  path = fetch.download(
    f"{server.url}/x/f.tgz", hashlib.sha256(body).hexdigest(), epath.Path(tmp_path)
  )
  assert path.name == "f.tgz" and path.read_bytes() == body


def test_download_says_why_it_failed(server, tmp_path, monkeypatch):
  monkeypatch.setattr(fetch, "_TIMEOUT_SECONDS", 0.5)
  folder, sha256 = epath.Path(tmp_path), hashlib.sha256(b"right").hexdigest()
  server.content = {"/other": (b"a log-in page", 13), "/short": (b"rig", 5)}
  with pytest.raises(fetch.Failed, match=r"/other: sent 13 bytes whose SHA-256 is not"):
    fetch.download(f"{server.url}/other", sha256, folder)
  with pytest.raises(fetch.Failed, match=r"/short: (the transfer stopped|sent 3 bytes)"):
    fetch.download(f"{server.url}/short", sha256, folder)
  with pytest.raises(fetch.Failed, match=r"/none: Not Found"):
    fetch.download(f"{server.url}/none", sha256, folder)
  with pytest.raises(fetch.Failed, match=r"127.0.0.1:1/f: .*refused"):
    fetch.download("http://127.0.0.1:1/f", sha256, folder)


def test_download_leaves_a_full_disk_to_the_caller(server, tmp_path):
  server.content = {"/f": (b"right", 5)}
  with pytest.raises(FileNotFoundError):
    fetch.download(f"{server.url}/f", "0" * 64, epath.Path(tmp_path / "no such folder"))


def fake_npm(folder, script):
  """Put an `npm` that runs `script` into `folder`."""
  npm = folder / "npm"
  npm.write_text(f"#!/bin/sh\n{script}\n")
  npm.chmod(npm.stat().st_mode | stat.S_IXUSR)


def test_npm_pack_runs_the_users_client(tmp_path, monkeypatch):
  work = epath.Path(tmp_path / "work with spaces")
  work.mkdir()
  # npm must receive each argument unchanged, and no shell may interpret one.
  fake_npm(tmp_path, 'printf "%s\\n" "$@" > arguments; echo archive > "$4/p-1.0.0.tgz"')
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  path = fetch.npm_pack("p@1.0.0; touch owned", work)
  assert path.name == "p-1.0.0.tgz" and path.read_text() == "archive\n"
  arguments = (work / "arguments").read_text().splitlines()
  assert arguments[:4] == ["pack", "p@1.0.0; touch owned", "--pack-destination", str(work)]
  assert "--ignore-scripts" in arguments
  assert not (work / "owned").exists()


def test_npm_pack_says_why_it_failed(tmp_path, monkeypatch):
  fake_npm(
    tmp_path, 'echo "npm error code ENOTFOUND" >&2; echo "npm error network down" >&2; exit 7'
  )
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(fetch.Failed, match=r"p@1: npm pack exited with 7: code ENOTFOUND network"):
    fetch.npm_pack("p@1", epath.Path(tmp_path))
  monkeypatch.setenv("PATH", "")
  with pytest.raises(fetch.Failed, match=r"p@1: npm is not installed"):
    fetch.npm_pack("p@1", epath.Path(tmp_path))
