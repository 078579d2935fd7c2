"""The parts of benchmarks.robustness.soak that need no run."""

import json

import numpy as np
import pytest
import small_runs

from benchmarks.robustness import soak, soak_run
from cifar_jax.runs import checkpoints, test_uses


@pytest.mark.parametrize(
  ("message", "file"),
  [
    (soak_run.HAS_DATA, "train.py"),
    (soak_run.PREPARES, "cifar_jax/data/datasets.py"),
    (soak_run.UNREADABLE, "cifar_jax/runs/checkpoints.py"),
    (soak_run.SAVED, "cifar_jax/runtime/shutdown.py"),
    (soak_run.BUSY, "cifar_jax/runs/run_folder.py"),
    (soak_run.FULL_WHEN_PREPARING, "cifar_jax/data/datasets.py"),
  ],
)
def test_messages_are_the_programs(message, file):
  assert message in (small_runs.ROOT / file).read_text()


def write_finished_run(workdir, kernel, seconds):
  """Write what a finished run leaves, as far as the outcome reads it."""
  store = checkpoints.Checkpoints(workdir)
  store.save_best([16], {"params": {"kernel": kernel}})
  store.save_latest(48, {"params": {"kernel": kernel}, "seconds": np.float64(seconds)})
  store.close()
  rows = [
    {"epoch": epoch, "val_loss": 1 / epoch, "seconds": seconds, "images_per_second": seconds}
    for epoch in range(1, soak_run.EPOCHS + 1)
  ]
  (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  for _ in range(int(seconds)):  # a killed test is repeated and counts again
    test_uses.record(workdir, "train", "test")
  results = {"test_loss": 0.5, "best_epoch": 1, "seconds_to_train": seconds}
  results["test_uses"] = int(seconds)
  (workdir / "results.json").write_text(json.dumps(results))


def test_outcomes_differ_in_bits_and_not_in_times(tmp_path):
  kernel = np.arange(4.0, dtype=np.float32)
  almost = kernel.copy()
  almost[2] = np.nextafter(almost[2], np.float32(9))
  for name, weights, seconds in (("a", kernel, 1.0), ("b", kernel, 2.0), ("c", almost, 1.0)):
    (tmp_path / name).mkdir()
    write_finished_run(tmp_path / name, weights, seconds)
  a, b, c = (soak_run.outcome(tmp_path / name) for name in "abc")
  assert soak_run.differing(a, b) == []
  assert soak_run.differing(a, c) == ["best params.kernel", "latest params.kernel"]
  rows = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines(keepends=True)
  (tmp_path / "a" / "metrics.jsonl").write_text("".join([*rows, rows[-1]]))
  with pytest.raises(soak_run.Wrong, match=r"the epochs \[1, 2, 3, 3\]"):
    soak_run.outcome(tmp_path / "a")


def test_a_test_that_was_not_counted_is_noticed(tmp_path):
  write_finished_run(tmp_path, np.zeros(1), 2.0)
  test_uses.record(tmp_path, "train", "test")
  with pytest.raises(soak_run.Wrong, match=r"says 2 tests, test_uses.jsonl 3"):
    soak_run.outcome(tmp_path)


def test_schedule_has_every_fault_and_the_number_of_kills():
  schedule, rng = soak.Schedule(num_kills=20, num_others=2), np.random.default_rng(0)
  faults = []
  while not schedule.is_done(sum(name.startswith("SIGKILL") for name in faults)):
    trial = schedule.next(sum(name.startswith("SIGKILL") for name in faults), rng)
    assert len(trial) == 1 or all(name.startswith("SIGKILL: ") for name in trial)
    faults += trial
  counts = {name: faults.count(name) for name in soak._FAULTS}
  assert sum(counts.values()) == len(faults)
  assert sum(count for name, count in counts.items() if name.startswith("SIGKILL")) == 20
  assert all(count == 2 for name, count in counts.items() if not name.startswith("SIGKILL"))
