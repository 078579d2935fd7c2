"""Monitoring of a run: heartbeat lines, traces of steps, peak memory and loss spikes."""

import dataclasses
import datetime
import math
import pathlib
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.runtime.console import log
from cifar_jax.types import Row

HEARTBEAT_SECONDS = 60.0  # if there is no terminal, and therefore no progress bar


class Heartbeat:
  """Log a line regularly: the position of the run, its speed and the time left.

  Never blocks on the device, so it reports at most once per dispatch.

  Args:
    seconds: seconds between two lines; 0 for no lines; None for 60, or no lines on a terminal.
    step: the number of steps before this start; a resumed run excludes them from the speed.
    total_steps: the number of steps of the run.
    steps_per_epoch: the number of steps of an epoch.
    images_per_step: the number of images of a step, over all devices and seeds.
    clock: returns seconds; the speed and the time left ignore what it excludes, such as compiling.
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
    self._start = self._last_line = (step, clock())

  def advance(self, steps: int, loss: float) -> None:
    """Record finished steps, the last with the loss `loss`; log a line if one is due."""
    self._step += steps
    now = self._clock()
    last_step, last_time = self._last_line
    if not self._seconds or now - last_time < self._seconds or self._step == self._total_steps:
      return
    speed = (self._step - last_step) * self._images_per_step / (now - last_time)
    first_step, first_time = self._start
    seconds_per_step = (now - first_time) / (self._step - first_step)  # includes validation
    left = datetime.timedelta(seconds=round((self._total_steps - self._step) * seconds_per_step))
    epoch, num_epochs = (-(-n // self._steps_per_epoch) for n in (self._step, self._total_steps))
    log.info(
      "%s",
      f"step {self._step:,} of {self._total_steps:,}, epoch {epoch} of {num_epochs}, "
      f"{speed:,.0f} images/s, loss {loss:.4f}, {left} left",
    )
    self._last_line = (self._step, now)


@dataclasses.dataclass
class Clock:
  """Seconds of training, without those spent compiling.

  The clock runs from the start of the first epoch. An epoch ends where the next one begins, so
  that validation, saving and drawing count.

  Attributes:
    compile_seconds: returns the seconds spent compiling so far.
    finished: seconds of the finished epochs.
    current: seconds of the current epoch before this start of the program.
  """

  compile_seconds: Callable[[], float]
  finished: float = 0.0
  current: float = 0.0
  _start: float = 0.0

  def start(self) -> None:
    """Begin the first epoch, or continue the current one."""
    self._start = time.monotonic() - self.current - self.compile_seconds()

  def read(self) -> float:
    """Return the seconds of the current epoch."""
    return time.monotonic() - self._start - self.compile_seconds()

  def end_epoch(self) -> float:
    """Return the seconds of the current epoch, count it as finished, and begin the next one."""
    seconds = self.read()
    self.finished += seconds
    self._start += seconds
    return seconds

  def total(self) -> float:
    """Return the seconds of all epochs, including the current one."""
    return self.finished + self.read()

  def to_array(self) -> np.ndarray:
    """Return the array for checkpoints: [seconds of finished epochs, of the current epoch]."""
    return np.array([self.finished, self.read()])


def parse_steps(text: str) -> tuple[int, int] | None:
  """Return the first and the last step that --profile names, counted from 1; None for ''.

  Raises:
    UserError: the text is not of the form first:last.
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
  """Trace steps with JAX's profiler, from the start of one dispatch to the end of another.

  Blocks on the device at both ends, so that the trace holds whole dispatches and no others.

  Args:
    steps: the first and the last step, counted from 1; None for no trace.
    folder: the folder of the trace; created if needed.
    total_steps: the number of steps of the run.

  Raises:
    UserError: the run has fewer steps.
  """

  def __init__(self, steps: tuple[int, int] | None, folder: epath.Path, total_steps: int):
    if steps and steps[1] > total_steps:
      raise errors.UserError(
        f"--profile: {steps[0]}:{steps[1]} is beyond the {total_steps} steps of the run; trace "
        "earlier steps"
      )
    self._steps, self._folder = steps, folder
    self._start: int | None = None  # while tracing, the number of steps before the trace
    self._end = 0

  def before(self, step: int, count: int, state: Any) -> None:
    """Start the trace if it must include a step of the next dispatch.

    Args:
      step: the number of steps before the dispatch.
      count: the number of steps in the dispatch.
      state: the state that the dispatch starts from.
    """
    if self._steps is None or self._start is not None or step + count < self._steps[0]:
      return
    first, last = self._steps
    if step >= last:
      log.warning(
        "--profile: steps %d to %d ran before the run was resumed; nothing is traced", first, last
      )
      self._steps = None
      return
    jax.block_until_ready(state)
    # JAX writes Perfetto's file to local folders only.
    jax.profiler.start_trace(self._folder, create_perfetto_trace="://" not in str(self._folder))
    self._start = self._end = step

  def after(self, step: int, state: Any) -> None:
    """End the trace if the `step` steps that lead to `state` include its last step."""
    if self._steps is None or self._start is None:
      return
    self._end = step
    if step >= self._steps[1]:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """End the trace, if there is one, and log its folder."""
    if self._steps is None or self._start is None:
      return
    jax.profiler.stop_trace()
    log.info(
      "traced steps %d to %d (whole dispatches; asked for %d:%d) in %s; open its "
      "perfetto_trace.json.gz at https://ui.perfetto.dev, or pip install xprof; xprof --logdir=%s",
      self._start + 1,
      self._end,
      *self._steps,
      self._folder,
      self._folder,
    )
    self._start = self._steps = None


def raise_if_nan(bad_step: np.ndarray, steps_per_epoch: int, checkpoints: epath.Path) -> None:
  """Raise UserError if the loss of every seed has become NaN or infinite.

  Args:
    bad_step: [] or [seeds], the first step with such a loss, or -1.
    checkpoints: the folder that holds the last good checkpoint, for the message.
  """
  bad_steps = np.atleast_1d(bad_step)
  if (bad_steps >= 0).all():
    step = int(bad_steps.min())
    raise errors.UserError(
      f"loss: became NaN or infinite at step {step + 1} (epoch {step // steps_per_epoch + 1}); "
      "lower optimizer.learning_rate or set optimizer.clip_norm, with another workdir; the last "
      f"good checkpoint stays in {checkpoints}"
    )


def exceeded_median(
  before: Sequence[float], loss: float, factor: float, epochs: int
) -> float | None:
  """Return the median loss if an epoch's training loss is more than `factor` times it; else None.

  Args:
    before: the training losses of all earlier epochs; NaN is skipped.
    loss: the training loss of this epoch.
    factor: the factor; 0 means that no loss is a spike.
    epochs: the number of most recent epochs in the median.
  """
  known = [value for value in before[-epochs:] if not math.isnan(value)]
  if not factor or not known:
    return None
  median = statistics.median(known)
  return median if loss > factor * median else None


def raise_if_spike(
  rows: Sequence[Row],
  train_loss: np.ndarray,
  config: ml_collections.ConfigDict,
  folder: epath.Path,
) -> None:
  """Raise UserError if a training loss is a spike according to `config`.

  With several seeds, the losses compared are means over the seeds whose loss is finite.

  Args:
    rows: the rows of metrics.jsonl of all earlier epochs.
    train_loss: [] or [seeds], the training loss of this epoch.
    config: the section `stop_on_spike` of the config.
    folder: the folder of the checkpoints, for the message.
  """
  factor, epochs = config.factor, config.epochs
  before = [_mean_finite(s["train_loss"] for s in row.get("seeds", [row])) for row in rows]
  loss = _mean_finite(np.atleast_1d(train_loss))
  if (median := exceeded_median(before, loss, factor, epochs)) is not None:
    raise errors.UserError(
      f"loss: {loss:.4g} in epoch {len(before) + 1} is more than {factor:g} times {median:.4g}, "
      f"the median of the last {min(epochs, len(before))} epochs, and stop_on_spike ends the run; "
      "lower optimizer.learning_rate or set optimizer.clip_norm, with another workdir; the last "
      f"good checkpoint stays in {folder}"
    )


def _mean_finite(losses: Iterable[float | None]) -> float:
  """Return the mean of the finite losses; NaN if there is none. None stands for NaN in JSON."""
  finite = [loss for loss in losses if loss is not None and math.isfinite(loss)]
  return statistics.mean(finite) if finite else math.nan


def memory() -> dict[str, Any]:
  """Return the peak memory since this process started, in bytes.

  Returns:
    'process_peak_bytes' (None if the system does not report it) and, if the devices report them
    (CPUs do not), 'device_peak_bytes', a list over the local devices, and 'device_limit_bytes' of
    one device.
  """
  peaks: dict[str, Any] = {"process_peak_bytes": _process_peak()}
  stats = [device.memory_stats() for device in jax.local_devices()]
  if all(s and "peak_bytes_in_use" in s for s in stats):
    peaks["device_peak_bytes"] = [s["peak_bytes_in_use"] for s in stats]
    peaks["device_limit_bytes"] = stats[0].get("bytes_limit")
  return peaks


def memory_line(peaks: dict[str, Any]) -> str:
  """Return the result of `memory` as text; '' if nothing is known."""
  parts = []
  if "device_peak_bytes" in peaks:
    text = f"at most {max(peaks['device_peak_bytes']) / 2**30:.2f} GiB"
    if limit := peaks["device_limit_bytes"]:
      text += f" of {limit / 2**30:.2f} GiB"
    parts.append(f"{text} on a device")
  if peaks["process_peak_bytes"]:
    parts.append(f"at most {peaks['process_peak_bytes'] / 2**30:.2f} GiB in the process")
  return ", ".join(parts)


def _process_peak() -> int | None:
  # On Linux ru_maxrss can be the peak of the program that started this one; VmHWM cannot.
  try:
    status = pathlib.Path("/proc/self/status").read_text()
  except OSError:
    status = ""
  if match := re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE):
    return int(match[1]) * 1024
  try:
    import resource
  except ImportError:  # Windows
    return None
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
