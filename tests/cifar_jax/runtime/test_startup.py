"""Start-up: the environment for CPUs, and when main.py restarts."""

import importlib.metadata
import importlib.util
import locale
import os
import subprocess
import sys
import types

import pytest
import small_runs

from cifar_jax.runtime import startup

YNNPACK = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
MALLOC = [
  f"glibc.malloc.{setting}"
  for setting in ("arena_max=1", "mmap_threshold=4294967296", "trim_threshold=4294967296")
]

# --- The environment -----------------------------------------------------------------------------


def test_on_cpu_memory_is_kept_in_huge_pages_and_convolutions_are_eigen_s(monkeypatch):
  monkeypatch.setattr(sys, "platform", "linux")
  cpu = {"JAX_PLATFORMS": "cpu"}
  tunables = ":".join(["glibc.malloc.hugetlb=1", *MALLOC])
  complete = cpu | {"GLIBC_TUNABLES": tunables, "XLA_FLAGS": YNNPACK}
  assert startup.cpu_environment(cpu) == complete
  assert startup.cpu_environment(complete) == complete
  partial = cpu | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2", "XLA_FLAGS": "--xla_dump_to=there"}
  assert startup.cpu_environment(partial) == cpu | {
    "GLIBC_TUNABLES": ":".join(["glibc.malloc.hugetlb=2", *MALLOC]),
    "XLA_FLAGS": f"--xla_dump_to=there {YNNPACK}",
  }
  all_of_ynnpack = complete | {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type="}
  assert startup.cpu_environment(all_of_ynnpack) == all_of_ynnpack
  monkeypatch.setattr(sys, "platform", "darwin")
  assert startup.cpu_environment(cpu) == cpu | {"XLA_FLAGS": YNNPACK}


def test_xla_flags_are_set_only_for_tested_versions_and_without_a_tpu(monkeypatch):
  monkeypatch.setattr(sys, "platform", "darwin")
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu" or None)
  assert startup.cpu_environment({}) == {}  # libtpu reads XLA_FLAGS too
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert startup.cpu_environment({}) == {"XLA_FLAGS": YNNPACK}
  monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.9.1")
  assert startup.cpu_environment({}) == {}


def test_files_and_output_are_utf_8_whatever_the_locale(monkeypatch):
  environment = {"GLIBC_TUNABLES": "glibc.malloc", "XLA_FLAGS": YNNPACK, "JAX_PLATFORMS": "tpu"}
  monkeypatch.setattr(sys, "platform", "darwin")
  for encoding, changes in (
    ("UTF-8", {}),
    ("utf8", {}),
    ("ISO-8859-1", {"PYTHONUTF8": "1"}),
    ("ANSI_X3.4-1968", {"PYTHONUTF8": "1"}),
  ):
    monkeypatch.setattr(locale, "getpreferredencoding", lambda _, name=encoding: name)
    assert startup.cpu_environment(environment) == environment | changes
  chosen = environment | {"PYTHONUTF8": "0"}
  assert startup.cpu_environment(chosen) == chosen


# --- The restart ---------------------------------------------------------------------------------


@pytest.fixture
def restarts(monkeypatch) -> list[dict[str, str]]:
  """The environments that the program would have restarted with."""
  environments: list[dict[str, str]] = []
  monkeypatch.setattr(os, "execve", lambda *arguments: environments.append(arguments[2]))
  monkeypatch.setattr(startup, "has_debugger", lambda: False)  # coverage traces each line
  monkeypatch.setattr(startup, "cpu_environment", lambda environment: environment | {"A": "1"})
  return environments


def test_restart_happens_once(restarts, monkeypatch):
  startup.restart_if_needed(["main.py"])
  (environment,) = restarts
  assert environment["A"] == "1"
  monkeypatch.setenv("A", "1")
  startup.restart_if_needed(["main.py"])
  assert len(restarts) == 1


@pytest.mark.parametrize("flag", ["--norestart", "-restart=0", "--restart=False", None])
def test_without_a_restart_the_flags_of_xla_are_set(restarts, monkeypatch, flag):
  monkeypatch.setenv("XLA_FLAGS", "--before")
  monkeypatch.setattr(startup, "cpu_environment", lambda environment: {"XLA_FLAGS": "--after"})
  monkeypatch.setattr(startup, "has_debugger", lambda: flag is None)
  startup.restart_if_needed(["main.py", flag or "--debug"])
  assert not restarts and os.environ["XLA_FLAGS"] == "--after"


@pytest.mark.parametrize("name", ["debugpy", "pydevd"])
def test_debuggers_are_noticed(name, monkeypatch):
  monkeypatch.setattr(sys, "gettrace", lambda: None)
  assert not startup.has_debugger()
  monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  assert startup.has_debugger()


# Prints a line each time it starts, but only once per set of variables.
PROGRAM = """
import os, sys
sys.path.insert(0, {root!r})
print("started", "GLIBC_TUNABLES" in os.environ, flush=True)
from cifar_jax.runtime import startup
startup.cpu_environment = lambda environment: dict(environment) | {{"GLIBC_TUNABLES": "a=1"}}
startup.restart_if_needed(sys.argv)
"""


def test_a_program_restarts_but_not_under_pdb(tmp_path):
  program = tmp_path / "program.py"
  program.write_text(PROGRAM.format(root=str(small_runs.ROOT)))
  environment = {name: v for name, v in os.environ.items() if name != "GLIBC_TUNABLES"}

  def output(*command: str) -> str:
    return subprocess.check_output(
      [sys.executable, *command, str(program)], text=True, env=environment, input="quit\n"
    )

  assert output() == "started False\nstarted True\n"
  under_pdb = output("-m", "pdb", "-c", "continue")
  assert under_pdb.startswith("started False\n") and "started True" not in under_pdb


def test_importing_main_does_not_restart():
  code = "import os; before = dict(os.environ); import main; assert dict(os.environ) == before"
  environment = {name: v for name, v in os.environ.items() if name != "GLIBC_TUNABLES"}
  subprocess.run([sys.executable, "-c", code], check=True, cwd=small_runs.ROOT, env=environment)


@pytest.mark.parametrize(
  ("flags", "count"),
  [
    ("", 0),
    ("--xla_cpu_x=3", 0),
    ("--xla_force_host_platform_device_count=8", 8),
    ("--a=1 --xla_force_host_platform_device_count=2 --xla_force_host_platform_device_count=4", 4),
  ],
)
def test_virtual_devices_are_counted_as_xla_counts_them(flags, count):
  assert startup.num_virtual_devices({"XLA_FLAGS": flags}) == count
  assert startup.num_virtual_devices({}) == 0


def test_programs_for_virtual_devices_are_not_cached(tmp_path):
  code = (
    "from cifar_jax.runtime import startup; startup.start_jax(None); "
    "import jax; print(jax.config.jax_compilation_cache_dir)"
  )
  for devices, expected in ((1, str(tmp_path)), (2, "None")):
    environment = small_runs.environment(devices) | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    if devices > 1:  # JAX itself reads the variable
      del environment["JAX_COMPILATION_CACHE_DIR"]
    process = subprocess.run(
      [sys.executable, "-c", code],
      env=environment,
      capture_output=True,
      text=True,
      cwd=small_runs.ROOT,
    )
    assert process.stdout.strip() == expected, process.stderr


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ([], False),
    (["--debug"], True),
    (["-debug"], True),
    (["--debug=True"], True),
    (["--debug=1", "--nodebug"], False),
    (["--debug=f"], False),
    (["debug", "--debugger"], False),
  ],
)
def test_boolean_flags_are_read_like_absl_reads_them(arguments, expected):
  assert startup.boolean_flag(["main.py", *arguments], "debug", default=False) == expected
