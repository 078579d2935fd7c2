"""launch/: the local launcher for real; the cluster's files as far as they can be read here."""

import contextlib
import re
import signal
import subprocess
import sys
import time

import pytest
import small_runs
import yaml

import main
from launch import local

LAUNCH = small_runs.ROOT / "launch"
PRINTS = "import sys; print(sys.argv[-1]); print('err', file=sys.stderr); "


def launched(code: str, *options: str) -> subprocess.Popen:
  """The launcher at work on a line of Python."""
  command = [sys.executable, str(LAUNCH / "local.py"), *options, "--", sys.executable, "-c", code]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_each_process_is_told_which_it_is_and_says_so_in_front_of_its_lines():
  process = launched(PRINTS + "print(sys.argv[1:3])", "--processes=3")
  out, err = process.communicate(timeout=60)
  lines = sorted(out.splitlines())
  assert process.returncode == 0
  assert [line for line in lines if "--process_id" in line] == [
    f"[{i}] --process_id={i}" for i in range(3)
  ]
  flags = {line[4:] for line in lines if "coordinator" in line}
  assert len(flags) == 1
  assert re.search(r"--coordinator_address=127.0.0.1:\d+', '--num_processes=3'", flags.pop())
  assert sorted(err.splitlines()) == [f"[{i}] err" for i in range(3)]


def test_devices_are_shared_out():
  cpu = local.environment({"XLA_FLAGS": "--xla_a=1", "X": "y"}, 1, 4)
  assert cpu["XLA_FLAGS"] == "--xla_a=1 --xla_force_host_platform_device_count=4"
  assert cpu["JAX_PLATFORMS"] == "cpu" and cpu["X"] == "y"
  assert local.environment({"X": "y"}, 1, None) == {"X": "y", "JAX_LOCAL_DEVICE_IDS": "1"}


def test_the_first_failure_decides_and_ends_the_others():
  code = "import sys, time; i = sys.argv[-1][-1]; time.sleep(60 if i == '0' else 0); sys.exit(7)"
  running = local.start([sys.executable, "-c", code], 2, None)
  with contextlib.ExitStack() as stack:
    for process in running:
      stack.enter_context(process)
    start = time.monotonic()
    assert local.wait(running, grace=0.5) == 7
    assert time.monotonic() - start < 30
    assert running[0].returncode == -signal.SIGKILL


def test_signals_are_passed_on():
  code = (
    "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); "
    "print('ready', flush=True); time.sleep(60)"
  )
  process = launched(code, "--processes=2")
  assert {process.stdout.readline(), process.stdout.readline()} == {"[0] ready\n", "[1] ready\n"}
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=30)
  assert process.returncode == 143


def test_the_jobset_says_the_same_number_everywhere():
  jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
  assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  (workers,) = jobset["spec"]["replicatedJobs"]
  job = workers["template"]["spec"]
  (container,) = job["template"]["spec"]["containers"]
  flags = dict(part.removeprefix("--").split("=", 1) for part in container["command"][2:])
  assert all(name in main.flags.FLAGS for name in flags)
  assert workers["replicas"] == 1 and job["completionMode"] == "Indexed"
  assert job["parallelism"] == job["completions"] == int(flags["num_processes"])
  assert flags["process_id"] == "$(JOB_COMPLETION_INDEX)"
  name, port = jobset["metadata"]["name"], container["ports"][0]["containerPort"]
  assert flags["coordinator_address"] == f"{name}-{workers['name']}-0-0.{name}:{port}"
  assert job["backoffLimit"] == 0 and jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
  assert (small_runs.ROOT / flags["config"]).exists()


@pytest.mark.parametrize("name", ["slurm.sh", "tpu_pod.sh"])
def test_scripts_are_whole(name):
  assert subprocess.run(["bash", "-n", LAUNCH / name]).returncode == 0
  assert (LAUNCH / name).stat().st_mode & 0o111


FAKE = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $*" in
  srun*) exit "$SRUN_CODE" ;;
  *describe*) echo ACTIVE ;;
esac
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
  """Stand-ins for the clusters' commands, which note how they are called."""
  for name in ("srun", "scontrol", "gcloud"):
    (tmp_path / name).write_text(FAKE)
    (tmp_path / name).chmod(0o755)
  monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
  monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
  return tmp_path / "calls"


@pytest.mark.parametrize("code", [0, 1, 143])
def test_slurm_requeues_what_was_saved_and_nothing_else(fakes, monkeypatch, code):
  monkeypatch.setenv("SRUN_CODE", str(code))
  monkeypatch.setenv("SLURM_JOB_ID", "77")
  done = subprocess.run([LAUNCH / "slurm.sh", "--config=c.py", "--workdir=/a b"])
  assert done.returncode == code
  calls = fakes.read_text().splitlines()
  assert calls[0].endswith("main.py --config=c.py --workdir=/a b")
  assert calls[1:] == (["scontrol requeue 77"] if code == 143 else [])


def test_every_worker_of_a_pod_gets_the_command_as_it_was_typed(fakes, monkeypatch):
  monkeypatch.setenv("PROJECT", "p")
  monkeypatch.setenv("ZONE", "z")
  subprocess.run([LAUNCH / "tpu_pod.sh", "create"], check=True)
  workdir = "--workdir=gs://b/a run"
  subprocess.run([LAUNCH / "tpu_pod.sh", "run", "--config=c.py", workdir], check=True)
  calls = fakes.read_text().splitlines()
  assert "queued-resources create cifar-jax --project=p --zone=z" in calls[0]
  assert "--accelerator-type=v4-16 --runtime-version=tpu-ubuntu2204-base" in calls[0]
  assert "--worker=all --command=cd cifar-jax" in calls[-1]
  assert calls[-1].endswith(r"main.py --config=c.py --workdir=gs://b/a\ run ")
  wrong = subprocess.run([LAUNCH / "tpu_pod.sh"], capture_output=True, text=True)
  assert wrong.returncode == 2 and "launch/tpu_pod.sh create" in wrong.stderr
