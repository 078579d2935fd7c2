"""Watching a run: heartbeat lines, a trace of chosen steps, memory, and a stop at loss spikes."""

import datetime
import pathlib
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath

from cifar_jax import errors
from cifar_jax.runtime.console import log

HEARTBEAT_SECONDS = 60.0  # where there is no terminal, and so no progress bar


class Heartbeat:
  """A line in the log now and then: where the run stands, how fast it is, when it will end.

  It is told of steps that are done and waits for none, so it is as fine as dispatches are.

  Args:
    seconds: between two lines; 0 means none, and None 60 where there is no terminal, else none.
    step: steps done before; those of a resumed run count for no speed.
    total_steps, steps_per_epoch: of the run.
    images_per_step: over all devices and seeds.
    clock: seconds; those that it leaves out, such as compiling, are in no figure.
  """

  def __init__(
    self,
    seconds: float | None,
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    images_per_step: int,
    clock: Callable[[], float] = time.monotonic,
  ):
    if seconds is None:
      seconds = 0.0 if sys.stderr.isatty() else HEARTBEAT_SECONDS
    self._seconds, self._clock, self._images_per_step = seconds, clock, images_per_step
    self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
    self._step = step
    self._start = self._told = (step, clock())

  def advance(self, steps: int, loss: float) -> None:
    """`steps` more steps are done, the last with the loss `loss`."""
    self._step += steps
    now = self._clock()
    step_told, time_told = self._told
    if not self._seconds or now - time_told < self._seconds or self._step == self._total_steps:
      return
    speed = (self._step - step_told) * self._images_per_step / (now - time_told)
    step_first, time_first = self._start
    seconds_a_step = (now - time_first) / (self._step - step_first)  # validation is in it
    left = datetime.timedelta(seconds=round((self._total_steps - self._step) * seconds_a_step))
    epoch, epochs = (-(-n // self._steps_per_epoch) for n in (self._step, self._total_steps))
    log.info(
      "%s",
      f"step {self._step:,} of {self._total_steps:,}, epoch {epoch} of {epochs}, "
      f"{speed:,.0f} images/s, loss {loss:.4f}, {left} left",
    )
    self._told = (self._step, now)


def parse_steps(text: str) -> tuple[int, int] | None:
  """The steps first:last that --profile names, counted from 1, both included; None for ''.

  Raises:
    UserError: it names none.
  """
  if not text:
    return None
  if re.fullmatch(r"[0-9]+:[0-9]+", text):
    first, last = map(int, text.split(":"))
    if 1 <= first <= last:
      return first, last
  raise errors.UserError(
    f"--profile: {text!r} must be steps first:last, counted from 1, such as 100:110"
  )


class Trace:
  """A trace of chosen steps by JAX's profiler. It begins and ends between dispatches.

  The device is waited for at both ends, so that the trace has whole dispatches and no others.

  Args:
    steps: first and last, from 1, both included; None for no trace.
    folder: where it is written; made if it is not there.
    total_steps: of the run.

  Raises:
    UserError: the run has no such steps.
  """

  def __init__(self, steps: tuple[int, int] | None, folder: epath.Path, total_steps: int):
    if steps and steps[1] > total_steps:
      raise errors.UserError(
        f"--profile: {steps[0]}:{steps[1]} is beyond the {total_steps} steps of the run"
      )
    self._steps, self._folder = steps, folder
    self._began: int | None = None  # the step before the first that is traced, while tracing
    self._at = 0

  def before(self, step: int, count: int, state: Any) -> None:
    """Steps `step` + 1 to `step` + `count` are next; `state` is what they start from."""
    if self._steps is None or self._began is not None or step + count < self._steps[0]:
      return
    first, last = self._steps
    if step >= last:
      log.warning("--profile: steps %d to %d were done before; nothing is traced", first, last)
      self._steps = None
      return
    jax.block_until_ready(state)
    # Perfetto's file is written by means that know local folders only.
    jax.profiler.start_trace(self._folder, create_perfetto_trace="://" not in str(self._folder))
    self._began = self._at = step

  def after(self, step: int, state: Any) -> None:
    """`step` steps are dispatched, and `state` is what they lead to."""
    if self._began is None:
      return
    self._at = step
    if step >= self._steps[1]:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """Ends the trace, if there is one, and says where it is."""
    if self._began is None:
      return
    jax.profiler.stop_trace()
    log.info(
      "traced steps %d to %d (whole dispatches; asked for %d:%d) in %s; open its "
      "perfetto_trace.json.gz at https://ui.perfetto.dev, or pip install xprof; xprof --logdir=%s",
      self._began + 1,
      self._at,
      *self._steps,
      self._folder,
      self._folder,
    )
    self._began = self._steps = None


def loss_spike(
  before: Sequence[float | None], loss: float, factor: float, epochs: int
) -> float | None:
  """The median that an epoch's training loss exceeds `factor` times; None if it does not.

  Args:
    before: the training losses of the epochs before, from the first; None or NaN are not counted.
    loss: of this epoch.
    factor: 0 means never.
    epochs: the median is over so many of the last.
  """
  known = [value for value in before[-epochs:] if value is not None and value == value]
  if not factor or not known:
    return None
  median = statistics.median(known)
  return median if loss > factor * median else None


def refuse_spike(before: Sequence[float | None], loss: float, config: Any, folder: Any) -> None:
  """Ends the run if `config.stop_on_spike` says so.

  Raises:
    UserError: `loss`, of the epoch after `before`, is a spike.
  """
  factor, epochs = config.factor, config.epochs
  if (median := loss_spike(before, loss, factor, epochs)) is not None:
    raise errors.UserError(
      f"loss: {loss:.4g} in epoch {len(before) + 1} is more than {factor:g} times {median:.4g}, "
      f"the median of the last {min(epochs, len(before))} epochs, at which stop_on_spike ends a "
      "run; lower optimizer.learning_rate or set optimizer.clip_norm, with another workdir; the "
      f"last good checkpoint stays in {folder}"
    )


def memory() -> dict[str, Any]:
  """The most memory used since this process started, in bytes.

  Returns:
    'process_peak_bytes', None where the system does not tell, and of devices that tell (no CPU
    does) 'device_peak_bytes', a list over the local ones, and 'device_limit_bytes' of one.
  """
  found: dict[str, Any] = {"process_peak_bytes": _process_peak()}
  stats = [device.memory_stats() for device in jax.local_devices()]
  if all(s and "peak_bytes_in_use" in s for s in stats):
    found["device_peak_bytes"] = [s["peak_bytes_in_use"] for s in stats]
    found["device_limit_bytes"] = stats[0].get("bytes_limit")
  return found


def memory_line(found: dict[str, Any]) -> str:
  """What `memory` returns, to read; '' if nothing is known."""
  parts = []
  if "device_peak_bytes" in found:
    text = f"at most {max(found['device_peak_bytes']) / 2**30:.2f} GiB"
    if limit := found["device_limit_bytes"]:
      text += f" of {limit / 2**30:.2f} GiB"
    parts.append(f"{text} on a device")
  if found["process_peak_bytes"]:
    parts.append(f"at most {found['process_peak_bytes'] / 2**30:.2f} GiB in the process")
  return ", ".join(parts)


def _process_peak() -> int | None:
  # Linux' ru_maxrss can be that of the program which started this one; VmHWM cannot.
  try:
    status = pathlib.Path("/proc/self/status").read_text()
  except OSError:
    status = ""
  if found := re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE):
    return int(found[1]) * 1024
  try:
    import resource
  except ImportError:  # Windows
    return None
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
