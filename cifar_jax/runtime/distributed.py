"""Several processes as one run: they join, notice when one of them dies, and leave together.

JAX's distributed runtime introduces the processes to each other, watches their heartbeats and
carries barriers. When a process dies, the runtime aborts all others with a C++ stack trace. This
module ends them with one line instead:

- The first process runs the runtime's service in the mode that only records dead processes
  (`jax_enable_recoverability`), and every process regularly asks it which processes are alive.
- The end of the service itself aborts its clients in any mode. The other processes therefore reach
  it through a local relay, which notices the end of the connection before JAX does.
"""

import collections
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, Protocol

from cifar_jax import errors
from cifar_jax.runtime.process_group import Group

# A process that sends no heartbeat for this long counts as dead.
HEARTBEAT_TIMEOUT_SECONDS = 40
# The first process counts as dead after this share of the timeout without an answer. JAX waits for
# an answer to a heartbeat for half of the timeout and then aborts; this is less.
_SILENCE = 0.45
_ASK_SECONDS = 2.0
_LAST_WORDS_SECONDS = 5.0
_DAY_MILLISECONDS = 24 * 3600 * 1000  # preparing a dataset is slow; deaths are noticed anyway
_uses: collections.Counter[str] = collections.Counter()
_leaving = threading.Event()
_alone = threading.Event()
_threads: list[threading.Thread] = []
_group: Group | None = None


class Client(Protocol):
  """The methods of JAX's client of the coordination service that this module needs.

  They are private in JAX, which has no public key-value store or barrier without a device.
  tests/cifar_jax/runtime/test_distributed.py names any method that a new version of JAX lacks.
  """

  def key_value_set(self, key: str, value: str) -> None: ...
  def key_value_dir_get(self, key: str) -> Sequence[tuple[str, str]]: ...
  def key_value_try_get(self, key: str) -> str: ...
  def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...
  def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None: ...
  def get_live_nodes(self, process_ids: Sequence[int]) -> Mapping[int, int]: ...


def join(group: Group) -> None:
  """Join the other processes, and start to watch them: this process ends when one of them dies.

  Raises:
    UserError: not all processes met in time.
  """
  global _group
  import jax

  jax.config.update("jax_enable_recoverability", True)
  jax.config.update("jax_enable_preemption_service", False)  # signals.py handles SIGTERM
  address = group.address if group.index == 0 else _start_relay(group)
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
      f"({errors.first_line(error)}); start the same command in each of them"
    ) from error
  _group = group
  client = _client()
  client.key_value_set(f"host/{group.index}", socket.gethostname())
  client.wait_at_barrier("joined", 300_000)  # after it every host's name is set
  hosts = dict(client.key_value_dir_get("host/"))
  for target, args in ((_watch, (client, group, hosts)), (_keep_in_touch, (client, group))):
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    _threads.append(thread)


def joined() -> bool:
  """Return whether this process is one of several."""
  return _group is not None


def leave() -> None:
  """Wait for the other processes to finish; call this when everything is saved.

  The first process stays until the others have left, because it holds the service.
  """
  if _group is None:
    return
  import jax

  _leaving.set()  # before the barrier: once it is passed, all have set this and may exit
  with contextlib.suppress(RuntimeError, ValueError):  # one died, which the watch has reported
    _client().wait_at_barrier("leaving", 600_000)
  if _group.index == 0:
    _alone.wait(timeout=20)
  jax.distributed.shutdown()
  for thread in _threads:  # Python crashes at exit if one of them still waits in C++
    thread.join(timeout=10)


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
  """Let the first process finish a block before the other processes enter theirs."""
  if _group is None:
    yield
    return
  if _group.index == 0:
    yield
  _client().wait_at_barrier(unique_name(f"after/{name}"), _DAY_MILLISECONDS)
  if _group.index:
    yield


def value_of_first(name: str, value: Callable[[], str]) -> str:
  """Return the first process's `value()`, which no other process calls."""
  if _group is None:
    return value()
  key = unique_name(f"value/{name}")
  if _group.index == 0:
    first_value = value()
    _client().key_value_set(key, first_value)
    return first_value
  return _client().blocking_key_value_get(key, _DAY_MILLISECONDS)


def same_as_first(name: str, value: Callable[[], str]) -> bool:
  """Return whether `value()` is equal here and in the first process, which calls it first."""
  first_value = value_of_first(name, value)
  return _group is None or _group.index == 0 or first_value == value()


def publish(name: str, value: str) -> None:
  """Publish this process's `value` under `name`; `published` returns those of all processes."""
  assert _group is not None
  _client().key_value_set(f"{name}/{_group.index}", value)


def published(name: str) -> list[str]:
  """Return what the processes have published under `name` so far."""
  return [value for _, value in _client().key_value_dir_get(f"{name}/")]


def await_verdict() -> None:
  """Give the watch time to end this process, whose error may mean that another process died."""
  time.sleep(HEARTBEAT_TIMEOUT_SECONDS + 15)


def abandon(code: int) -> NoReturn:
  """End this process at once; an ordinary exit would wait for the other processes' work."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _client() -> Client:
  from jax._src import distributed  # see Client

  client: Client | None = distributed.global_state.client
  assert client is not None, "join() has not been called"
  return client


def unique_name(name: str) -> str:
  """Return a new name for each use of `name`, because a sweep trains several runs."""
  _uses[name] += 1
  return f"{name}/{_uses[name]}"


def _watch(client: Client, group: Group, hosts: Mapping[str, str]) -> None:
  """Ask repeatedly which processes are alive; the answer comes once all of them have asked."""
  everyone = list(range(group.count))
  # An error means that the service has ended: the relay reports that, or the run is over.
  with contextlib.suppress(RuntimeError, ValueError):
    first = live = client.get_live_nodes(everyone)
    while not _leaving.is_set():
      # A restarted process answers with a different number than at first.
      if lost := [i for i in everyone if i not in live or live[i] != first.get(i)]:
        _end(group, lost[0], hosts[f"host/{lost[0]}"])
      _leaving.wait(_ASK_SECONDS)
      live = client.get_live_nodes(everyone)
    while live.keys() - {0}:
      time.sleep(0.1)
      live = client.get_live_nodes(everyone)
    _alone.set()


def _keep_in_touch(client: Client, group: Group) -> None:
  """Ask the first process something every few seconds, because `_watch` may wait for long."""
  with contextlib.suppress(RuntimeError, ValueError):
    while not _leaving.wait(_ASK_SECONDS):
      client.key_value_try_get(f"host/{group.index}")


def _end(group: Group, index: int, host: str) -> NoReturn:
  lost = f"process {index} of {group.count}, on {host}, is gone"
  if index == group.index:  # this process was frozen, say, and counts as dead
    lost = f"this process, {index} of {group.count}, was silent for too long"
  print(f"error: {lost}; start the same command in every process to resume", file=sys.stderr)
  if group.index == 0:  # the others need the service to learn which process died
    time.sleep(_LAST_WORDS_SECONDS)
  abandon(1)


def _start_relay(group: Group) -> str:
  """Start forwarding connections to the first process; return the address to connect to."""
  host, port = group.address.rsplit(":", 1)
  listener = socket.create_server(("127.0.0.1", 0))

  def accept() -> None:
    while True:
      near, _ = listener.accept()
      try:
        far = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
      except OSError:  # the first process has not started; JAX tries again
        near.close()
        continue
      far.settimeout(_SILENCE * HEARTBEAT_TIMEOUT_SECONDS)
      threading.Thread(target=_pump, args=(near, far), daemon=True).start()
      threading.Thread(target=pump_answers, args=(far, near), daemon=True).start()

  def pump_answers(far: socket.socket, near: socket.socket) -> None:
    _pump(far, near)
    if _group is not None and not _leaving.is_set():
      _end(group, 0, host)
    near.close()

  threading.Thread(target=accept, daemon=True).start()
  return f"127.0.0.1:{listener.getsockname()[1]}"


def _pump(source: socket.socket, sink: socket.socket) -> None:
  """Copy bytes until either side ends, or `source` has been silent for its timeout."""
  with contextlib.suppress(OSError):
    while data := source.recv(1 << 16):
      sink.sendall(data)
