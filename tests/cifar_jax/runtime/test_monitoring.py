"""Heartbeat, trace, memory and loss spikes: each alone, and all in one run."""

import gzip
import json
import math
import re
import statistics
import subprocess
import sys
import types

import jax
import ml_collections
import numpy as np
import pytest
import small_runs
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

import train
from cifar_jax import errors
from cifar_jax.runtime import monitoring

# --- Clock ---------------------------------------------------------------------------------------


def test_the_clock_counts_everything_between_epochs_except_compiling(monkeypatch):
  now, compiled = 100.0, 0.0
  monkeypatch.setattr(monitoring.time, "monotonic", lambda: now)
  clock = monitoring.Clock(lambda: compiled, 7.0, 2.0)  # of a run that is resumed in an epoch
  clock.start()
  now, compiled = 110.0, 4.0
  assert clock.end_epoch() == 8.0
  now = 113.0  # saving and drawing
  assert clock.to_array().tolist() == [15.0, 3.0]
  now = 120.0
  assert clock.end_epoch() == 10.0
  assert clock.total() == 25.0


# --- Heartbeat -----------------------------------------------------------------------------------


def test_a_heartbeat_shows_position_speed_and_time_left(log_lines):
  now = 100.0
  heartbeat = monitoring.Heartbeat(60, 1000, 2000, 100, 50, clock=lambda: now)
  for seconds, steps in ((30, 60), (30, 60), (59, 80), (1, 40), (600, 760)):
    now += seconds
    heartbeat.advance(steps, loss=1.25)
  assert log_lines == [  # 880 steps at 0.5 s, then 760 steps at 120 s / 240; no line at the end
    "step 1,120 of 2,000, epoch 12 of 20, 100 images/s, loss 1.2500, 0:07:20 left",
    "step 1,240 of 2,000, epoch 13 of 20, 100 images/s, loss 1.2500, 0:06:20 left",
  ]


@pytest.mark.parametrize(
  ("seconds", "terminal", "logged"),
  [(None, False, True), (None, True, False), (0, False, False), (5, True, True)],
)
def test_heartbeats_are_logged_by_default_without_a_bar(
  seconds, terminal, logged, monkeypatch, log_lines
):
  monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
  now = 0.0
  heartbeat = monitoring.Heartbeat(seconds, 0, 100, 10, 1, clock=lambda: now)
  now = 61.0
  heartbeat.advance(10, loss=0.5)
  assert bool(log_lines) == logged


# --- Flags ---------------------------------------------------------------------------------------


def test_steps_to_trace():
  assert monitoring.parse_steps("") is None
  assert monitoring.parse_steps("7:7") == (7, 7)
  assert monitoring.parse_steps("100:110") == (100, 110)


@pytest.mark.parametrize("text", ["7", "0:3", "5:4", "a:b", "1:2:3", "1:²", "-1:3", "1 : 2"])
def test_invalid_steps_to_trace(text):
  with pytest.raises(errors.UserError, match=r"^--profile: .* must be steps first:last") as raised:
    monitoring.parse_steps(text)
  assert "\n" not in str(raised.value)


def test_steps_beyond_the_run_are_rejected(tmp_path):
  with pytest.raises(errors.UserError, match=r"^--profile: 5:33 is beyond the 32 steps of the run"):
    monitoring.Trace((5, 33), epath.Path(tmp_path), 32)
  monitoring.Trace((5, 32), epath.Path(tmp_path), 32).close()


# --- Loss spikes ---------------------------------------------------------------------------------

losses = st.floats(0.01, 100)


@given(st.lists(losses, min_size=1, max_size=12), losses, st.floats(1.01, 9), st.integers(1, 6))
def test_a_spike_exceeds_the_median_by_the_factor(before, loss, factor, epochs):
  median = statistics.median(before[-epochs:])
  exceeded = monitoring.exceeded_median(before, loss, factor, epochs)
  assert exceeded == (median if loss > factor * median else None)
  assert monitoring.exceeded_median(before, loss, 0, epochs) is None
  # What a resumed run reads from metrics.jsonl decides the same.
  assert (
    monitoring.exceeded_median(json.loads(json.dumps(before)), loss, factor, epochs) == exceeded
  )


def test_without_earlier_losses_there_is_no_spike():
  assert monitoring.exceeded_median([], 9.0, 2, 5) is None
  assert monitoring.exceeded_median([math.nan, math.nan], 9.0, 2, 5) is None
  assert monitoring.exceeded_median([1.0, math.nan, math.nan], 9.0, 2, 5) == 1.0
  assert monitoring.exceeded_median([1.0], math.nan, 2, 5) is None


def test_a_spike_of_several_seeds_is_judged_by_those_that_have_not_diverged(tmp_path):
  rows = [
    {"train_loss": 2.0, "seeds": [{"train_loss": 1.0}, {"train_loss": 3.0}]},
    {"train_loss": None, "seeds": [{"train_loss": 1.0}, {"train_loss": None}]},  # NaN in JSON
  ]
  limits = ml_collections.ConfigDict({"factor": 3.0, "epochs": 5})  # 3 × the median of 2 and 1
  monitoring.raise_if_spike(rows, np.array([4.4, np.nan]), limits, epath.Path(tmp_path))
  with pytest.raises(errors.UserError, match=r"^loss: 4.6 in epoch 3 is more than 3 times 1.5, "):
    monitoring.raise_if_spike(rows, np.array([4.6, np.nan]), limits, epath.Path(tmp_path))


# --- Memory --------------------------------------------------------------------------------------


def test_peak_memory_is_that_of_this_process_and_grows_with_it():
  # The process that starts this program has a higher peak.
  code = (
    "import numpy; from cifar_jax.runtime import monitoring; "
    "before = monitoring._process_peak(); numpy.ones(2**25); "
    "print(before, monitoring._process_peak())"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=small_runs.environment(),
    cwd=small_runs.ROOT,
    capture_output=True,
  )
  before, after = map(int, done.stdout.split())
  assert 2**24 < before < 2**30
  assert after - before == pytest.approx(2**28, rel=0.1)


def test_memory_of_devices_that_report_it(monkeypatch):
  device = types.SimpleNamespace(
    memory_stats=lambda: {"peak_bytes_in_use": 3 * 2**29, "bytes_limit": 2**34}
  )
  monkeypatch.setattr(jax, "local_devices", lambda: [device, device])
  peaks = monitoring.memory()
  assert peaks["device_peak_bytes"] == [3 * 2**29] * 2
  line = monitoring.memory_line(peaks)
  assert line.startswith("at most 1.50 GiB of 16.00 GiB on a device, at most ")


# --- A run ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_compilation")
def test_a_run_with_heartbeats_and_a_trace_that_a_spike_ends(tmp_path, log_lines):
  config = small_runs.config(
    tmp_path / "data",
    steps_per_dispatch=2,
    augment="",
    model__widths=(4,),
    num_epochs=4,
    schedule__name="step",  # the rate is multiplied after the second epoch
    schedule__boundaries=(2,),
    schedule__factor=10.0,
    stop_on_spike__factor=1.2,
  )
  workdir = tmp_path / "run"
  message = r"^loss: \d\S+ in epoch 3 is more than 1.2 times \d\S+, the median of the last 2 epochs"
  with pytest.raises(errors.UserError, match=message) as raised:
    train.train_and_evaluate(config, str(workdir), heartbeat=1e-9, profile=(18, 20))
  newest = max(path.name for path in (workdir / "checkpoints" / "latest").iterdir())
  assert newest == "00000032"
  assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 2

  # One heartbeat for each dispatch that the host waited for, and one for the rest of the epoch.
  beats = [re.match(r"step (\d+) of 64, epoch (\d) of 4, ", line) for line in log_lines]
  steps = [int(beat[1]) for beat in beats if beat]
  assert steps == [2, 4, 6, 8, 16, 18, 20, 22, 24, 32, 34, 36, 38, 40, 48]
  assert [line.split(": ")[0] for line in log_lines if "GiB in the process" in line] == ["memory"]

  # Steps 17 and 18 and steps 19 and 20 are the dispatches that hold steps 18 to 20.
  (line,) = (line for line in log_lines if line.startswith("traced"))
  assert line.startswith("traced steps 17 to 20 (whole dispatches; asked for 18:20) in ")
  (file,) = (workdir / "profile").rglob("perfetto_trace.json.gz")
  events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
  dispatched = [
    e for e in events if re.fullmatch(r"\$compiled_steps\.py:\d+ train", e.get("name", ""))
  ]
  assert len(dispatched) == 2

  # The same command ends with the same error.
  with pytest.raises(errors.UserError) as again:
    train.train_and_evaluate(config, str(workdir), heartbeat=0, profile=(18, 20))
  assert str(again.value) == str(raised.value)
  assert "--profile: steps 18 to 20 ran before the run was resumed; nothing is traced" in log_lines
