"""A layer below all file operations of a program that makes one fail, or kills the program.

`file_faults.cc` has the layer, which is preloaded in front of the C library: it sees Python's reads
and writes and those of TensorStore's threads alike.
"""

import ctypes
import pathlib
import subprocess

SOURCE = pathlib.Path(__file__).with_suffix(".cc")
KILL = 0  # the error number that kills instead


class Unavailable(Exception):
  """This machine cannot compile the layer; the argument is the reason."""


def build(folder: pathlib.Path) -> pathlib.Path:
  """Compile the layer into a folder; return the library."""
  library = folder / "file_faults.so"
  command = [
    "g++",
    "-O1",
    "-fPIC",
    "-shared",
    "-std=c++17",
    "-o",
    str(library),
    str(SOURCE),
    "-ldl",
  ]
  try:
    completed = subprocess.run(command, capture_output=True, text=True)
  except OSError as error:
    raise Unavailable(f"g++: {error.strerror}") from error
  if completed.returncode:
    raise Unavailable(f"g++ cannot compile {SOURCE.name}: {completed.stderr.splitlines()[:1]}")
  return library


def variables(
  library: pathlib.Path, part: str, at: int = 0, error: int = KILL, log: pathlib.Path | None = None
) -> dict[str, str]:
  """Return the environment variables of a program with a fault.

  Args:
    part: only operations on paths that contain this text count.
    at: the number of the operation that fails, from 1; 0 for none.
    error: its error number, or KILL; negative if all later operations fail too.
    log: receives the names of all operations, one per line.
  """
  return {
    "LD_PRELOAD": str(library),
    "FILE_FAULTS_PATH": part,
    "FILE_FAULTS_AT": str(at),
    "FILE_FAULTS_ERROR": str(error),
    "FILE_FAULTS_LOG": str(log or ""),
  }


def arm(at: int, error: int) -> int:
  """Let an operation of this process fail, counted from now; see `variables`.

  Returns:
    The number of operations since the last call.
  """
  return int(ctypes.CDLL(None).file_faults_arm(ctypes.c_long(at), ctypes.c_int(error)))
