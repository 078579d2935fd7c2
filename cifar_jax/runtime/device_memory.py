"""Whether a compiled program fits the memory of the devices, before it runs."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from cifar_jax import errors
from cifar_jax.runtime.console import log

_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_CLOSE = 0.9  # the share of the free memory above which a program may fail
_NO_MACHINE = 2**50  # bytes, more than any machine has; XLA aborts the process if sizes overflow


class Room(NamedTuple):
  """The memory of a device, or of the host for its CPU devices together, in bytes.

  Attributes:
    total: the most that a process can have.
    free: what is unused now.
    is_certain: whether a program that needs more than `free` is certain to fail. On CPU the system
      may swap, and other processes may end.
  """

  total: int
  free: int
  is_certain: bool

  @property
  def limit(self) -> int:
    """The need above which a program fails for certain."""
    return self.free if self.is_certain else self.total


def check(stats: Any, field: str, remedy: str) -> None:
  """Compare the additional memory that a program needs with the free memory.

  Nothing is checked where the system does not report its memory.

  Args:
    stats: the result of `compiled.memory_analysis()`. The arguments are in memory already.
    field: the config field for the message.
    remedy: what the user can do, for the message.

  Raises:
    UserError: the program cannot run.
  """
  room = find_room()
  if room is None:
    return
  need = stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
  where = "on each device"
  if jax.default_backend() == "cpu":
    need, where = need * jax.local_device_count(), "in memory"
  text = (
    f"{field}: the program needs {need / 2**30:.2f} GiB more {where}, where "
    f"{room.free / 2**30:.2f} of {room.total / 2**30:.2f} GiB are free"
  )
  if need > room.limit:
    raise errors.UserError(f"{text}; {remedy}")
  if need > _CLOSE * room.free:
    log.warning("%s, so it may fail; %s", text, remedy)


def check_state(num_bytes: int, field: str, remedy: str) -> None:
  """Compare the size of a training state, which each device holds, with the memory.

  Raises:
    UserError: the state can never fit.
  """
  room = find_room() or Room(_NO_MACHINE, _NO_MACHINE, False)
  need = num_bytes * (jax.local_device_count() if jax.default_backend() == "cpu" else 1)
  if need > room.limit:
    raise errors.UserError(
      f"{field}: the weights and the optimizer's state take {need / 2**30:,.2f} GiB, more "
      f"than the {room.limit / 2**30:,.2f} GiB of memory; {remedy}"
    )


def find_room() -> Room | None:
  """Return the memory of the device with the least of it; None if the system does not report it."""
  if jax.default_backend() == "cpu":
    return _find_host_room()
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if not all("bytes_limit" in s and "bytes_in_use" in s for s in stats):
    return None
  rooms = [Room(s["bytes_limit"], s["bytes_limit"] - s["bytes_in_use"], True) for s in stats]
  return min(rooms, key=lambda room: room.free)


def _find_host_room() -> Room | None:
  try:
    text = pathlib.Path("/proc/meminfo").read_text()
    groups = pathlib.Path("/proc/self/cgroup").read_text()
  except OSError:  # not Linux
    return None
  lines = re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)
  sizes = {name: 1024 * int(kb) for name, kb in lines}
  if not {"MemTotal", "MemAvailable"} <= sizes.keys():
    return None
  total, free = sizes["MemTotal"], sizes["MemAvailable"]
  for limit, used in _list_limits(groups):
    total, free = min(total, limit), min(free, max(limit - used, 0))
  return Room(total + sizes.get("SwapTotal", 0), free, False)


def _list_limits(groups: str) -> Iterator[tuple[int, int]]:
  """Yield the limit and usage of this process's memory control groups and of their parents.

  The usage excludes files that the kernel can drop.

  Args:
    groups: the content of /proc/self/cgroup, with lines such as '0::/path' or '4:memory:/path'.
  """
  for line in groups.splitlines():
    _, controllers, path = line.split(":", 2)
    if controllers == "memory":  # version 1
      root, names = _CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
      inactive = "total_inactive_file"
    elif not controllers:
      root, names, inactive = _CGROUPS, ("memory.max", "memory.current"), "inactive_file"
    else:
      continue
    relative = pathlib.PurePosixPath(path.lstrip("/"))
    for part in (relative, *relative.parents):
      try:
        limit, used = ((root / part / name).read_text().strip() for name in names)
        stat = (root / part / "memory.stat").read_text()
      except OSError:  # a group of another namespace
        continue
      if limit.isdecimal():  # 'max' means no limit
        match = re.search(rf"^{inactive} (\d+)$", stat, re.MULTILINE)
        yield int(limit), int(used) - (int(match[1]) if match else 0)
