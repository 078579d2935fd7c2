"""The same steps on several devices, in several processes, in one dispatch, with several seeds."""

import json
import signal
import subprocess

import numpy as np
import pytest
import small_runs

import train
from launch import local

# A network without ReLU and max-pooling: at kinks, and at ties in pooling windows, of which the
# digits have many, rounding decides the gradient, and does so otherwise on eight devices than on
# one.
TEN_STEPS = {
  "num_epochs": 10,  # of one step each, so that metrics.jsonl holds every step's loss
  "data.train_examples": 80,
  "data.normalize": "standardize",
  "model.name": "elu_resnet",
  "model.stages": (1,),
  "model.head_dropout": 0.3,
  "model.widths": None,
  "model.dense": None,
  "augment": "random_crop(padding=2) | random_flip() | mixup(alpha=1.0)",
  "optimizer.learning_rate": 0.01,
}
SAVED_ONCE = TEN_STEPS | {"checkpoint_every": 10}  # saving ten times costs seconds
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """The folder of the digits, shared by the tests of this file."""
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def ten_steps(data_dir, tmp_path_factory):
  """The folder of a run of ten steps on one device."""
  workdir = tmp_path_factory.mktemp("ten")
  with small_runs.quick_compilation():
    process = small_runs.run(small_runs.command(data_dir, workdir, **SAVED_ONCE))
  assert process.returncode == 0, process.stderr
  return workdir


def assert_close_runs(a, b) -> None:
  """Assert that two runs have the same losses to float tolerance, row by row."""
  (rows, summary), (other_rows, other_results) = map(small_runs.comparable, (a, b))
  for row, other in zip(rows, other_rows, strict=True):
    assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-5)
    assert other["val_loss"] == pytest.approx(row["val_loss"], rel=1e-5)
  assert other_results["test_loss"] == pytest.approx(summary["test_loss"], rel=1e-5)


def test_eight_devices_give_the_losses_of_one(data_dir, ten_steps, tmp_path):
  process = small_runs.run(small_runs.command(data_dir, tmp_path, **SAVED_ONCE), devices=8)
  assert process.returncode == 0, process.stderr
  assert_close_runs(ten_steps, tmp_path)


def test_unless_each_device_has_its_own_batch_statistics(data_dir, ten_steps, tmp_path):
  fields = TEN_STEPS | {"model.sync_bn": False, "num_epochs": 1}
  process = small_runs.run(small_runs.command(data_dir, tmp_path, **fields), devices=8)
  assert process.returncode == 0, process.stderr
  ours, theirs = (small_runs.comparable(run)[0][0] for run in (tmp_path, ten_steps))
  assert abs(ours["train_loss"] / theirs["train_loss"] - 1) > 1e-4


def after_an_epoch(running: list, victim: int, signum: signal.Signals) -> list[tuple[int, str]]:
  """Signal one of several processes after an epoch; return exit codes and standard errors."""
  log = b""
  for line in running[0].stderr:
    log += line
    if b"train loss" in line:
      running[victim].send_signal(signum)
      break
  ended = [process.communicate(timeout=120) for process in running]
  errors = [log + ended[0][1], *(err for _, err in ended[1:])]
  return [(p.returncode, err.decode()) for p, err in zip(running, errors, strict=True)]


def test_a_run_moves_between_processes(data_dir, ten_steps, tmp_path):
  """It is stopped in two, then in one, then loses one of two, and ends in two."""
  arguments = small_runs.command(data_dir, tmp_path, **TEN_STEPS)
  stopped = 128 + signal.SIGTERM, "SIGTERM: saved; the same command resumes\n"
  for code, stderr in after_an_epoch(local.start(arguments, 2, 4), 1, signal.SIGTERM):
    assert (code, stderr.splitlines(True)[-1]) == stopped, stderr

  alone = subprocess.Popen(arguments, env=small_runs.environment(), stderr=subprocess.PIPE)
  ((code, stderr),) = after_an_epoch([alone], 0, signal.SIGTERM)
  assert "Resuming" in stderr and (code, stderr.splitlines(True)[-1]) == stopped

  (_, log), (code, stderr) = after_an_epoch(local.start(arguments, 2, 4), 0, signal.SIGKILL)
  assert "Resuming" in log and code == 1
  assert stderr.startswith("error: process 0 of 2, on 127.0.0.1, is gone")
  assert stderr.count("\n") == 1

  process = small_runs.run_together(arguments)
  assert process.returncode == 0 and "Resuming" in process.stderr, process.stderr
  assert_close_runs(ten_steps, tmp_path)


def test_two_processes_save_in_mid_epoch_at_one_step(data_dir, tmp_path):
  arguments = small_runs.command(data_dir, tmp_path, batch_size=8)  # 161 steps an epoch
  running = local.start([*arguments, "--heartbeat=0.01"], 2, 1)
  for line in running[0].stderr:
    if b" of 322, epoch 1 of 2, " in line:
      running[1].send_signal(signal.SIGTERM)
      break
  ended = [process.communicate(timeout=120) for process in running]
  assert [process.returncode for process in running] == [128 + signal.SIGTERM] * 2, ended
  (latest,) = (tmp_path / "checkpoints" / "latest").iterdir()
  assert 0 < int(latest.name) < 161
  assert not (tmp_path / "metrics.jsonl").exists()


def test_several_steps_in_one_dispatch_are_the_same_steps(data_dir, tmp_path):
  # Four steps, as one dispatch of three and one of the rest.
  fields = TEN_STEPS | {"num_epochs": 1, "data.train_examples": 320}
  for name, num_steps in (("single", 1), ("several", 3)):
    config = small_runs.config(data_dir, steps_per_dispatch=num_steps, **fields)
    train.train_and_evaluate(config, str(tmp_path / name))
  assert_close_runs(tmp_path / "single", tmp_path / "several")


def test_seeds_trained_at_once_are_the_seeds_trained_alone(data_dir, tmp_path):
  fields = TEN_STEPS | {"num_epochs": 3}

  def losses(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]

  config = small_runs.config(data_dir, num_seeds=2, seed=5, **fields)
  together = train.train_and_evaluate(config, str(tmp_path / "together"))
  assert together["seeds"] == [5, 6]
  accuracies = []
  for i, seed in enumerate((5, 6)):
    config = small_runs.config(data_dir, seed=seed, **fields)
    alone = train.train_and_evaluate(config, str(tmp_path / str(seed)))
    of_seed = together["per_seed"][i]
    assert of_seed["seed"] == seed
    assert of_seed["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-4)
    for row, other in zip(losses(tmp_path / "together"), losses(tmp_path / str(seed)), strict=True):
      assert row["seeds"][i]["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
      assert row["seeds"][i]["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)
    accuracies.append(of_seed["test_accuracy"])
  assert together["test_accuracy"] == pytest.approx(np.mean(accuracies))
  assert together["test_accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
  assert together["test_accuracy_standard_error"] == pytest.approx(
    np.std(accuracies, ddof=1) / np.sqrt(2)
  )
