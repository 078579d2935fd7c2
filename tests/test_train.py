"""The training program: complete runs on a small dataset."""

import functools
import json
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
import small_runs

import input_pipeline
import train
from cifar_jax import errors
from cifar_jax.data.splits import make_splits
from cifar_jax.runs import checkpoints, results, test_uses

# The run that most tests of this file disturb; it is tested with flipped images too.
command = functools.partial(small_runs.command, tta="flip")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """A folder with the decoded digits, shared by the tests of this file."""
  from cifar_jax.data import datasets

  directory = tmp_path_factory.mktemp("data")
  datasets.load("digits", str(directory))
  return directory


@pytest.fixture(scope="module")
def full_run(data_dir, tmp_path_factory):
  """The folder of an undisturbed run, in a separate process with one device."""
  workdir = tmp_path_factory.mktemp("full")
  process = small_runs.run(command(data_dir, workdir))
  assert process.returncode == 0, process.stderr
  return workdir


def test_a_run_folder_explains_itself(full_run):
  rows = [json.loads(line) for line in (full_run / "metrics.jsonl").read_text().splitlines()]
  assert [row["epoch"] for row in rows] == [1, 2]
  assert [row["step"] for row in rows] == [16, 32]
  assert rows[1]["train_loss"] < rows[0]["train_loss"]
  names = "train_loss train_accuracy val_loss val_accuracy learning_rate images_per_second seconds"
  for row in rows:
    assert all(row[name] > 0 for name in names.split())
    assert row["val_objective"] > row["val_loss"]
    assert row["train_accuracy"] < row["train_top5"] < 1
  summary = json.loads((full_run / "results.json").read_text())
  best = max(rows, key=lambda row: row["val_accuracy"])
  assert summary["best_epoch"] == best["epoch"]
  assert summary["val_accuracy"] == best["val_accuracy"]
  assert summary["val_loss"] == best["val_loss"]
  assert summary["val_objective"] == best["val_objective"]
  penalty = best["val_objective"] - best["val_loss"]  # of the same weights
  assert summary["test_objective"] == pytest.approx(summary["test_loss"] + penalty, rel=1e-6)
  shown = f"objective (loss + penalty) {summary['test_objective']:.4f}"
  assert shown in results.summarize(summary)
  assert summary["data"]["train_examples"] == 1293 and summary["data"]["test_examples"] == 360
  assert summary["test_accuracy"] * 360 == pytest.approx(round(summary["test_accuracy"] * 360))
  assert summary["selected_on"] == "validation"
  purposes = ["selected weights", "selected weights, test-time augmentation flip"]
  assert [use["purpose"] for use in test_uses.uses(full_run)] == purposes
  assert summary["test_uses"] == 2
  assert "(360 test images used twice)" in results.summarize(summary)
  assert summary["versions"]["jax"] == jax.__version__
  assert 2**27 < summary["memory"]["process_peak_bytes"] < 2**36
  config = json.loads((full_run / "config.json").read_text())
  assert config["dtype"] == "float32" and config["model"]["widths"] == [4, 4, 8]
  assert (full_run / "plots" / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"
  assert list((full_run / "tensorboard").iterdir())
  best_variables = small_runs.checkpoint(full_run / "checkpoints" / "best")
  assert {path.split(".")[0] for path in best_variables} == {"params", "batch_stats"}


def test_a_finished_run_is_left_unchanged(data_dir, full_run):
  names = ("results.json", test_uses.FILE)
  before = [(full_run / name).read_bytes() for name in names]
  process = small_runs.run(command(data_dir, full_run))
  assert process.returncode == 0 and "finished already" in process.stderr
  assert "test accuracy" in process.stdout
  assert [(full_run / name).read_bytes() for name in names] == before


def test_another_config_is_refused_by_field(data_dir, full_run):
  process = small_runs.run(command(data_dir, full_run, batch_size=40, seed=3))
  assert process.returncode == 1
  assert process.stderr.startswith("error: workdir: ") and process.stderr.count("\n") == 1
  assert "batch_size (80 there, 40 now), seed (0 there, 3 now)" in process.stderr


@pytest.mark.parametrize("kills", [3])
def test_killed_at_random_moments_it_ends_with_the_same_bits(data_dir, full_run, tmp_path, kills):
  rng = np.random.default_rng(0)
  for _ in range(kills):
    process = subprocess.Popen(
      command(data_dir, tmp_path),
      env=small_runs.environment(),
      stderr=subprocess.DEVNULL,
    )
    wait_for_metrics(tmp_path, process, after=rng.uniform(0, 3))
    process.kill()
    process.wait()
  process = small_runs.run(command(data_dir, tmp_path))
  assert process.returncode == 0, process.stderr
  small_runs.assert_same(small_runs.final_state(full_run), small_runs.final_state(tmp_path))
  assert small_runs.comparable(full_run) == small_runs.comparable(tmp_path)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_in_mid_epoch_and_the_same_command_resumes(
  data_dir, full_run, tmp_path, signum
):
  arguments = command(data_dir, tmp_path)
  with subprocess.Popen(
    arguments, env=small_runs.environment(), stderr=subprocess.PIPE, text=True
  ) as process:
    for line in process.stderr:  # sent as soon as the first epoch is done
      if "epoch 1/2" in line:
        process.send_signal(signum)
        break
    output = process.stderr.read()
  assert process.returncode == 128 + signum, output
  assert f"{signum.name}: saved" in output and "Traceback" not in output
  assert not (tmp_path / "results.json").exists()
  process = small_runs.run(arguments)
  assert process.returncode == 0 and "Resuming" in process.stderr, process.stderr
  small_runs.assert_same(small_runs.final_state(full_run), small_runs.final_state(tmp_path))
  assert small_runs.comparable(full_run) == small_runs.comparable(tmp_path)


def wait_for_metrics(workdir, process, after: float) -> None:
  """Wait until the run folder exists, then `after` seconds more, or until the run ends."""
  deadline = time.monotonic() + 120
  while not (workdir / "checkpoints").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
  end = time.monotonic() + after
  while time.monotonic() < end and process.poll() is None:
    time.sleep(0.02)


def test_streamed_run_is_the_resident_run(data_dir, full_run, tmp_path):
  process = small_runs.run(command(data_dir, tmp_path, data__resident_bytes=0))
  assert process.returncode == 0, process.stderr
  assert small_runs.comparable(full_run) == small_runs.comparable(tmp_path)
  small_runs.assert_same(small_runs.final_state(full_run), small_runs.final_state(tmp_path))


@pytest.mark.usefixtures("quick_compilation")
def test_bfloat16_computes_in_it_and_keeps_float32(data_dir, tmp_path):
  config = small_runs.config(data_dir, dtype="bfloat16", num_epochs=1, ema_decay=0.9)
  train.train_and_evaluate(config, str(tmp_path))
  state = small_runs.final_state(tmp_path)
  floats = {v.dtype for v in state.values() if np.issubdtype(v.dtype, np.floating)}
  assert floats == {np.dtype(np.float32)}
  row = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert np.isfinite(row["train_loss"])


@pytest.mark.usefixtures("quick_compilation")
def test_a_part_of_the_last_epoch_and_a_test_with_augmentation(data_dir, tmp_path):
  config = small_runs.config(data_dir, last_epoch=0.3, select__monitor="", augment="", tta="flip")
  summary = train.train_and_evaluate(config, str(tmp_path))
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [(row["epoch"], row["step"]) for row in rows] == [(1, 16), (2, 21)]  # 20.8 rounded up
  assert summary["epochs_run"] == summary["best_epoch"] == 2
  state = small_runs.final_state(tmp_path)
  assert state["state.step"] == 21
  for path, value in small_runs.checkpoint(tmp_path / "checkpoints" / "best").items():
    np.testing.assert_array_equal(value, state[f"state.{path}"])
    np.testing.assert_array_equal(value, state[f"state.slow.{path}"])
  assert summary["tta"] == "flip" and summary["test_tta_loss"] != summary["test_loss"]
  assert f"augmentation flip: {summary['test_tta_accuracy']:.2%}" in results.summarize(summary)


@pytest.mark.usefixtures("quick_compilation")
def test_best_is_of_the_selected_step_where_few_epochs_are_saved(data_dir, tmp_path, monkeypatch):
  fields = {"num_epochs": 3, "checkpoint_every": 3, "augment": "", "loss.l2": ()}
  fields |= {"select.monitor": "train_loss", "select.mode": "max"}  # the first epoch is the best
  monkeypatch.setattr("cifar_jax.config._check_monitor", lambda *_: None)  # which refuses that
  summary = train.train_and_evaluate(small_runs.config(data_dir, **fields), str(tmp_path))
  assert summary["best_epoch"] == 1
  assert checkpoints.read_best(tmp_path)[0] == 16
  (latest,) = (tmp_path / "checkpoints" / "latest").iterdir()
  assert latest.name == "00000048"


@pytest.mark.usefixtures("quick_compilation")
def test_nan_stops_and_keeps_the_last_good_checkpoint(data_dir, tmp_path):
  # The learning rate explodes in the second epoch: 'step' multiplies it there.
  config = small_runs.config(
    data_dir,
    schedule__name="step",
    schedule__boundaries=(1,),
    schedule__factor=1e30,
    num_epochs=3,
    augment="",
  )
  with pytest.raises(errors.UserError, match=r"loss: became NaN or infinite at step (\d+) \(epoch"):
    train.train_and_evaluate(config, str(tmp_path))
  latest = [p.name for p in (tmp_path / "checkpoints" / "latest").iterdir()]
  assert latest == ["00000016"]
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
  state = {k: v for k, v in small_runs.final_state(tmp_path).items() if k.startswith("state.")}
  assert state and all(np.isfinite(v).all() for v in state.values())


@pytest.mark.usefixtures("quick_compilation")
def test_plateau_lowers_the_rate_and_early_stopping_ends_the_run(data_dir, tmp_path, log_lines):
  config = small_runs.config(
    data_dir,
    num_epochs=9,
    augment="",
    optimizer__learning_rate=1e-7,  # nothing improves
    plateau__monitor="val_accuracy",
    plateau__mode="max",
    plateau__patience=2,
    plateau__min_delta=0.5,
    early_stopping__monitor="val_accuracy",
    early_stopping__mode="max",
    early_stopping__patience=4,
    early_stopping__min_delta=0.5,
  )
  summary = train.train_and_evaluate(config, str(tmp_path))
  rates = [
    json.loads(line)["learning_rate"]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  np.testing.assert_allclose(rates, [1e-7, 1e-7, 1e-7, 1e-8, 1e-8], rtol=1e-5)
  assert summary["epochs_run"] == 5
  # What Keras' callbacks print: the epoch, the new rate, the stop, and the epoch restored.
  reasons = [f"val_accuracy has not improved for {patience} epochs; " for patience in (2, 4)]
  assert f"epoch 3: {reasons[0]}learning rate 1e-07 → 1e-08" in log_lines
  assert f"epoch 5: {reasons[0]}learning rate 1e-08 → 1e-09" in log_lines
  assert f"epoch 5: {reasons[1]}stopping early" in log_lines
  best = summary["best_epoch"]
  assert f"Restored the weights of epoch {best}: val_accuracy was highest" in log_lines
  assert sum("has not improved" in line for line in log_lines) == 3


@pytest.mark.usefixtures("quick_compilation")
def test_selection_on_the_test_set_is_recorded(data_dir, tmp_path):
  config = small_runs.config(data_dir, data__validation="test", num_epochs=1, augment="")
  summary = train.train_and_evaluate(config, str(tmp_path))
  assert summary["selected_on"] == "test"
  assert summary["test_accuracy"] == summary["val_accuracy"]
  purposes = [use["purpose"] for use in test_uses.uses(tmp_path)]
  assert purposes == ["validation of epoch 1", "selected weights"] and summary["test_uses"] == 2


def test_order_of_an_epoch_uses_only_training_examples(data_dir):
  dataset = input_pipeline.load(small_runs.config(data_dir))
  splits = make_splits(dataset, small_runs.config(data_dir).data)
  order = np.asarray(input_pipeline.epoch_order(jax.random.key(0), 0, splits.train))
  assert not np.isin(order, splits.validation).any() and not np.isin(order, splits.test).any()
