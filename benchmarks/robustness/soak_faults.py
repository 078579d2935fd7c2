"""What happens to runs: each function disturbs the run of a place, which is then run to its end."""

import contextlib
import functools
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import numpy as np

from benchmarks.robustness.soak_run import EPOCHS, LIMIT, STEPS, Place, Wrong

# Python runs it at its start. (libfaketime also breaks waits by the monotonic clock, which no
# change of the time does.)
_CLOCK = """
import os, time

_time = time.time
def jumped():
  with open(os.environ["CLOCK"]) as file:
    return _time() + float(file.read())
time.time = jumped
time.time_ns = lambda: int(jumped() * 1e9)
"""


class Missed(Exception):
  """The run was over before the fault could strike; another try is needed."""


class Skipped(Exception):
  """This machine cannot have the fault; says why."""


def preparation(at: Place, rng: np.random.Generator) -> None:
  at.data = at.folder / "data"
  _kill_after(at, lambda: (at.data / "digits" / "prepare.lock").exists(), rng.uniform(0, 2))


def compilation(at: Place, rng: np.random.Generator) -> None:
  at.cache = at.folder / "cache"
  _kill_after(at, lambda: " parameters, " in at.said(), rng.uniform(0, 8))


def training(at: Place, rng: np.random.Generator) -> None:
  _kill_after(at, lambda: " parameters, " in at.said(), rng.uniform(0, 3))


def checkpoint(at: Place, rng: np.random.Generator) -> None:
  newest = at.newest("latest") + STEPS * int(rng.integers(EPOCHS))
  holds = lambda: at.newest("latest") >= newest and at.is_writing()  # noqa: E731
  _kill_after(at, holds, rng.uniform(0, 0.05))


def evaluation(at: Place, rng: np.random.Generator) -> None:
  _kill_after(at, lambda: f"epoch {EPOCHS}/{EPOCHS}" in at.said(), rng.uniform(0, 0.6))


def any_time(at: Place, rng: np.random.Generator) -> None:
  _kill_after(at, lambda: True, rng.uniform(0, 6))


def _kill_after(at: Place, holds: Callable[[], object], seconds: float) -> None:
  at.start()
  if at.wait_for(holds):
    time.sleep(seconds)
  if not at.kill():
    raise Missed


def sigterm(at: Place, rng: np.random.Generator) -> None:
  at.start()
  at.wait_for(lambda: f"epoch 1/{EPOCHS}" in at.said())
  time.sleep(rng.uniform(0, 0.5))
  if not at.kill(signal.SIGTERM):
    raise Missed
  if not at.end(128 + signal.SIGTERM).endswith("saved; the same command resumes\n"):
    raise Wrong("SIGTERM: it does not say that it has saved")


def damaged_checkpoint(how: str, at: Place, rng: np.random.Generator) -> None:
  """Kills the run when there are two checkpoints, and damages a file of the newest."""
  at.start()
  if not at.wait_for(lambda: len(at.steps("latest")) > 1) or not at.kill():
    raise Missed
  which = str(rng.choice(["latest", "best"]))
  _damage(at.workdir / "checkpoints" / which / f"{at.newest(which):08}", how, rng)
  at.run_to_the_end(damaged=which == "latest")


def damaged_cache(at: Place, rng: np.random.Generator) -> None:
  """Kills the run, and damages a file of the decoded images."""
  at.data = pathlib.Path(shutil.copytree(at.data, at.folder / "data"))
  training(at, rng)
  (folder,) = (at.data / "digits").glob("decoded-*")
  _damage(folder, str(rng.choice(["truncated", "flipped", "missing"])), rng)
  if "preparing digits" not in at.run_to_the_end():
    raise Wrong("the damage is not noticed")


def _damage(folder: pathlib.Path, how: str, rng: np.random.Generator) -> None:
  files = sorted(f for f in folder.rglob("*") if f.is_file() and f.stat().st_size)
  file = files[rng.integers(len(files))]
  content = bytearray(file.read_bytes())
  position = int(rng.integers(len(content)))
  if how == "missing":
    file.unlink()
  elif how == "truncated":
    file.write_bytes(content[:position])
  else:
    content[position] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)


def full_disk(at: Place, rng: np.random.Generator) -> None:
  """The run folder's disk has room for a part of the run."""
  _disk(at, at.workdir, f"size={int(rng.integers(40, 500))}k")
  at.start()
  _told_full(at)
  _mount("-o", "remount,size=1g", str(at.workdir))


def full_at_metrics(at: Place, rng: np.random.Generator) -> None:
  """The disk is full from the end of an epoch on, when metrics.jsonl is written next."""
  _disk(at, at.workdir, "size=64m")
  at.start()
  at.wait_for(lambda: f"epoch 1/{EPOCHS}" in at.said() and not at.is_writing())
  with (at.workdir / "filler").open("wb", buffering=0) as filler:
    for size in (1 << 20, 1 << 12, 1):
      with contextlib.suppress(OSError):
        while True:
          filler.write(bytes(size))
  _told_full(at)
  (at.workdir / "filler").unlink()


def full_at_decoded(at: Place, rng: np.random.Generator) -> None:
  """The data's disk has room for a part of the decoded images."""
  at.data = at.folder / "data"
  _disk(at, at.data, f"size={int(rng.integers(40, 5000))}k")
  at.start()
  _told_full(at)
  _mount("-o", "remount,size=1g", str(at.data))


def _told_full(at: Place) -> None:
  if at.process.wait(LIMIT) == 0:
    raise Missed
  said = at.end(1)
  if "No space left on device" not in said and "make room" not in said:
    raise Wrong("a full disk is not told")


def read_only(at: Place, rng: np.random.Generator) -> None:
  """The run folder cannot be written: from the first, or when it should be resumed."""
  at.workdir.mkdir()
  if rng.integers(2):
    training(at, rng)
  _mount("--bind", str(at.workdir), str(at.workdir))
  with contextlib.ExitStack() as undo:
    undo.callback(subprocess.run, ["umount", str(at.workdir)], check=True)
    _mount("-o", "remount,bind,ro", str(at.workdir))
    at.start()
    at.end(1)


def second_run(at: Place, rng: np.random.Generator) -> None:
  """Another run is started on the folder, and refused."""
  at.start()
  time.sleep(rng.uniform(0, 1))
  at.wait_for(lambda: " parameters, " in at.said())
  first = at.process
  try:
    at.start()
    if "another run is writing" not in at.end(1):
      raise Wrong("the second run is not told why")
  finally:
    at.process = first
    if first.wait(LIMIT):
      raise Wrong("the first run failed")


def clock_jumps(at: Place, rng: np.random.Generator) -> None:
  """The clock goes back or on by up to years, while it runs and between two starts."""
  (at.folder / "sitecustomize.py").write_text(_CLOCK)
  at.environment = {"PYTHONPATH": str(at.folder), "CLOCK": str(at.folder / "clock")}

  def jump() -> None:
    seconds = rng.choice([-1, 1]) * 10 ** rng.uniform(0, 8)
    (at.folder / "new").write_text(str(seconds))
    (at.folder / "new").replace(at.folder / "clock")

  jump()
  at.start()
  for epoch in range(1, EPOCHS):
    at.wait_for(lambda epoch=epoch: f"epoch {epoch}/{EPOCHS}" in at.said())
    jump()
  if not at.kill():
    raise Missed
  jump()


# File systems of their own.


def _mount(*arguments: str) -> None:
  done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
  if done.returncode:
    raise Skipped(f"mounting is not permitted ({done.stderr.strip()})")


def _disk(at: Place, folder: pathlib.Path, options: str) -> None:
  folder.mkdir()
  _mount("-t", "tmpfs", "-o", options, "tmpfs", str(folder))
  at.undo.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)


# --- By name -------------------------------------------------------------------------------------

KILLS = {
  "preparation": preparation,
  "compilation": compilation,
  "training": training,
  "checkpoint": checkpoint,
  "evaluation": evaluation,
  "any time": any_time,
}
OTHERS = {
  "SIGTERM": sigterm,
  "checkpoint truncated": functools.partial(damaged_checkpoint, "truncated"),
  "checkpoint flipped": functools.partial(damaged_checkpoint, "flipped"),
  "checkpoint file missing": functools.partial(damaged_checkpoint, "missing"),
  "decoded cache damaged": damaged_cache,
  "full disk: run folder": full_disk,
  "full disk: metrics": full_at_metrics,
  "full disk: decoded cache": full_at_decoded,
  "read-only run folder": read_only,
  "two runs at once": second_run,
  "clock jumps": clock_jumps,
}
