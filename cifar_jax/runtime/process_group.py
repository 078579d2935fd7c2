"""Which processes form a run: from the command line, or from the cluster that started them."""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence

from cifar_jax import errors

# JAX reads this when it is imported. It hides C++ warnings, one of which says that the mode in
# which `distributed` runs the coordination service is experimental.
_QUIET = ("TF_CPP_MIN_LOG_LEVEL", "2")
_DETECTION_TIMEOUT_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Group:
  """The processes of a run: at least two.

  Attributes:
    address: host:port of the first process, where the processes meet.
    count: the number of processes.
    index: the number of this process, from 0.
    local_devices: the accelerators of this host that belong to this process; None for all.
  """

  address: str
  count: int
  index: int
  local_devices: Sequence[int] | None = None


def resolve_process_group(
  address: str | None, count: int | None, index: int | None
) -> Group | None:
  """Return the group from the command line or the cluster, or None for a single process.

  Args:
    address, count, index: --coordinator_address, --num_processes and --process_id. Without them,
      JAX looks for a cluster: Cloud TPU, SLURM, Open MPI, Kubernetes. A count of 1 without
      an address means a single process in a cluster, such as a worker of a sweep.

  Raises:
    UserError: only some of the three flags are given, one is invalid, or JAX cannot read the
      cluster.
  """
  if address is None and count is None and index is None:
    return _detect_cluster()
  if address is None and count == 1 and not index:
    return None
  if address is None or count is None or index is None:
    values = {"coordinator_address": address, "num_processes": count, "process_id": index}
    missing = ", ".join(f"--{name}" for name, value in values.items() if value is None)
    raise errors.UserError(
      f"{missing}: missing; pass --coordinator_address, --num_processes and --process_id together"
    )
  host, _, port = address.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise errors.UserError(f"--coordinator_address: {address!r} must be host:port")
  if count < 1:
    raise errors.UserError(f"--num_processes: {count} must be at least 1")
  if not 0 <= index < count:
    raise errors.UserError(f"--process_id: {index} must be in 0 ... {count - 1}")
  if count == 1:
    return None
  os.environ.setdefault(*_QUIET)
  devices = os.environ.get("JAX_LOCAL_DEVICE_IDS")  # as jax.distributed.initialize reads it
  return Group(address, count, index, [int(i) for i in devices.split(",")] if devices else None)


def _detect_cluster() -> Group | None:
  """Return the group that JAX's cluster detection finds, if it has more than one process."""
  num_tasks = max(
    int(os.environ.get(name) or 1) for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
  )
  # JAX asks Kubernetes through the package `kubernetes`, which needs permission to list pods.
  # launch/jobset.yaml passes the three flags and needs neither.
  has_pods = "JOB_COMPLETION_INDEX" in os.environ and importlib.util.find_spec("kubernetes")
  if num_tasks > 1 or has_pods:
    os.environ.setdefault(*_QUIET)
  # Private modules, since the public jax.distributed.initialize detects the cluster and joins it in
  # one step, without returning the address. test_process_group.py tests what this function needs.
  from jax._src import cloud_tpu_init, clusters

  on_cpu = os.environ.get("JAX_PLATFORMS", "").startswith("cpu")
  on_tpu = cloud_tpu_init.running_in_cloud_tpu_vm and not on_cpu
  if not (on_tpu or num_tasks > 1 or has_pods):
    _raise_if_lone()
    return None
  try:
    address, count, index, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
      None, None, None, None, None, initialization_timeout=_DETECTION_TIMEOUT_SECONDS
    )
  except (RuntimeError, OSError, KeyError, ValueError) as error:
    raise errors.UserError(
      f"--coordinator_address: JAX cannot read this cluster ({errors.first_line(error)}); pass "
      "--coordinator_address, --num_processes and --process_id"
    ) from error
  if count is None and int(os.environ.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
    raise errors.UserError(
      "--coordinator_address: JAX cannot read this version of Open MPI; pass "
      "--coordinator_address=host:port --num_processes=$OMPI_COMM_WORLD_SIZE "
      "--process_id=$OMPI_COMM_WORLD_RANK"
    )
  if address is None or count is None or count < 2:
    return None
  return Group(address, count, index or 0, devices)


def _raise_if_lone() -> None:
  """Raise UserError if this process may be one of several workers that do not know of each other.

  Each would train alone and write to the same run folder.
  """
  from jax._src import hardware_utils  # private, and tested like those of _detect_cluster

  platforms = os.environ.get("JAX_PLATFORMS", "")
  num_chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
  if num_chips and (not platforms or "tpu" in platforms):
    raise errors.UserError(
      f"libtpu: missing, but this machine has {num_chips} TPU chips, and without libtpu the "
      "workers of a pod do not find each other; install 'jax[tpu]', or set JAX_PLATFORMS=cpu to "
      "leave the TPU unused"
    )
  if int(os.environ.get("JOB_COMPLETION_INDEX") or 0) > 0:
    raise errors.UserError(
      "--coordinator_address: missing, but this is pod "
      f"{os.environ['JOB_COMPLETION_INDEX']} of an indexed job; pass --coordinator_address, "
      "--num_processes and --process_id, as launch/jobset.yaml does"
    )
