"""The local launcher: several processes of one run on this machine."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import small_runs

from launch import local

LAUNCH = small_runs.ROOT / "launch"


def launch_locally(code: str, *options: str, **variables: str) -> subprocess.Popen:
  """Start the launcher on a line of Python."""
  command = [sys.executable, str(LAUNCH / "local.py"), *options, "--", sys.executable, "-c", code]
  environment = os.environ | variables
  return subprocess.Popen(
    command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def test_each_process_gets_its_flags_and_devices_and_prefixes_its_lines():
  code = (
    "import os, sys; print(sys.argv[-1]); print('flags', sys.argv[1:-1]); "
    "print('devices', os.environ['XLA_FLAGS'], os.environ['JAX_PLATFORMS']); "
    "print('err', file=sys.stderr)"
  )
  process = launch_locally(code, "--processes=3", "--devices=4", XLA_FLAGS="--xla_a=1")
  out, err = process.communicate(timeout=60)
  assert process.returncode == 0
  lines = sorted(out.splitlines())
  assert [line for line in lines if "--process_id" in line] == [
    f"[{i}] --process_id={i}" for i in range(3)
  ]
  flags = {line[4:] for line in lines if "] flags" in line}
  assert len(flags) == 1
  assert re.fullmatch(
    r"flags \['--coordinator_address=127.0.0.1:\d+', '--num_processes=3'\]", flags.pop()
  )
  assert [line[4:] for line in lines if "] devices" in line] == [
    "devices --xla_a=1 --xla_force_host_platform_device_count=4 cpu"
  ] * 3
  assert sorted(err.splitlines()) == [f"[{i}] err" for i in range(3)]


def test_environment_selects_virtual_devices_or_one_accelerator():
  assert local.environment({"XLA_FLAGS": "--xla_a=1", "X": "y"}, 1, 4) == {
    "X": "y",
    "XLA_FLAGS": "--xla_a=1 --xla_force_host_platform_device_count=4",
    "JAX_PLATFORMS": "cpu",
  }
  assert local.environment({"X": "y"}, 1, None) == {"X": "y", "JAX_LOCAL_DEVICE_IDS": "1"}


def test_first_failure_sets_the_exit_code_and_ends_the_others():
  code = "import sys, time; i = sys.argv[-1][-1]; time.sleep(60 if i == '0' else 0); sys.exit(7)"
  processes = local.start([sys.executable, "-c", code], 2, None)
  with contextlib.ExitStack() as stack:
    for process in processes:
      stack.enter_context(process)
    start = time.monotonic()
    assert local.wait(processes, grace=0.5) == 7
    assert time.monotonic() - start < 30
    assert processes[0].returncode == -signal.SIGKILL


def test_signals_are_passed_on():
  code = (
    "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); "
    "print('ready', flush=True); time.sleep(60)"
  )
  process = launch_locally(code, "--processes=2")
  assert {process.stdout.readline(), process.stdout.readline()} == {"[0] ready\n", "[1] ready\n"}
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=30)
  assert process.returncode == 143
