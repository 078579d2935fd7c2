"""Programs that need more memory than there is are refused before they run."""

import types

import jax
import numpy as np
import pytest

from cifar_jax import errors
from cifar_jax.runtime import device_memory
from cifar_jax.runtime.device_memory import Room
from cifar_jax.training.compiled_steps import CompiledSteps, replicate

GIB = 2**30
REMEDY = ("batch_size", "set remat=True")


def stats(gib):
  """Return the sizes of a program that adds so many GiB to its arguments."""
  return types.SimpleNamespace(
    temp_size_in_bytes=int(gib * GIB), output_size_in_bytes=GIB, alias_size_in_bytes=GIB
  )


def test_a_device_refuses_what_cannot_fit_and_a_cpu_what_never_can(monkeypatch, log_lines):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(device_memory, "find_room", lambda: Room(16 * GIB, 10 * GIB, True))
  device_memory.check(stats(8), *REMEDY)
  assert not log_lines
  device_memory.check(stats(9.5), *REMEDY)
  text = "batch_size: the program needs 9.50 GiB more on each device, where 10.00 of 16.00 GiB are "
  assert log_lines == [f"{text}free, so it may fail; set remat=True"]
  with pytest.raises(errors.UserError, match=r"needs 11\.00 GiB more .* are free; set remat=True$"):
    device_memory.check(stats(11), *REMEDY)

  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  monkeypatch.setattr(jax, "local_device_count", lambda: 2)
  monkeypatch.setattr(device_memory, "find_room", lambda: Room(16 * GIB, 10 * GIB, False))
  device_memory.check(stats(7), *REMEDY)  # other processes may end
  assert "needs 14.00 GiB more in memory, where 10.00 of 16.00" in log_lines[-1]
  with pytest.raises(errors.UserError, match=r"needs 18\.00 GiB more in memory"):
    device_memory.check(stats(9), *REMEDY)


def test_a_state_that_can_never_fit_is_refused(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  monkeypatch.setattr(jax, "local_device_count", lambda: 2)
  monkeypatch.setattr(device_memory, "find_room", lambda: Room(16 * GIB, 10 * GIB, False))
  device_memory.check_state(8 * GIB, "model", "take a smaller network")
  with pytest.raises(errors.UserError, match=r"^model: .* 18\.00 GiB, more than the 16\.00 GiB"):
    device_memory.check_state(9 * GIB, "model", "take a smaller network")
  monkeypatch.setattr(device_memory, "find_room", lambda: None)
  device_memory.check_state(9 * GIB, "model", "take a smaller network")
  with pytest.raises(errors.UserError, match=r"the 1,048,576\.00 GiB of memory; take"):
    device_memory.check_state(2**63, "model", "take a smaller network")


def test_the_device_with_the_least_room_counts(monkeypatch):
  devices = [
    types.SimpleNamespace(memory_stats=lambda used=used: {"bytes_limit": 9, "bytes_in_use": used})
    for used in (2, 5)
  ]
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  assert device_memory.find_room() == Room(9, 4, True)
  devices.append(types.SimpleNamespace(memory_stats=lambda: None))
  assert device_memory.find_room() is None


@pytest.mark.parametrize(
  ("groups", "files"),
  [
    (
      "1:cpu:/x\n0::/job/step\n",
      {
        "job/memory.max": "1000",
        "job/memory.current": "700",
        "job/memory.stat": "anon 400\ninactive_file 200\n",
        "job/step/memory.max": "max",
        "job/step/memory.current": "600",
        "job/step/memory.stat": "inactive_file 0\n",
      },
    ),
    (
      "4:memory:/job\n",
      {
        "memory/job/memory.limit_in_bytes": "1000",
        "memory/job/memory.usage_in_bytes": "700",
        "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
      },
    ),
  ],
  ids=["version 2", "version 1"],
)
def test_the_limits_of_control_groups(monkeypatch, tmp_path, groups, files):
  for name, content in files.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
  monkeypatch.setattr(device_memory, "_CGROUPS", tmp_path)
  assert list(device_memory._list_limits(groups)) == [(1000, 500)]


def test_this_host_reports_its_memory():
  room = device_memory.find_room()
  assert room is not None
  assert 0 < room.free <= room.total


def test_a_program_is_compared_with_the_memory_and_compiled_once(monkeypatch):
  compiled, seen = [], []
  original = jax._src.compiler.backend_compile_and_load
  monkeypatch.setattr(
    jax._src.compiler,
    "backend_compile_and_load",
    lambda *arguments, **options: compiled.append(1) or original(*arguments, **options),
  )
  monkeypatch.setattr(device_memory, "check", lambda stats, *remedy: seen.append((stats, remedy)))
  steps = CompiledSteps(
    *(lambda *_: None,) * 4, num_seeds=1, steps_per_epoch=1, remedies={"train": REMEDY}
  )
  state, shard = (
    replicate(np.zeros(1000, np.float32)),
    np.zeros((jax.device_count(), 1), np.float32),
  )
  compiled.clear()
  for _ in range(2):
    state, _ = steps._call(
      ("train", 1),
      lambda state, shard, _: (state + shard.sum(), state.sum()),
      True,
      state,
      shard,
      0,
    )
  assert len(compiled) == 1
  ((stats, remedy),) = seen
  assert remedy == REMEDY
  assert stats.alias_size_in_bytes == 4000  # the donated state
