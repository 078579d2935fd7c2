"""Start-up: the fastest environment for XLA:CPU, the compilation cache, joining other processes."""

import codecs
import importlib.metadata
import importlib.util
import locale
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence

from cifar_jax.runtime import distributed, process_group
from cifar_jax.runtime.console import log

# XLA ends a program whose XLA_FLAGS name an unknown flag, so only tested versions get the flag.
_JAXLIB_WITH_YNNPACK = ("0.10.", "0.12.")
_EIGEN_CONVOLUTIONS = (
  "--xla_cpu_experimental_ynn_fusion_type",
  "=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
)


def cpu_environment(environment: Mapping[str, str]) -> dict[str, str]:
  """Return the environment plus the variables that make XLA:CPU fastest.

  On Linux, glibc allocates memory in huge pages. On a machine without an accelerator glibc also
  keeps freed memory for the next step, and XLA convolves with Eigen instead of YNNPACK. Settings
  that `environment` already holds keep their value. docs/measurements.md has the figures. Files and
  output are UTF-8 in any locale.
  """
  changed = dict(environment)
  if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
    changed.setdefault("PYTHONUTF8", "1")
  on_cpu = environment.get("JAX_PLATFORMS") == "cpu" or not any(
    importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")
  )
  if sys.platform == "linux":
    _append(changed, "GLIBC_TUNABLES", "glibc.malloc.hugetlb", "=1", ":")
    if on_cpu:
      _append(changed, "GLIBC_TUNABLES", "glibc.malloc.arena_max", "=1", ":")
      for threshold in ("mmap_threshold", "trim_threshold"):
        _append(changed, "GLIBC_TUNABLES", f"glibc.malloc.{threshold}", f"={2**32}", ":")
  if on_cpu and importlib.metadata.version("jaxlib").startswith(_JAXLIB_WITH_YNNPACK):
    _append(changed, "XLA_FLAGS", *_EIGEN_CONVOLUTIONS, " ")
  return changed


def restart_if_needed(arguments: Sequence[str]) -> None:
  """Restart this program, in the same process, if its environment is not `cpu_environment`.

  glibc reads its settings only when a program starts. Call this from `if __name__ == "__main__":`
  only, since the restart loses all state. A debugger would lose the program, so under one, or with
  --norestart among the arguments, only XLA_FLAGS are set, which take effect without a restart.
  """
  environment = cpu_environment(os.environ)
  if environment == dict(os.environ):
    return
  if not boolean_flag(arguments, "restart", default=True) or has_debugger():
    if "XLA_FLAGS" in environment:
      os.environ["XLA_FLAGS"] = environment["XLA_FLAGS"]
    return
  os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def boolean_flag(arguments: Sequence[str], name: str, default: bool) -> bool:
  """Return the value of a flag in any of absl's spellings, before absl reads the arguments."""
  value = default
  for argument in arguments:
    flag, _, text = argument.partition("=")
    if flag in (f"-{name}", f"--{name}"):
      value = text.lower() in ("", "true", "t", "1")
    elif flag in (f"-no{name}", f"--no{name}"):
      value = False
  return value


def has_debugger() -> bool:
  """Return whether a debugger, or another tool that traces each line, runs this program."""
  monitor = getattr(sys, "monitoring", None)  # Python 3.12 added it; newer debuggers use it
  return (
    sys.gettrace() is not None
    or (monitor is not None and monitor.get_tool(monitor.DEBUGGER_ID) is not None)
    or not sys.modules.keys().isdisjoint({"debugpy", "pydevd"})
    # pdb stops tracing after `continue`. Its loaded module proves nothing: absl imports it.
    or any(frame.f_globals.get("__name__") == "bdb" for frame, _ in traceback.walk_stack(None))
  )


def start_jax(group: process_group.Group | None) -> None:
  """Import JAX, cache compiled programs across runs and join the other processes, if any.

  Virtual CPU devices get no cache: XLA:CPU can abort in a collective of a cached program.

  Args:
    group: the processes of the run; None for a single process.
  """
  import jax

  if num_virtual_devices(os.environ) <= 1:
    jax.config.update("jax_compilation_cache_dir", compilation_cache(os.environ))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  if group is not None:
    distributed.join(group)
    if group.index:
      log.setLevel("WARNING")  # the first process logs for all of them


def size_thread_pool() -> None:
  """Enlarge XLA:CPU's thread pool if there are virtual devices; call this before JAX is imported.

  With more virtual devices than threads, collectives block every thread and never end. NPROC sets
  the number of threads.
  """
  if num_virtual_devices(os.environ):
    os.environ.setdefault("NPROC", "64")


def num_virtual_devices(environment: Mapping[str, str]) -> int:
  """Return the number of CPU devices that XLA_FLAGS asks for; 0 if it asks for none."""
  flag = r"xla_force_host_platform_device_count=(\d+)"
  counts = re.findall(flag, environment.get("XLA_FLAGS", ""))
  return int(counts[-1]) if counts else 0


def compilation_cache(environment: Mapping[str, str]) -> str:
  """Return the folder of compiled programs: JAX_COMPILATION_CACHE_DIR or ~/.cache/cifar-jax."""
  return environment.get("JAX_COMPILATION_CACHE_DIR") or os.path.expanduser("~/.cache/cifar-jax")


def _append(environment: dict[str, str], variable: str, name: str, value: str, by: str) -> None:
  """Add name + value to a variable that does not contain the name."""
  current = environment.get(variable, "")
  if name not in current:
    environment[variable] = by.join(filter(None, (current, name + value)))
