"""Reading folders and archives, the sources in turn, and npm: success, and what is refused."""

import gzip
import io
import logging
import os
import stat
import tarfile

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_jax import errors
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
    fetch.Failed, match=r"x.tar.gz: in/a.bin: has 11 bytes; at most 10 are allowed"
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
  path = fetch.npm_pack("p@1.0.0; touch owned", work, fetch.MIN_RATE)
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
    fetch.npm_pack("p@1", epath.Path(tmp_path), fetch.MIN_RATE)
  monkeypatch.setenv("PATH", "")
  with pytest.raises(fetch.Failed, match=r"p@1: npm is not installed"):
    fetch.npm_pack("p@1", epath.Path(tmp_path), fetch.MIN_RATE)


def test_npm_pack_is_abandoned_when_it_takes_too_long(tmp_path, monkeypatch):
  fake_npm(tmp_path, "exec sleep 60")
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  monkeypatch.setattr(fetch, "_SECONDS_BETWEEN_LINES", 0.2)
  with pytest.raises(fetch.TooSlow, match=r"^npm package p@1: too slow, .*/s over 0 s; at least"):
    fetch.npm_pack("p@1", epath.Path(tmp_path), min_rate=1e12)


# The sources in turn.


def make_way(name, outcome, calls):
  """Return a way whose outcome is a path, an error, or by the lowest rate one of these."""

  def get(min_rate):
    calls.append((name, min_rate))
    result = outcome(min_rate) if callable(outcome) else outcome
    if isinstance(result, Exception):
      raise result
    return result

  return fetch.Way(name, get)


def test_the_next_source_follows_a_slow_one_and_a_line_says_why(caplog):
  calls = []
  ways = [
    make_way("slow", fetch.TooSlow("slow: too slow, 70 kB/s"), calls),
    make_way("good", epath.Path("files"), calls),
  ]
  with caplog.at_level(logging.INFO, "cifar-jax"):
    assert fetch.obtain("cifar10", None, ways, lambda path: path, "a folder") == epath.Path("files")
  assert calls == [("slow", fetch.MIN_RATE), ("good", fetch.MIN_RATE)]
  assert caplog.messages[-1] == (
    "cifar10: used good, because earlier sources failed (slow: too slow, 70 kB/s)"
  )


def test_a_slow_source_is_the_last_resort(caplog):
  def slow(min_rate):
    return epath.Path("files") if min_rate < 30_000 else fetch.TooSlow("slow: too slow, 70 kB/s")

  calls = []
  ways = [make_way("slow", slow, calls), make_way("none", fetch.Failed("none: 404"), calls)]
  with caplog.at_level(logging.INFO, "cifar-jax"):
    assert fetch.obtain("cifar10", None, ways, lambda path: path, "a folder") == epath.Path("files")
  assert [name for name, _ in calls] == ["slow", "none", "slow"]
  assert calls[-1] == ("slow", fetch.LAST_RESORT_RATE)
  assert caplog.messages[-1] == (
    "cifar10: used slow, because no faster source works (slow: too slow, 70 kB/s; none: 404)"
  )


def test_a_source_that_is_too_slow_even_as_the_last_resort_fails():
  ways = [make_way("slow", lambda rate: fetch.TooSlow(f"slow: below {rate:.0f}"), [])]
  with pytest.raises(fetch.Unavailable, match=r"tried: slow: below 25000\); get it by other means"):
    fetch.obtain("cifar10", None, ways, lambda path: path, "a folder")


def test_the_users_source_is_named(caplog):
  with caplog.at_level(logging.INFO, "cifar-jax"):
    fetch.obtain("mnist", "/x", [], lambda path: path, "a folder")
  assert caplog.messages == ["mnist: used /x, because data.source names it"]

  def refuse(path):
    raise fetch.Failed(f"{path}: empty")

  with pytest.raises(errors.UserError, match=r"^data.source: /x: empty; give a folder$"):
    fetch.obtain("mnist", "/x", [], refuse, "a folder")
