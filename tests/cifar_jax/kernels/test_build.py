"""The kernels' library: where it is kept, and that no compiler ever fails a start."""

import os
import platform
import subprocess
import sys

import pytest

from cifar_jax.errors import UserError
from cifar_jax.kernels import build

pytestmark = pytest.mark.skipif(
  sys.platform != "linux" or platform.machine() != "x86_64", reason="no kernels on this system"
)

# Writes an empty file where a compiler would write its result.
WORKS = """
case "$*" in *--version*) echo fake 1.0; exit 0;; esac
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then : > "$2"; fi; shift; done
"""
FAILS = """
case "$*" in *--version*) echo fake 1.0; exit 0;; esac
echo "cpu.cc:1: error: no such thing" >&2; exit 1
"""


@pytest.fixture
def use_compiler(monkeypatch, tmp_path):
  """Make a shell script the only compiler, and a folder of the test's the package."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  package = tmp_path / "package"
  package.mkdir()
  (package / "cpu.cc").write_text("int x;")
  monkeypatch.setattr(build, "FOLDER", package)

  def use(script):
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
    monkeypatch.setattr(build, "COMPILERS", (str(path),))
    return package

  return use


def test_it_is_kept_in_the_package_and_compiled_once(use_compiler):
  package = use_compiler(WORKS)
  path = build.library()
  assert path.parent == package / "_build" and path.is_file()
  assert [p for p in path.parent.iterdir() if p != path] == []
  written = path.stat().st_mtime_ns
  assert build.library() == path and path.stat().st_mtime_ns == written


def test_another_source_is_another_library(use_compiler):
  package = use_compiler(WORKS)
  before = build.library()
  (package / "cpu.cc").write_text("int y;")
  assert build.library() != before


def test_a_read_only_package_uses_the_users_cache(use_compiler, tmp_path):
  package = use_compiler(WORKS)
  (package / "_build").write_text("a file, so that no folder can be made")
  assert build.library().parent == tmp_path / "cache" / "cifar-jax" / "kernels"


@pytest.mark.parametrize(
  ("script", "reason"), [(FAILS, "cpu.cc:1: error: no such thing"), (WORKS, "file too short")]
)
def test_a_compiler_that_fails_is_one_log_line(use_compiler, log_lines, script, reason):
  use_compiler(script)
  assert build.load.__wrapped__() is None  # an empty library cannot be loaded either
  (line,) = log_lines
  assert reason in line and line.startswith("CPU kernels unavailable")


def test_no_compiler_is_one_log_line(monkeypatch, log_lines, capsys):
  monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
  assert build.load.__wrapped__() is None
  (line,) = log_lines
  assert "no C++ compiler; install one of no-such-compiler" in line
  build.main()
  assert capsys.readouterr().out.startswith("CPU kernels unavailable")


def test_an_unknown_instruction_set_is_refused(monkeypatch):
  monkeypatch.setenv(build.LIMIT, "avx1024")
  with pytest.raises(UserError, match="CIFAR_JAX_KERNELS: there is no 'avx1024'; use one of none"):
    build.load.__wrapped__()


@pytest.mark.skipif(build.load() is None, reason="no library here")
@pytest.mark.parametrize("limit", build.INSTRUCTION_SETS)
def test_the_library_uses_nothing_better_than_its_limit(limit):
  script = (
    "import ctypes, sys; query = ctypes.CDLL(sys.argv[1]).kernels_instruction_set;"
    "query.restype = ctypes.c_char_p; print(query().decode())"
  )
  environment = os.environ | {build.LIMIT: limit}
  command = [sys.executable, "-c", script, str(build.library())]
  used = subprocess.check_output(command, env=environment, text=True).strip()
  assert build.INSTRUCTION_SETS.index(used) <= build.INSTRUCTION_SETS.index(limit)


def test_the_next_compiler_is_tried(use_compiler, monkeypatch, tmp_path):
  package = use_compiler(WORKS)
  (works,) = build.COMPILERS
  fails = tmp_path / "fails"
  fails.write_text(f"#!/bin/sh\n{FAILS}")
  fails.chmod(0o755)
  monkeypatch.setattr(build, "COMPILERS", (str(fails), works))
  assert build.library().parent == package / "_build"


def test_a_set_up_does_not_fail_where_nothing_can_be_written(use_compiler, monkeypatch, capsys):
  use_compiler(WORKS)

  def refuse(*_):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(build, "_compile", refuse)
  build.main()
  assert "CPU kernels unavailable: [Errno 13] Permission denied" in capsys.readouterr().out
