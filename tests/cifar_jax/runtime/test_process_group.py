"""Which processes form a run: the flags, and the variables of each cluster."""

import inspect
import os

import pytest
from jax._src import cloud_tpu_init, clusters, hardware_utils

from cifar_jax import errors
from cifar_jax.runtime import process_group
from cifar_jax.runtime.process_group import Group, resolve_process_group

CLUSTERS = ("SLURM_", "OMPI_", "KUBERNETES_", "JOB_COMPLETION_INDEX", "JAX_LOCAL_DEVICE_IDS")


@pytest.fixture
def environment(monkeypatch):
  """Sets variables, in an environment without those of a cluster."""
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")  # which resolve_process_group sets
  for name in list(os.environ):
    if name.startswith(CLUSTERS):
      monkeypatch.delenv(name)
  return lambda **names: [monkeypatch.setenv(name, value) for name, value in names.items()]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ("h:1", None, None),
      "--num_processes, --process_id: missing; pass --coordinator_address, ",
    ),
    ((None, 2, 0), "--coordinator_address: missing; pass "),
    (("h:1", 2, 2), "--process_id: 2 must be in 0 ... 1"),
    (("h:1", 2, -1), "--process_id: -1 must be in 0 ... 1"),
    (("h:1", 0, 0), "--num_processes: 0 must be at least 1"),
    (("h", 2, 0), "--coordinator_address: 'h' must be host:port"),
    (("h:port", 2, 0), "--coordinator_address: 'h:port' must be host:port"),
    (("h:65536", 2, 0), "--coordinator_address: 'h:65536' must be host:port"),
  ],
)
def test_wrong_flags_are_named(flags, message):
  with pytest.raises(errors.UserError) as raised:
    resolve_process_group(*flags)
  assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_flags_describe_the_group(environment):
  assert resolve_process_group("h:1", 1, 0) is None
  assert resolve_process_group("h:1", 2, 1) == Group("h:1", 2, 1, None)
  environment(JAX_LOCAL_DEVICE_IDS="2,3")
  assert resolve_process_group("[::1]:80", 2, 0) == Group("[::1]:80", 2, 0, [2, 3])


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


# JAX derives the ports from the numbers of the jobs, above 61440.
@pytest.mark.parametrize(
  ("variables", "group"),
  [
    (SLURM, Group("node007:61441", 6, 3, [1])),
    (MPI, Group("10.0.0.1:61442", 4, 2, [0])),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    ({"SLURM_NTASKS": "6", "SLURM_PROCID": "0"}, None),  # the batch script itself
    (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ({}, None),
  ],
)
def test_a_cluster_describes_the_group_if_it_started_several(environment, variables, group):
  environment(**variables)
  assert resolve_process_group(None, None, None) == group
  assert resolve_process_group(None, 1, None) is None


def test_an_mpi_that_jax_does_not_know(environment):
  environment(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
  with pytest.raises(errors.UserError, match=r"--num_processes=\$OMPI_COMM_WORLD_SIZE"):
    resolve_process_group(None, None, None)


def test_a_lone_worker_of_a_tpu_pod_is_refused(environment, monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setattr(hardware_utils, "num_available_tpu_chips_and_device_id", lambda: (4, None))
  # libtpu is missing here, so JAX does not see the pod.
  with pytest.raises(errors.UserError, match=r"^libtpu: missing, but .* 4 TPU chips") as raised:
    resolve_process_group(None, None, None)
  assert "\n" not in str(raised.value)
  environment(JAX_PLATFORMS="cpu")
  assert resolve_process_group(None, None, None) is None
  environment(JAX_PLATFORMS="tpu,cpu")
  assert resolve_process_group("h:1", 2, 1) == Group("h:1", 2, 1)
  assert resolve_process_group(None, 1, None) is None


def test_a_lone_pod_of_an_indexed_job_is_refused(environment, monkeypatch):
  monkeypatch.setattr(process_group.importlib.util, "find_spec", lambda name: None)
  environment(JOB_COMPLETION_INDEX="0")  # may be the only one
  assert resolve_process_group(None, None, None) is None
  environment(JOB_COMPLETION_INDEX="3")
  with pytest.raises(errors.UserError, match=r"^--coordinator_address: missing, .* is pod 3 of"):
    resolve_process_group(None, None, None)
  assert resolve_process_group(None, 1, None) is None


def test_private_parts_of_jax_exist():
  """A failure names what a new version of JAX lacks; process_group.py needs another way to it."""
  assert isinstance(cloud_tpu_init.running_in_cloud_tpu_vm, bool)
  num_chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
  assert isinstance(num_chips, int)
  detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
  inspect.signature(detect).bind(None, None, None, None, None, initialization_timeout=300)
