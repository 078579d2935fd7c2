"""Shared by all benchmarks: options, environment, images, and the record that each writes.

This module does not start JAX, so that only the measured programs use the device.
"""

import argparse
import contextlib
import datetime
import functools
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cifar_jax.data import cache
from cifar_jax.data.datasets import REGISTRY
from cifar_jax.runtime import startup
from cifar_jax.types import Row

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "speed"
_NUM_CLASSES = 10


# --- Command line and environment ----------------------------------------------------------------


def bare_parser(doc: str | None, name: str) -> argparse.ArgumentParser:
  """Return a parser with the option --output only.

  Args:
    doc: the benchmark's docstring, which --help prints.
    name: the name of its record.
  """
  parser = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    default=RESULTS / f"{name}.json",
    help="the record (default: %(default)s)",
  )
  return parser


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
  """Return `bare_parser` with the options of benchmarks that measure time."""
  parser = bare_parser(doc, name)
  parser.add_argument("--threads", type=int, default=0, help="number of CPU cores; 0 means all")
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    help="default: bfloat16 on a GPU, float32 on CPU",
  )
  parser.add_argument("--rounds", type=int, default=5, help="number of blocks of each side")
  parser.add_argument("--seconds", type=float, default=2.0, help="shortest length of a block")
  parser.add_argument("--limit", type=float, default=1800, help="longest warm-up, in seconds")
  parser.add_argument("--quick", action="store_true", help="tiny sizes, to check the command")
  parser.add_argument(
    "--data_dir", help="TFDS directory with CIFAR-10 (default: random images of its shape)"
  )
  return parser


def add_peer_option(parser: argparse.ArgumentParser) -> None:
  """Add --peer_python."""
  parser.add_argument(
    "--peer_python",
    default=str(ROOT / ".venv-peers" / "bin" / "python"),
    help="Python with torch, keras and tensorflow, or some of them (default: %(default)s)",
  )


def add_names_option(
  parser: argparse.ArgumentParser,
  option: str,
  known: Iterable[str],
  default: Iterable[str] | None = None,
) -> None:
  """Add an option that takes some of the `known` names, separated by commas, or none of them.

  Args:
    default: the names without the option; None means all.
  """
  known = tuple(known)

  def parse_names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in known]:
      raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}; use {', '.join(known)}")
    return names

  names = known if default is None else tuple(default)
  parser.add_argument(
    option, type=parse_names, default=list(names), help=f"default: {','.join(names)}"
  )


def parse(
  parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
  """Parse the options, and apply those of `parser` to this process.

  The process, and so all sides, is bound to --threads cores. On SIGTERM it exits normally, so that
  sides and temporary folders are cleaned up.
  """
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  options = parser.parse_args(arguments)
  if getattr(options, "quick", False):
    options.rounds, options.seconds = min(options.rounds, 2), 0.0
  if getattr(options, "threads", 0):
    cores = sorted(os.sched_getaffinity(0))
    if options.threads > len(cores):
      parser.error(f"--threads: {options.threads} is more than this machine's {len(cores)} cores")
    os.sched_setaffinity(0, cores[: options.threads])
  return options


def side_environment(
  devices: int = 0, variables: Mapping[str, str] | None = None
) -> dict[str, str]:
  """Return the environment variables that every side, ours or a peer, starts with.

  GLIBC_TUNABLES has the value that main.py sets (XLA_FLAGS too, but not for peers). JAX and
  TensorFlow allocate GPU memory on demand, so that sides can share it. XLA's compiled programs are
  kept where main.py keeps them.

  Args:
    devices: number of virtual CPU devices; 0 leaves the devices as they are.
    variables: more variables.
  """
  environment = startup.cpu_environment(os.environ)
  environment |= {
    "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
  }
  environment["JAX_COMPILATION_CACHE_DIR"] = startup.compilation_cache(environment)
  environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
  if devices:
    flags = environment.get("XLA_FLAGS", "")
    flags = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
    environment |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": "64"}
  return environment | dict(variables or {})


def choose_dtype(options: argparse.Namespace) -> str:
  """Return `--dtype`, by default bfloat16 on a GPU and float32 on CPU."""
  return options.dtype or ("bfloat16" if on_gpu() else "float32")


@functools.cache
def on_gpu() -> bool:
  """Return whether JAX will use an NVIDIA GPU, without starting JAX."""
  if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
    return False
  try:
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30).returncode == 0
  except (OSError, subprocess.TimeoutExpired):
    return False


# --- Images --------------------------------------------------------------------------------------


@contextlib.contextmanager
def images(data_dir: str | None, train: int = 50_000, test: int = 10_000) -> Iterator[str]:
  """Yield a data directory with CIFAR-10: `data_dir`, or a temporary one with random images.

  The time of a step does not depend on the pixels, so speed can be measured without the data.

  Args:
    train, test: numbers of random images.
  """
  if data_dir:
    yield data_dir
    return
  with tempfile.TemporaryDirectory(prefix="random_cifar10_") as folder:
    write_random_cifar10(folder, train, test)
    yield folder


def write_random_cifar10(folder: str, train: int, test: int) -> None:
  """Write random images and labels, which load from the data directory `folder` as CIFAR-10."""
  rng = np.random.default_rng(0)
  entry = REGISTRY["cifar10"]
  sizes = {"train": train, "test": test}
  pixels = {s: rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for s, n in sizes.items()}
  labels = {s: {entry.label: rng.integers(0, _NUM_CLASSES, n)} for s, n in sizes.items()}
  names = {entry.label: tuple(str(i) for i in range(_NUM_CLASSES))}
  path = epath.Path(folder) / entry.folder / f"decoded-{entry.version}"
  path.parent.mkdir(parents=True)
  cache.write(path, cache.Decoded(pixels, labels, names))


# --- Tables and records --------------------------------------------------------------------------

_NUMBER_WIDTH = 9  # characters
_WIDTHS = {"ours / it": 17, "ratio": 17}
_TEXT_WIDTHS = {"model": 16, "side": 16, "fault": 24, "target": 28, "kernel": 11}
_LOCATIONS = ("output", "peer_python", "data_dir", "airbench")  # options that only name places


class StreamedTable:
  """A table on standard output that is printed row by row.

  Args:
    columns: the keys of the rows that are shown; a row's 'note' follows them.
    widths: minimum width of columns, in characters; nine for the others.
    left: left-aligned columns.
  """

  def __init__(
    self,
    columns: Sequence[str],
    widths: Mapping[str, int] | None = None,
    left: Collection[str] = (),
  ):
    self._columns, self._left = columns, left
    widths = widths or {}
    self._widths = {c: max(widths.get(c, _NUMBER_WIDTH), len(c)) for c in columns}
    self._console = Console(width=1000, color_system=None)
    self.print(dict(zip(columns, columns, strict=True)))

  def print(self, row: Mapping[str, Any]) -> None:
    """Print a row."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in self._columns:
      justify: Literal["left", "right"] = "left" if column in self._left else "right"
      table.add_column(justify=justify, min_width=self._widths[column], no_wrap=True)
    table.add_column(no_wrap=True)
    cells = [cell_text(row.get(column, "")) for column in self._columns]
    table.add_row(*map(Text, cells), Text(row.get("note") or ""))
    with self._console.capture() as capture:
      self._console.print(table)
    print(capture.get().rstrip(), flush=True)


class Record:
  """A table on standard output, with the same rows as JSON in a file that each row updates.

  Args:
    name: the name of the benchmark.
    options: the parsed command line; `output` is the path of the file.
    columns: the columns of the table.
  """

  def __init__(self, name: str, options: argparse.Namespace, columns: Sequence[str]):
    self._path = options.output
    self.content: dict[str, Any] = {
      "benchmark": name,
      "options": {
        k: str(v) if isinstance(v, pathlib.Path) else v
        for k, v in vars(options).items()
        if k not in _LOCATIONS
      },
      "environment": describe_environment(),
      "rows": [],
    }
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._table = StreamedTable(columns, _WIDTHS | _TEXT_WIDTHS, left=_TEXT_WIDTHS)
    self.write()

  def add(self, row: Row, **details: Any) -> None:
    """Print `row`; write it together with `details`."""
    self._table.print(row)
    self.content["rows"].append(row | details)
    self.write()

  def describe(self, name: str, description: Row) -> None:
    """Record the versions and the device of a side in the environment.

    Args:
      name: the name of the side.
      description: the first line that the side printed; see timing.Side.
    """
    for key in ("versions", "device"):
      if key in description:
        sides = self.content["environment"].setdefault("sides", {})
        sides.setdefault(name, {})[key] = description[key]

  def write(self) -> None:
    """Write the file."""
    write_json(self._path, self.content)


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Write a JSON file atomically."""
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(content, indent=1) + "\n")
  os.replace(partial, path)


def cell_text(value: Any) -> str:
  """Return a value as text for a table.

  Floats have three significant digits or more, integers all digits, and ratios, as timing.ratio
  returns them, their spread. None is empty.
  """
  if isinstance(value, dict):
    return f"{value['median']:.2f} ({value['lowest']:.2f}–{value['highest']:.2f})"
  if value is None:
    return ""
  if isinstance(value, float):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
  return f"{value:,}" if isinstance(value, int) else str(value)


def describe_environment() -> Row:
  """Return date, commit, versions, processor, cores, load and the variables that are set."""
  from cifar_jax.runs import results  # imports JAX, but starts no device

  return {
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "git_commit": results.git_commit(),
    "python": platform.python_version(),
    "platform": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
    "processor": _processor(),
    "cores": len(os.sched_getaffinity(0)),
    "load_average": list(os.getloadavg()),
    "GLIBC_TUNABLES": side_environment().get("GLIBC_TUNABLES", ""),
    "XLA_FLAGS": side_environment().get("XLA_FLAGS", ""),
  }


def _processor() -> str:
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:
    return platform.processor()
  names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
  return names[0] if names else platform.processor()
