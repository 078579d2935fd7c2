"""Several processes as one run: joining them, noticing that one is gone, and leaving together.

JAX's distributed runtime does the work: it introduces the processes to each other, watches their
heartbeats and carries barriers. What is added here is how a run ends when one of them dies. Left
alone the runtime aborts the others with a C++ stack trace. Here the first process keeps its service
in the mode in which it only takes note of the dead (`jax_enable_recoverability`), and every process
asks it now and then who is alive. The service's own end aborts a client at once, whatever the mode,
so the others reach it through a relay of their own, which sees the connection end before JAX does.
"""

import collections
import contextlib
import importlib.util
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cifar_jax import errors

# A process is gone when nothing was heard of it for so long.
HEARTBEAT_TIMEOUT_SECONDS = 40
# Likewise the first, of which the others hear every few seconds. JAX waits for its answer to a
# heartbeat for half of the time, and then aborts; this is less, so that it is told of here.
_SILENCE = 0.45
_ASK_SECONDS = 2.0
_LAST_WORDS_SECONDS = 5.0
# Read when JAX is imported: no warning of C++ that the mode above is experimental.
_QUIET = ("TF_CPP_MIN_LOG_LEVEL", "2")
_DAY_MILLISECONDS = 24 * 3600 * 1000  # preparing a data set takes its time; the dead are noticed
_uses: collections.Counter[str] = collections.Counter()
_leaving = threading.Event()
_alone = threading.Event()
_threads: list[threading.Thread] = []
_group: "Group | None" = None


class Group(NamedTuple):
  """The processes of a run.

  Attributes:
    address: host:port of the first, where the others meet.
    count: how many there are.
    index: which this is, from 0.
    local_devices: the accelerators of this host that are this process's; None for all.
  """

  address: str
  count: int
  index: int
  local_devices: Sequence[int] | None = None


def described(
  address: str | None, count: int | None, index: int | None, ask_cluster: bool = True
) -> Group | None:
  """The group that the command line describes, or else the cluster; None for a lone process.

  Args:
    address, count, index: --coordinator_address, --num_processes and --process_id.
    ask_cluster: whether JAX may look for a cluster: Cloud TPU, SLURM, Open MPI, Kubernetes.

  Raises:
    UserError: some of the three are missing or impossible, or the cluster cannot be understood.
  """
  given = {"coordinator_address": address, "num_processes": count, "process_id": index}
  missing = [f"--{name}" for name, value in given.items() if value is None]
  if len(missing) == len(given):
    return _of_cluster() if ask_cluster else None
  if missing:
    raise errors.UserError(
      f"{', '.join(missing)}: missing; --coordinator_address, --num_processes and --process_id go "
      "together"
    )
  host, _, port = address.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise errors.UserError(f"--coordinator_address: {address!r} is not host:port")
  if count < 1:
    raise errors.UserError(f"--num_processes: {count} must be at least 1")
  if not 0 <= index < count:
    raise errors.UserError(f"--process_id: {index} is none of 0 ... {count - 1}")
  os.environ.setdefault(*_QUIET)
  devices = os.environ.get("JAX_LOCAL_DEVICE_IDS")  # as jax.distributed.initialize reads it
  return Group(address, count, index, devices and list(map(int, devices.split(","))))


def _of_cluster() -> Group | None:
  """What JAX's cluster detection finds, where it may find more than one process."""
  tasks = max(int(os.environ.get(name) or 1) for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
  # Asking Kubernetes takes its client and the right to list pods; launch/jobset.yaml needs neither.
  pods = "JOB_COMPLETION_INDEX" in os.environ and importlib.util.find_spec("kubernetes")
  if tasks > 1 or pods:
    os.environ.setdefault(*_QUIET)
  from jax._src import cloud_tpu_init, clusters

  on_tpu = cloud_tpu_init.running_in_cloud_tpu_vm and not os.environ.get(
    "JAX_PLATFORMS", ""
  ).startswith("cpu")
  if not (on_tpu or tasks > 1 or pods):
    return None
  try:
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
      None, None, None, None, None, initialization_timeout=300
    )
  except (RuntimeError, OSError, KeyError, ValueError) as error:
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    raise errors.UserError(
      f"--coordinator_address: JAX cannot read this cluster ({reason}); give the address, "
      "--num_processes and --process_id"
    ) from error
  address, count, index, devices = found
  if count is None and int(os.environ.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
    raise errors.UserError(
      "--coordinator_address: JAX does not read this version of Open MPI; give "
      "--coordinator_address=host:port --num_processes=$OMPI_COMM_WORLD_SIZE "
      "--process_id=$OMPI_COMM_WORLD_RANK"
    )
  return Group(address, count, index, devices) if count and count > 1 else None


def join(group: Group) -> None:
  """Joins the other processes, and from now on ends this one when one of them is gone.

  Raises:
    UserError: they did not all come.
  """
  global _group
  import jax

  jax.config.update("jax_enable_recoverability", True)
  jax.config.update("jax_enable_preemption_service", False)  # interruption.py answers SIGTERM
  address = group.address if group.index == 0 else _relay(group)
  try:
    jax.distributed.initialize(
      address,
      group.count,
      group.index,
      local_device_ids=group.local_devices,
      cluster_detection_method="deactivate",
      heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
    )
  except RuntimeError as error:
    raise errors.UserError(
      f"--coordinator_address: not all {group.count} processes met at {group.address} "
      f"({str(error).splitlines()[0]})"
    ) from error
  _group = group
  client = _client()
  client.key_value_set(f"host/{group.index}", socket.gethostname())
  client.wait_at_barrier("joined", 300_000)  # every host's name is there
  hosts = dict(client.key_value_dir_get("host/"))
  for work, args in ((_watch, (client, group, hosts)), (_keep_talking, (client, group))):
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    _threads.append(thread)


def joined() -> bool:
  """Whether this process is one of several."""
  return _group is not None


def leave() -> None:
  """Waits for the others to come to their end; to be called when everything is saved.

  The first process stays until the others have gone, for it holds the service.
  """
  if _group is None:
    return
  import jax

  _leaving.set()  # before the barrier: who has passed it may go, since all have set this
  with contextlib.suppress(RuntimeError, ValueError):  # one died, of which the watch has told
    _client().wait_at_barrier("leaving", 600_000)
  if _group.index == 0:
    _alone.wait(timeout=20)
  jax.distributed.shutdown()
  for thread in _threads:  # Python ends badly while one of them waits in C++
    thread.join(timeout=10)


@contextlib.contextmanager
def first_goes_first(name: str) -> Iterator[None]:
  """Lets the first process through a block before the others enter theirs."""
  if _group is None:
    yield
    return
  if _group.index == 0:
    yield
  _client().wait_at_barrier(_nth(f"after/{name}"), _DAY_MILLISECONDS)
  if _group.index:
    yield


def same_as_first(name: str, value: Callable[[], str]) -> bool:
  """Whether this process has the first one's `value`, which the others ask for after the first."""
  if _group is None:
    return True
  key = _nth(f"value/{name}")
  if _group.index == 0:
    _client().key_value_set(key, value())
    return True
  return _client().blocking_key_value_get(key, _DAY_MILLISECONDS) == value()


def await_verdict() -> None:
  """Gives the watch time to end this process, whose work failed perhaps because a peer is gone."""
  time.sleep(HEARTBEAT_TIMEOUT_SECONDS + 15)


def abandon(code: int) -> None:
  """Ends this process at once: an ordinary exit would wait for work that the others never join."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _client():
  from jax._src import distributed

  return distributed.global_state.client


def _nth(name: str) -> str:
  """A name for the next use of `name`: a sweep trains several runs."""
  _uses[name] += 1
  return f"{name}/{_uses[name]}"


def _watch(client, group: Group, hosts: dict[str, str]) -> None:
  """Asks again and again who is alive; each answer comes when all that are have asked."""
  everyone = list(range(group.count))
  first = None
  try:
    while True:
      live = client.get_live_nodes(everyone)
      first = first or live
      if _leaving.is_set():
        if live.keys() <= {0}:
          _alone.set()
          return
      elif lost := [i for i in everyone if i not in live or live[i] != first.get(i)]:
        _end(group, lost[0], hosts[f"host/{lost[0]}"])
      _leaving.wait(_ASK_SECONDS)
      if _leaving.is_set():
        time.sleep(0.1)
  except (RuntimeError, ValueError):
    return  # the service does not answer: so says the relay, or it is over


def _keep_talking(client, group: Group) -> None:
  """Has the first process answer every few seconds, since `_watch` may wait long for the others."""
  with contextlib.suppress(RuntimeError, ValueError):
    while not _leaving.wait(_ASK_SECONDS):
      client.key_value_try_get(f"host/{group.index}")


def _end(group: Group, index: int, host: str) -> None:
  who = f"process {index} of {group.count}, on {host}, is gone"
  if index == group.index:  # it was frozen, say, and the others have given it up
    who = f"this process, {index} of {group.count}, was silent for too long"
  print(f"error: {who}; the same command, on all of them again, resumes", file=sys.stderr)
  if group.index == 0:  # with the service gone at once, the others would take this one for the lost
    time.sleep(_LAST_WORDS_SECONDS)
  abandon(1)


def _relay(group: Group) -> str:
  """Starts passing connections on to the first process; returns the address to connect to."""
  host, port = group.address.rsplit(":", 1)
  listener = socket.create_server(("127.0.0.1", 0))

  def accept() -> None:
    while True:
      near, _ = listener.accept()
      try:
        far = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
      except OSError:  # not there yet: JAX tries again
        near.close()
        continue
      far.settimeout(_SILENCE * HEARTBEAT_TIMEOUT_SECONDS)
      threading.Thread(target=_pump, args=(near, far), daemon=True).start()
      threading.Thread(target=from_first, args=(far, near), daemon=True).start()

  def from_first(far: socket.socket, near: socket.socket) -> None:
    _pump(far, near)
    if _group is not None and not _leaving.is_set():
      _end(group, 0, host)
    near.close()

  threading.Thread(target=accept, daemon=True).start()
  return f"127.0.0.1:{listener.getsockname()[1]}"


def _pump(source: socket.socket, sink: socket.socket) -> None:
  """Copies bytes until either side ends, or `source` has been silent for its timeout."""
  with contextlib.suppress(OSError):
    while data := source.recv(1 << 16):
      sink.sendall(data)
