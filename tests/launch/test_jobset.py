"""launch/jobset.yaml and jobset_sweep.yaml: numbers and names, and the commands of the pods."""

import sys

import pytest
import small_runs
import yaml

from tuning.parsing import parse


def read(name):
  return yaml.safe_load((small_runs.ROOT / "launch" / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def jobset():
  return read("jobset")


def test_jobset_repeats_its_numbers_and_names_consistently(jobset):
  assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  (workers,) = jobset["spec"]["replicatedJobs"]
  job = workers["template"]["spec"]
  (container,) = job["template"]["spec"]["containers"]
  flags = dict(part.removeprefix("--").split("=", 1) for part in container["command"][2:])
  assert workers["replicas"] == 1 and job["completionMode"] == "Indexed"
  assert job["parallelism"] == job["completions"] == int(flags["num_processes"])
  assert flags["process_id"] == "$(JOB_COMPLETION_INDEX)"
  name, port = jobset["metadata"]["name"], container["ports"][0]["containerPort"]
  assert flags["coordinator_address"] == f"{name}-{workers['name']}-0-0.{name}:{port}"
  assert job["backoffLimit"] == 0 and jobset["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_evictions_do_not_count_as_failures(jobset):
  (rule,) = jobset["spec"]["failurePolicy"]["rules"]
  assert rule == {
    "action": "RestartJobSetAndIgnoreMaxRestarts",
    "onJobFailureReasons": ["PodFailurePolicy"],
  }
  job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
  evicted, stopped = job["podFailurePolicy"]["rules"]
  assert evicted["action"] == stopped["action"] == "FailJob"
  # JobSet's API, other than Kubernetes', does not fill in the status.
  assert evicted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
  (container,) = job["template"]["spec"]["containers"]
  exit_codes = {"containerName": container["name"], "operator": "In", "values": [128 + 15]}
  assert stopped["onExitCodes"] == exit_codes
  assert job["template"]["spec"]["restartPolicy"] == "Never"  # which podFailurePolicy needs


@pytest.mark.parametrize("name", ["jobset", "jobset_sweep"])
def test_pods_have_volumes_and_resources(name):
  pod = read(name)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  (container,) = pod["containers"]
  mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
  assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
  assert {"name": "TFDS_DATA_DIR", "value": mounts["data"]} in container["env"]
  requests, limits = container["resources"]["requests"], container["resources"]["limits"]
  assert limits.items() <= requests.items() and "cpu" in requests
  assert {"memory", "ephemeral-storage", "nvidia.com/gpu"} <= limits.keys()
  assert pod["terminationGracePeriodSeconds"] >= 30


def test_workers_of_a_sweep_share_a_volume_and_restart_alone():
  (workers,) = read("jobset_sweep")["spec"]["replicatedJobs"]
  job = workers["template"]["spec"]
  (container,) = job["template"]["spec"]["containers"]
  assert any(part.startswith("--workdir=/sweeps/") for part in container["command"])
  mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
  (volume,) = [v for v in job["template"]["spec"]["volumes"] if v["name"] == mounts["/sweeps"]]
  assert "persistentVolumeClaim" in volume and "--num_processes=1" in container["command"]
  assert job["backoffLimit"] > job["parallelism"] == job["completions"]
  (text,) = [p.removeprefix("--sweep=") for p in container["command"] if p.startswith("--sweep=")]
  assert len(parse(text).trials) == 4


@pytest.mark.parametrize("name", ["jobset", "jobset_sweep"])
def test_main_accepts_the_command_of_a_pod(name):
  (workers,) = read(name)["spec"]["replicatedJobs"]
  (container,) = workers["template"]["spec"]["template"]["spec"]["containers"]
  # Kubernetes replaces $(NAME) with the variable of this name.
  command = [part.replace("$(JOB_COMPLETION_INDEX)", "3") for part in container["command"]]
  assert command[:2] == ["python", "main.py"]
  # main.py reads flags and config before it refuses a further argument, and starts no JAX for that.
  completed = small_runs.run([sys.executable, *command[1:], "further"])
  assert completed.returncode == 1
  assert completed.stderr.startswith("error: further: not understood")
