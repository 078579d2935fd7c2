"""Compile the C++ kernels of this folder into one shared library, and load it.

  python -m cifar_jax.kernels.build

Up to four *.cc files are compiled at once, each in 250 MB of memory, and then linked. Code for one
instruction set stands between `TARGET_BEGIN(...)` and `TARGET_END` (targets.h), so that one library
runs on every x86-64. The library is kept in this package, or in the user's cache folder if the
package is read-only. Its name has a hash of the sources, the compiler and jaxlib. Without a
compiler, or on another processor, there is no library: callers fall back to XLA.
"""

import concurrent.futures
import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from cifar_jax.errors import UserError

log = logging.getLogger("cifar-jax")
FOLDER = pathlib.Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-pthread", "-fno-math-errno", "-Wall", "-Wno-psabi")
COMPILE_SECONDS = 300
LIMIT = "CIFAR_JAX_KERNELS"  # the environment variable that names the best set to use
INSTRUCTION_SETS = ("none", "avx2", "avx512", "avx512_bf16", "amx")  # as in cpu.cc


class _Unavailable(Exception):
  """There is no library; the message says why in one line."""


@functools.cache
def load() -> ctypes.CDLL | None:
  """Return the library, compiling it if needed; log a line and return None if that fails.

  Raises:
    UserError: the environment variable CIFAR_JAX_KERNELS names no instruction set.
  """
  limit = os.environ.get(LIMIT)
  if limit and limit not in INSTRUCTION_SETS:
    raise UserError(f"{LIMIT}: there is no {limit!r}; use one of {', '.join(INSTRUCTION_SETS)}")
  try:
    return ctypes.CDLL(str(library()))
  except (_Unavailable, OSError) as error:
    log.info("CPU kernels unavailable (%s): XLA's own operations are used", error)
    return None


@functools.cache
def register(handlers: tuple[str, ...]) -> bool:
  """Make the library's FFI `handlers` known to JAX by their names; return whether they exist.

  Call it before the first `jax.ffi.ffi_call` of one of them.
  """
  import jax

  kernels = load()
  if kernels is None:
    return False
  for name in handlers:
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(kernels, name)), platform="cpu")
  return True


def library(flags: Sequence[str] = FLAGS) -> pathlib.Path:
  """Return the path of the shared library, compiling it if it is missing.

  Raises:
    _Unavailable: the platform is unsupported, no compiler is installed, or every one fails.
  """
  if sys.platform != "linux" or platform.machine() != "x86_64":
    raise _Unavailable(f"they need Linux on x86-64, not {sys.platform} on {platform.machine()}")
  compilers = list(filter(None, map(shutil.which, COMPILERS)))
  if not compilers:
    raise _Unavailable(f"no C++ compiler; install one of {', '.join(COMPILERS)}")
  failures = []
  for compiler in compilers:
    try:
      return _library(compiler, flags)
    except _Unavailable as error:  # such as a compiler that does not know AMX
      failures.append(error)
  raise failures[0]


def _library(compiler: str, flags: Sequence[str]) -> pathlib.Path:
  name = f"libkernels-{_key(compiler, flags)}.so"
  folders = [FOLDER / "_build", _user_cache()]
  for folder in folders:
    if os.path.isfile(folder / name):  # Path.is_file raises in an unreadable folder
      return folder / name
  for folder in folders:
    if _is_writable(folder):
      _compile(compiler, flags, folder / name)
      return folder / name
  raise _Unavailable(f"{folders[-1]} cannot be written; set XDG_CACHE_HOME to a writable folder")


def _key(compiler: str, flags: Sequence[str]) -> str:
  """Return a hash of everything that the library depends on, as 16 hexadecimal digits."""
  digest = hashlib.sha256()
  for path in sorted(FOLDER.iterdir()):
    if path.suffix in (".cc", ".h", ".inc"):
      digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
  digest.update(_run([compiler, "--version"]).encode())
  digest.update(importlib.metadata.version("jaxlib").encode() + " ".join(flags).encode())
  return digest.hexdigest()[:16]


def _compile(compiler: str, flags: Sequence[str], target: pathlib.Path) -> None:
  """Compile all sources, link them, and rename the result to `target` in one step."""
  import jax.ffi

  sources = sorted(FOLDER.glob("*.cc"))
  include = ["-isystem", jax.ffi.include_dir(), "-I", str(FOLDER)]
  with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as work:
    objects = [f"{work}/{source.stem}.o" for source in sources]
    commands = [
      [compiler, *flags, *include, "-c", str(source), "-o", made]
      for source, made in zip(sources, objects, strict=True)
    ]
    with concurrent.futures.ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
      list(pool.map(_run, commands))
    linked = f"{work}/{target.name}"
    _run([compiler, *flags, "-shared", *objects, "-o", linked])
    os.replace(linked, target)


def _run(command: list[str]) -> str:
  """Return what the command prints; raise _Unavailable with its first line of errors."""
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
  except (OSError, subprocess.TimeoutExpired) as error:
    raise _Unavailable(f"{command[0]} failed: {error}") from error
  if done.returncode:
    lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
    raise _Unavailable(f"{command[0]} failed: {lines[0]}")
  return done.stdout


def _user_cache() -> pathlib.Path:
  home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return pathlib.Path(home) / "cifar-jax" / "kernels"


def _is_writable(folder: pathlib.Path) -> bool:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      return True
  except OSError:
    return False


def main() -> None:
  """Compile the library; print its path, or why there is none. Never fail a set-up."""
  try:
    print(library())
  except (_Unavailable, OSError) as error:
    print(f"CPU kernels unavailable: {error}")


if __name__ == "__main__":
  main()
