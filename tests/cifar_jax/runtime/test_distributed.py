"""Several processes: they meet, share data and folders, and end together."""

import re
import signal
import subprocess
import sys
import time

import jax
import pytest
import small_runs
from jax._src import distributed as jax_distributed
from jax._src.lib import _jax

from cifar_jax.runtime import distributed
from launch import local

# A small program of several processes; {code} is what each of them does.
PROGRAM = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from cifar_jax.runtime import distributed, process_group
flags = dict(part[2:].split("=") for part in sys.argv[1:])
index, count = int(flags["process_id"]), int(flags["num_processes"])
distributed.HEARTBEAT_TIMEOUT_SECONDS = 12
distributed.join(process_group.resolve_process_group(flags["coordinator_address"], count, index))
{code}
distributed.leave()
print("left")
"""


def start_processes(code: str, count: int = 2) -> list[subprocess.Popen]:
  """Start processes that run lines of Python, in which `index` is the number of the process."""
  program = PROGRAM.format(root=str(small_runs.ROOT), code=code)
  return local.start([sys.executable, "-c", program], count, devices=1)


def outputs(running: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
  """Return the exit code, the standard output and the standard error of each process."""
  ended = [process.communicate(timeout=120) for process in running]
  return [
    (process.returncode, out.decode(), err.decode())
    for process, (out, err) in zip(running, ended, strict=True)
  ]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
  """Removes what importing JAX has set here, and what the processes would inherit."""
  monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)


@pytest.mark.parametrize("name", [n for n in vars(distributed.Client) if not n.startswith("_")])
def test_methods_of_the_private_client_exist(name):
  """A failure names what a new version of JAX lacks; distributed.py needs another way to it."""
  assert callable(getattr(_jax.DistributedRuntimeClient, name))


def test_private_parts_of_jax_exist():
  assert jax_distributed.global_state.client is None  # no process has joined here
  for option in ("jax_enable_recoverability", "jax_enable_preemption_service"):
    assert hasattr(jax.config, option)


def test_one_process_prepares_shared_data_while_the_others_wait(tmp_path):
  code = f"""
import pathlib, input_pipeline
from small_runs import config
from cifar_jax.runtime import console
console.show_log()
for folder in ("shared", f"private{{index}}"):
  print(input_pipeline.load(config(pathlib.Path({str(tmp_path)!r}) / folder)).fingerprint)
"""
  (code0, out0, err0), (code1, out1, err1) = outputs(start_processes(code))
  assert (code0, code1) == (0, 0), err0 + err1
  assert len(set(re.findall("[0-9a-f]{64}", out0 + out1))) == 1
  assert err0.count("preparing digits") == 2 and err1.count("preparing digits") == 1
  assert f"{tmp_path}/private1" in err1 and f"{tmp_path}/shared" not in err1


def test_a_workdir_that_is_not_shared_is_refused_and_the_other_process_ends(tmp_path):
  code = f"""
import time
from cifar_jax import errors
from cifar_jax.runs import run_folder
try:
  run_folder.RunFolder({str(tmp_path)!r} + "/shared", writer=index == 0).raise_if_unshared()
  run_folder.RunFolder({str(tmp_path)!r} + f"/{{index}}", writer=index == 0).raise_if_unshared()
except errors.UserError as error:
  print(error, file=sys.stderr)
  distributed.abandon(1)
time.sleep(100)
"""
  (code0, _, err0), (code1, _, err1) = outputs(start_processes(code))
  assert (code0, code1) == (1, 1)
  assert err1.startswith(f"workdir: {tmp_path}/1 is not the folder that the first")
  assert re.fullmatch(r"error: process 1 of 2, on \S+, is gone; start the same command .*\n", err0)


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_all_others_name_the_dead_process(victim, how):
  code = "print('ready', flush=True); import time; time.sleep(100)"
  running = start_processes(code, count=3)
  for process in running:
    while b"ready" not in process.stdout.readline():
      pass
  start = time.monotonic()
  running[victim].send_signal(how)
  survivors = [i for i in range(3) if i != victim]
  for i, (ended, _, err) in zip(survivors, outputs([running[i] for i in survivors]), strict=True):
    assert ended == 1, err
    assert err.startswith(f"error: process {victim} of 3, on "), (i, err)
    assert err.count("\n") == 1
  assert time.monotonic() - start < 60
  running[victim].kill()
  running[victim].communicate()


def test_all_processes_leave_whichever_is_first():
  code = "import time; time.sleep(2 * (index == 1))"
  assert outputs(start_processes(code, count=3)) == [(0, "left\n", "")] * 3
