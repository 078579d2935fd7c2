"""Several processes: how they are described, meet, share data and folders, and end together."""

import re
import signal
import sys
import time

import filelock
import pytest
import small_runs

from cifar_jax import errors
from cifar_jax.runs import locks
from cifar_jax.runtime import distributed
from launch import local


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
  """Takes away what importing JAX has set here, and what would be inherited."""
  monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)


# A small program of several processes; what it does is put in between.
PROGRAM = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from cifar_jax.runtime import distributed
flags = dict(part[2:].split("=") for part in sys.argv[1:])
index = int(flags["process_id"])
distributed.HEARTBEAT_TIMEOUT_SECONDS = 12
count = int(flags["num_processes"])
distributed.join(distributed.described(flags["coordinator_address"], count, index))
{code}
distributed.leave()
print("left")
"""


def together(code: str, count: int = 2) -> list:
  """Processes at work on some lines of Python, with `index` of each."""
  program = PROGRAM.format(root=str(small_runs.ROOT), code=code)
  return local.start([sys.executable, "-c", program], count, devices=1)


def outputs(running: list) -> list[tuple[int, str, str]]:
  """Exit code, standard output and error of each."""
  ended = [process.communicate(timeout=120) for process in running]
  return [
    (process.returncode, out.decode(), err.decode())
    for process, (out, err) in zip(running, ended, strict=True)
  ]


# --- How they are described ----------------------------------------------------------------------

CLUSTERS = "SLURM_ OMPI_ KUBERNETES_ JOB_COMPLETION_INDEX JAX_LOCAL_DEVICE_IDS"


@pytest.fixture
def environment(monkeypatch):
  """Sets variables, in an environment without a cluster's."""
  import os

  for name in list(os.environ):
    if name.startswith(tuple(CLUSTERS.split())):
      monkeypatch.delenv(name)
  return lambda **names: [monkeypatch.setenv(name, value) for name, value in names.items()]


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (("h:1", None, None), "--num_processes, --process_id: missing; --coordinator_address, --num"),
    ((None, 2, 0), "--coordinator_address: missing; "),
    (("h:1", 2, 2), "--process_id: 2 is none of 0 ... 1"),
    (("h:1", 2, -1), "--process_id: -1 is none of 0 ... 1"),
    (("h:1", 0, 0), "--num_processes: 0 must be at least 1"),
    (("h", 2, 0), "--coordinator_address: 'h' is not host:port"),
    (("h:port", 2, 0), "--coordinator_address: 'h:port' is not host:port"),
    (("h:65536", 2, 0), "--coordinator_address: 'h:65536' is not host:port"),
  ],
)
def test_wrong_flags_are_named(given, message):
  with pytest.raises(errors.UserError) as raised:
    distributed.described(*given)
  assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_flags_describe_the_group(environment):
  assert distributed.described("h:1", 2, 1) == distributed.Group("h:1", 2, 1, None)
  environment(JAX_LOCAL_DEVICE_IDS="2,3")
  assert distributed.described("[::1]:80", 2, 0) == distributed.Group("[::1]:80", 2, 0, [2, 3])


SLURM = {
  "SLURM_JOB_ID": "4097",
  "SLURM_STEP_NODELIST": "node[007-009]",
  "SLURM_NTASKS": "6",
  "SLURM_PROCID": "3",
  "SLURM_LOCALID": "1",
}
MPI = {
  "OMPI_MCA_orte_hnp_uri": "8192.0;tcp://10.0.0.1,10.0.0.2:34911",
  "OMPI_COMM_WORLD_SIZE": "4",
  "OMPI_COMM_WORLD_RANK": "2",
  "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


# The ports are JAX's choice: 61440 and a number made of the job's.
@pytest.mark.parametrize(
  ("variables", "group"),
  [
    (SLURM, distributed.Group("node007:61441", 6, 3, [1])),
    (MPI, distributed.Group("10.0.0.1:61442", 4, 2, [0])),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    ({"SLURM_NTASKS": "6", "SLURM_PROCID": "0"}, None),  # the batch script itself
    (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ({}, None),
  ],
)
def test_a_cluster_describes_the_group_if_it_started_several(environment, variables, group):
  environment(**variables)
  assert distributed.described(None, None, None) == group
  assert distributed.described(None, None, None, ask_cluster=False) is None


def test_an_mpi_that_jax_does_not_know(environment):
  environment(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
  with pytest.raises(errors.UserError, match=r"--num_processes=\$OMPI_COMM_WORLD_SIZE"):
    distributed.described(None, None, None)


# --- How they work and end together --------------------------------------------------------------


def test_one_prepares_the_shared_data_and_the_others_wait(tmp_path):
  code = f"""
import pathlib, input_pipeline
from small_runs import config
from cifar_jax.runtime import console
console.show_log()
for folder in ("shared", f"own{{index}}"):
  print(input_pipeline.load(config(pathlib.Path({str(tmp_path)!r}) / folder)).fingerprint)
"""
  (code0, out0, err0), (code1, out1, err1) = outputs(together(code))
  assert (code0, code1) == (0, 0), err0 + err1
  assert len(set(re.findall("[0-9a-f]{64}", out0 + out1))) == 1
  assert err0.count("preparing digits") == 2 and err1.count("preparing digits") == 1
  assert f"{tmp_path}/own1" in err1 and f"{tmp_path}/shared" not in err1


def test_a_workdir_that_is_not_shared_is_refused_and_who_refuses_ends_the_others(tmp_path):
  code = f"""
import time
from cifar_jax import errors
from cifar_jax.runs import run_folder
try:
  run_folder.RunFolder({str(tmp_path)!r} + "/shared", writer=index == 0).refuse_unshared()
  run_folder.RunFolder({str(tmp_path)!r} + f"/{{index}}", writer=index == 0).refuse_unshared()
except errors.UserError as error:
  print(error, file=sys.stderr)
  distributed.abandon(1)
time.sleep(100)
"""
  (code0, _, err0), (code1, _, err1) = outputs(together(code))
  assert (code0, code1) == (1, 1)
  assert err1.startswith(f"workdir: {tmp_path}/1 is not the folder of that name which the first")
  assert re.fullmatch(r"error: process 1 of 2, on \S+, is gone; the same command, .*\n", err0)


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_who_is_gone_is_named_by_all_others(victim, how):
  code = "print('ready', flush=True); import time; time.sleep(100)"
  running = together(code, count=3)
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


def test_all_leave_whoever_is_first():
  code = "import time; time.sleep(2 * (index == 1))"
  assert [(ended, out, err) for ended, out, err in outputs(together(code, count=3))] == [
    (0, "left\n", "")
  ] * 3


# --- File systems without locks ------------------------------------------------------------------


@pytest.mark.parametrize("number", locks._NO_LOCKS)
def test_where_there_are_no_locks_that_is_said_and_work_goes_on(
  number, tmp_path, monkeypatch, log_lines
):
  import fcntl

  def flock(descriptor, operation):
    raise OSError(number, "No locks available")

  monkeypatch.setattr(fcntl, "flock", flock)
  with locks.held(tmp_path / ".lock", pytest.fail):
    assert log_lines == [
      f"{tmp_path}: this file system has no locks (No locks available); see to it that nothing "
      "else writes there"
    ]


def test_a_lock_that_is_held_is_waited_for_or_not(tmp_path):
  def refuse():
    raise errors.UserError("busy")

  other = filelock.FileLock(tmp_path / ".lock")
  other.acquire()
  with pytest.raises(errors.UserError), locks.held(tmp_path / ".lock", refuse):
    pass
  with locks.held(tmp_path / ".lock", other.release):  # freed while it waits
    pass
