"""What every speed benchmark has: its options, the environment, images, and the record it writes.

This module starts no JAX; only the sides that are measured touch the device.
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
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from cifar_jax.data import cache
from cifar_jax.data.datasets import REGISTRY
from cifar_jax.runtime import startup

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "speed"


# --- Command line and environment ----------------------------------------------------------------


def bare_parser(doc: str, name: str) -> argparse.ArgumentParser:
  """--output and no more; `doc` is the benchmark's docstring, `name` that of its record."""
  made = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  made.add_argument("--output", type=pathlib.Path, default=RESULTS / f"{name}.json")
  return made


def parser(doc: str, name: str) -> argparse.ArgumentParser:
  """`bare_parser` with the options of benchmarks that measure time."""
  made = bare_parser(doc, name)
  made.add_argument("--threads", type=int, default=0, help="CPU cores to use; 0 means all")
  made.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: as main.py has it")
  made.add_argument("--rounds", type=int, default=5, help="blocks of each side, in turn")
  made.add_argument("--seconds", type=float, default=2.0, help="least length of a block")
  made.add_argument("--limit", type=float, default=1800, help="seconds a side may take to warm up")
  made.add_argument("--quick", action="store_true", help="small sizes: does it work at all?")
  made.add_argument(
    "--data_dir", help="TFDS directory to read CIFAR-10 from; without it images are random"
  )
  return made


def peer_option(made: argparse.ArgumentParser) -> None:
  """Adds --peer_python."""
  made.add_argument(
    "--peer_python",
    default=str(ROOT / ".venv-peers" / "bin" / "python"),
    help="Python that has torch, keras and tensorflow, or some of them (default: %(default)s)",
  )


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None):
  """The options given; limits this process, and so all sides, to --threads cores."""
  options = made.parse_args(arguments)
  if options.quick:
    options.rounds, options.seconds = min(options.rounds, 2), 0.0
  if options.threads:
    cores = sorted(os.sched_getaffinity(0))
    if options.threads > len(cores):
      made.error(f"--threads: {options.threads} is more than the {len(cores)} cores there are")
    os.sched_setaffinity(0, cores[: options.threads])
  return options


def side_environment(devices: int = 0, **extra: str) -> dict[str, str]:
  """The variables that every side is started with, ours and peers alike.

  GLIBC_TUNABLES is what main.py sets for itself (XLA_FLAGS too, but not for peers). JAX and
  TensorFlow leave the memory of a GPU to the others, and XLA's programs are kept where main.py
  keeps them. `devices`: virtual CPU devices.
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
  return environment | extra


@functools.cache
def on_gpu() -> bool:
  """Whether JAX, and so ours, will find an NVIDIA GPU; asked without starting it."""
  if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
    return False
  try:
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30).returncode == 0
  except (OSError, subprocess.TimeoutExpired):
    return False


@contextlib.contextmanager
def images(data_dir: str | None, train: int = 50_000, test: int = 10_000) -> Iterator[str]:
  """Yields a data directory with CIFAR-10: `data_dir`, or random images of its form.

  What a step costs does not depend on the pixels, so speed can be measured where no data are.
  """
  if data_dir:
    yield data_dir
    return
  with tempfile.TemporaryDirectory(prefix="random_cifar10_") as folder:
    write_random_cifar10(folder, train, test)
    yield folder


def write_random_cifar10(folder: str, train: int, test: int) -> None:
  """Random images and labels, as datasets/ reads CIFAR-10 back from the data directory `folder`."""
  rng = np.random.default_rng(0)
  entry = REGISTRY["cifar10"]
  classes = entry.form[-1]
  sizes = {"train": train, "test": test}
  pixels = {s: rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for s, n in sizes.items()}
  labels = {s: {entry.label: rng.integers(0, classes, n)} for s, n in sizes.items()}
  names = {entry.label: tuple(str(i) for i in range(classes))}
  path = epath.Path(folder) / entry.folder / f"decoded-{entry.version}"
  path.parent.mkdir(parents=True)
  cache.write(path, cache.Decoded(pixels, labels, names))


# --- Records -------------------------------------------------------------------------------------

_WIDE = {"model": 16, "side": 16, "ours / it": 17, "ratio": 17}  # columns that are not figures


_PLACES = ("output", "peer_python", "data_dir", "airbench")  # which say nothing of a measurement


class Record:
  """A table on standard output and the same rows as JSON, rewritten after every row.

  Args:
    name: of the benchmark.
    options: its command line, parsed; `output` is the path.
    columns: of the table: keys of the rows; a row's 'note' comes after them.
  """

  def __init__(self, name: str, options: argparse.Namespace, columns: Sequence[str]):
    self._path, self._columns = options.output, list(columns)
    self.content: dict[str, Any] = {
      "benchmark": name,
      "options": {
        k: str(v) if isinstance(v, pathlib.Path) else v
        for k, v in vars(options).items()
        if k not in _PLACES
      },
      "environment": environment(),
      "rows": [],
    }
    self._path.parent.mkdir(parents=True, exist_ok=True)
    print(self._line(dict(zip(columns, columns, strict=True))), flush=True)
    self.write()

  def add(self, row: dict[str, Any], **more: Any) -> None:
    """Prints `row` and writes it, with `more` that only the JSON has."""
    print(self._line(row), flush=True)
    self.content["rows"].append(row | more)
    self.write()

  def describe(self, side: Any) -> None:
    """Notes the versions and the device of a timing.Side in the environment."""
    for key in ("versions", "device"):
      if key in side.description:
        self.content["environment"].setdefault("sides", {}).setdefault(side.name, {})[key] = (
          side.description[key]
        )

  def write(self) -> None:
    write_json(self._path, self.content)

  def _line(self, row: dict[str, Any]) -> str:
    cells = [cell_text(row.get(column, "")) for column in self._columns]
    widths = [max(_WIDE.get(c, 9), len(c)) for c in self._columns]
    line = "  ".join(text.rjust(width) for text, width in zip(cells, widths, strict=True))
    return f"{line}  {row['note']}" if row.get("note") else line.rstrip()


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes the file whole or not at all."""
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(content, indent=1) + "\n")
  os.replace(partial, path)


def cell_text(value: Any) -> str:
  """A figure in a table: three digits or more, counts in full; a ratio with its spread."""
  if isinstance(value, dict):
    return f"{value['median']:.2f} ({value['lowest']:.2f}–{value['highest']:.2f})"
  if value is None:
    return ""
  if isinstance(value, float):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
  return f"{value:,}" if isinstance(value, int) else str(value)


def environment() -> dict[str, Any]:
  """Date, commit, processor, cores and what was set."""
  from cifar_jax.runs import results  # imports JAX, which then starts on no device

  return {
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "git_commit": results.git_commit(),
    "python": platform.python_version(),
    "platform": platform.platform(),
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


def end_with_signals() -> None:
  """Makes SIGTERM an ordinary exit, so that sides and temporary folders go with this process."""
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
