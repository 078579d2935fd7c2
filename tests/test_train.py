"""The training program: pure steps against NumPy, and whole runs on a small data set."""

import json
import signal
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_runs
from sklearn import metrics as sklearn_metrics

import input_pipeline
import models
import train
from cifar_jax import errors
from cifar_jax.data.splits import make_splits
from cifar_jax.optim import averages, optimizers, schedules
from cifar_jax.runs import results
from cifar_jax.training import steps
from launch import local


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Where the digits are decoded once for all tests of this file."""
  from cifar_jax.data import datasets

  directory = tmp_path_factory.mktemp("data")
  datasets.load("digits", str(directory))
  return directory


@pytest.fixture(scope="module")
def whole_run(data_dir, tmp_path_factory):
  """An undisturbed run in a process of its own with one device."""
  workdir = tmp_path_factory.mktemp("whole")
  done = small_runs.run(small_runs.command(data_dir, workdir))
  assert done.returncode == 0, done.stderr
  return workdir


# --- Pure steps ----------------------------------------------------------------------------------


class Linear:
  """A model with no layers: logits = flattened image @ kernel."""

  @staticmethod
  def apply(variables, images, train, rngs=None, mutable=None):
    logits = images.reshape(len(images), -1) @ variables["params"]["dense"]["kernel"]
    return (logits, {"batch_stats": {}}) if train else logits


def linear_state(kernel, tx, ema=False):
  params = {"dense": {"kernel": jnp.asarray(kernel)}}
  return steps.TrainState(
    step=jnp.int32(0),
    params=params,
    batch_stats={},
    opt_state=tx.init(params),
    average={"params": params, "batch_stats": {}} if ema else None,
    slow=None,
    lr_scale=jnp.float32(0.5),
    sums=steps.Sums.zero(),
    key=jax.random.key_data(jax.random.key(0)),
  )


def test_train_step_is_the_gradient_step_written_out_in_numpy(data_dir):
  config = small_runs.config(data_dir, loss__label_smoothing=0.2, loss__l2=(("kernel$", 0.01),))
  tx = optimizers.create({"name": "sgd"}, schedules.create({"name": "constant"}, 0.1, 10, 100))
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(12, 5)).astype(np.float32)
  image = rng.normal(size=(6, 2, 2, 3)).astype(np.float32)
  label = rng.integers(0, 5, 6)
  step = jax.jit(steps.make_train_step(config, Linear, tx))
  batch = {"image": image, "target": np.eye(5, dtype=np.float32)[label], "label": label}
  state, metrics = step(linear_state(kernel, tx), batch)

  x = image.reshape(6, 12)
  logits = x @ kernel
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  target = 0.8 * np.eye(5)[label] + 0.2 / 5
  gradient = x.T @ (p - target) / 6 + 2 * 0.01 * kernel
  np.testing.assert_allclose(metrics["loss"], -(target * np.log(p)).sum(1).mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics["penalty"], 0.01 * (kernel**2).sum(), rtol=1e-5)
  assert metrics["correct"] == (logits.argmax(1) == label).sum()
  expected = kernel - 0.5 * 0.1 * gradient  # lr_scale times the learning rate
  np.testing.assert_allclose(state.params["dense"]["kernel"], expected, rtol=1e-5, atol=1e-6)
  assert state.step == 1


def test_moving_average_of_the_weights_is_what_is_evaluated(data_dir):
  config = small_runs.config(data_dir, ema_decay=0.5)
  tx = optimizers.create({"name": "sgd"}, schedules.create({"name": "constant"}, 0.1, 10, 100))
  kernel = np.zeros((12, 5), np.float32)
  batch = {
    "image": np.ones((2, 2, 2, 3), np.float32),
    "target": np.eye(5, dtype=np.float32)[:2],
    "label": np.arange(2),
  }
  before = linear_state(kernel, tx, ema=True)
  after, _ = steps.make_train_step(config, Linear, tx)(before, batch)
  expected = averages.update_ema(before.average["params"], after.params, 0, 0.5)
  np.testing.assert_allclose(
    after.variables()["params"]["dense"]["kernel"], expected["dense"]["kernel"]
  )
  assert not np.array_equal(
    after.variables()["params"]["dense"]["kernel"], after.params["dense"]["kernel"]
  )


def test_eval_step_counts_unmasked_rows_as_scikit_learn_does():
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(12, 20)).astype(np.float32)
  image = rng.normal(size=(50, 2, 2, 3)).astype(np.float32)
  label = rng.integers(0, 20, 50)
  mask = np.arange(50) < 37
  variables = {"params": {"dense": {"kernel": kernel}}}
  sums = steps.make_eval_step(Linear)(variables, {"image": image, "label": label, "mask": mask})
  logits = image.reshape(50, 12) @ kernel
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  classes = np.arange(20)
  assert sums["examples"] == 37
  np.testing.assert_allclose(
    sums["loss"] / 37, sklearn_metrics.log_loss(label[:37], p[:37], labels=classes), rtol=1e-5
  )
  for name, k in (("correct", 1), ("top5", 5)):
    found = sklearn_metrics.top_k_accuracy_score(label[:37], logits[:37], k=k, labels=classes)
    np.testing.assert_allclose(sums[name] / 37, found, rtol=1e-6)


def test_a_network_learns_a_batch_by_heart_and_the_old_state_stays(data_dir):
  config = small_runs.config(data_dir, lookahead__every=0)
  model = models.create(config.model, 10)
  tx = optimizers.create(config.optimizer, schedules.create({"name": "constant"}, 0.05, 10, 100))
  state = steps.init_state(config, model, tx, jnp.int32(0), jnp.zeros((1, 8, 8, 3)))
  rng = np.random.default_rng(2)
  label = np.arange(10)
  batch = {
    "image": rng.normal(size=(10, 8, 8, 3)).astype(np.float32),
    "target": np.eye(10, dtype=np.float32),
    "label": label,
  }
  step = jax.jit(steps.make_train_step(config, model, tx))
  first = jax.tree.map(np.array, state)
  losses = []
  later = state
  for _ in range(60):
    later, metrics = step(later, batch)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.6 * losses[0]
  assert metrics["correct"] >= 9
  jax.tree.map(np.testing.assert_array_equal, first, jax.tree.map(np.array, state))
  changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), state, later)
  assert all(jax.tree.leaves(changed.params)) and all(jax.tree.leaves(changed.batch_stats))


# --- Whole runs ----------------------------------------------------------------------------------


def test_a_run_folder_explains_itself(whole_run):
  rows = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines()]
  assert [row["epoch"] for row in rows] == [1, 2]
  assert [row["step"] for row in rows] == [16, 32]
  assert rows[1]["train_loss"] < rows[0]["train_loss"]
  names = "train_loss train_accuracy val_loss val_accuracy learning_rate images_per_second seconds"
  for row in rows:
    assert all(row[name] > 0 for name in names.split())
    assert row["val_objective"] > row["val_loss"]
  found = json.loads((whole_run / "results.json").read_text())
  best = max(rows, key=lambda row: row["val_accuracy"])
  assert found["best_epoch"] == best["epoch"]
  assert found["val_accuracy"] == best["val_accuracy"]
  assert found["val_loss"] == best["val_loss"]
  assert found["data"]["train_examples"] == 1293 and found["data"]["test_examples"] == 360
  assert found["test_accuracy"] * 360 == pytest.approx(round(found["test_accuracy"] * 360))
  assert found["selected_on"] == "validation"
  assert found["versions"]["jax"] == jax.__version__
  assert 2**27 < found["memory"]["process_peak_bytes"] < 2**36
  config = json.loads((whole_run / "config.json").read_text())
  assert config["dtype"] == "float32" and config["model"]["widths"] == [4, 4, 8]
  assert (whole_run / "plots" / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"
  assert list((whole_run / "tensorboard").iterdir())
  best_variables = small_runs.checkpoint(whole_run / "checkpoints" / "best")
  assert {path.split(".")[0] for path in best_variables} == {"params", "batch_stats"}


def test_a_finished_run_is_left_as_it_is(data_dir, whole_run):
  before = (whole_run / "results.json").read_bytes()
  done = small_runs.run(small_runs.command(data_dir, whole_run))
  assert done.returncode == 0 and "finished already" in done.stderr
  assert "test accuracy" in done.stdout
  assert (whole_run / "results.json").read_bytes() == before


def test_another_config_is_refused_by_field(data_dir, whole_run):
  done = small_runs.run(small_runs.command(data_dir, whole_run, batch_size=40, seed=3))
  assert done.returncode == 1
  assert done.stderr.startswith("error: workdir: ") and done.stderr.count("\n") == 1
  assert "batch_size (80 there, 40 now), seed (0 there, 3 now)" in done.stderr


@pytest.mark.parametrize("kills", [3])
def test_killed_at_random_moments_it_ends_with_the_same_bits(data_dir, whole_run, tmp_path, kills):
  rng = np.random.default_rng(0)
  for _ in range(kills):
    process = subprocess.Popen(
      small_runs.command(data_dir, tmp_path),
      env=small_runs.environment(),
      stderr=subprocess.DEVNULL,
    )
    wait_for_metrics(tmp_path, process, after=rng.uniform(0, 3))
    process.kill()
    process.wait()
  done = small_runs.run(small_runs.command(data_dir, tmp_path))
  assert done.returncode == 0, done.stderr
  small_runs.assert_same(small_runs.final_state(whole_run), small_runs.final_state(tmp_path))
  assert comparable(whole_run) == comparable(tmp_path)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_in_mid_epoch_and_the_same_command_resumes(
  data_dir, whole_run, tmp_path, signum
):
  arguments = small_runs.command(data_dir, tmp_path)
  process = subprocess.Popen(
    arguments, env=small_runs.environment(), stderr=subprocess.PIPE, text=True
  )
  for line in process.stderr:  # sent as soon as the first epoch is done
    if "epoch 1/2" in line:
      process.send_signal(signum)
      break
  output = process.stderr.read()
  assert process.wait() == 128 + signum, output
  assert f"{signum.name}: saved" in output and "Traceback" not in output
  assert not (tmp_path / "results.json").exists()
  done = small_runs.run(arguments)
  assert done.returncode == 0 and "Resuming" in done.stderr, done.stderr
  small_runs.assert_same(small_runs.final_state(whole_run), small_runs.final_state(tmp_path))
  assert comparable(whole_run) == comparable(tmp_path)


def wait_for_metrics(workdir, process, after: float) -> None:
  """Waits until the run's folder is there, then so many seconds more, or until it is over."""
  deadline = time.monotonic() + 120
  while not (workdir / "checkpoints").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
  end = time.monotonic() + after
  while time.monotonic() < end and process.poll() is None:
    time.sleep(0.02)


def comparable(workdir) -> tuple:
  """metrics.jsonl and the figures of results.json, without clocks."""
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  for row in rows:
    del row["seconds"], row["images_per_second"]
  found = json.loads((workdir / "results.json").read_text())
  return rows, {k: v for k, v in found.items() if k.startswith(("test_", "val_", "best_"))}


# A network without max-pooling: the digits repeat each pixel, so pooling windows are full of ties,
# which rounding decides otherwise on eight devices than on one.
TEN_STEPS = {
  "num_epochs": 10,  # of one step each, so that metrics.jsonl holds every step's loss
  "data.train_examples": 80,
  "data.normalize": "standardize",
  "model.name": "wide_resnet",
  "model.depth": 10,
  "model.width": 1,
  "model.dropout": 0.3,
  "model.widths": None,
  "model.dense": None,
  "augment": "random_crop(padding=2) | random_flip() | mixup(alpha=1.0)",
  "optimizer.learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def ten_steps(data_dir, tmp_path_factory):
  """Ten steps on one device."""
  workdir = tmp_path_factory.mktemp("ten")
  done = small_runs.run(small_runs.command(data_dir, workdir, **TEN_STEPS))
  assert done.returncode == 0, done.stderr
  return workdir


def test_eight_devices_give_the_losses_of_one(data_dir, ten_steps, tmp_path):
  done = small_runs.run(small_runs.command(data_dir, tmp_path, **TEN_STEPS), devices=8)
  assert done.returncode == 0, done.stderr
  assert_close_runs(ten_steps, tmp_path)


def test_unless_each_device_has_its_own_batch_statistics(data_dir, ten_steps, tmp_path):
  fields = TEN_STEPS | {"model.sync_bn": False, "num_epochs": 1}
  done = small_runs.run(small_runs.command(data_dir, tmp_path, **fields), devices=8)
  assert done.returncode == 0, done.stderr
  ours, theirs = comparable(tmp_path)[0][0], comparable(ten_steps)[0][0]
  assert abs(ours["train_loss"] / theirs["train_loss"] - 1) > 1e-4


def after_an_epoch(running: list, victim: int, signum: signal.Signals) -> list[tuple[int, str]]:
  """Sends a signal to one of several processes when an epoch is done; exit codes and errors."""
  for line in running[0].stderr:
    if b"epoch 1/" in line and b"train loss" in line:
      running[victim].send_signal(signum)
      break
  ended = [process.communicate(timeout=120) for process in running]
  return [(p.returncode, err.decode()) for p, (_, err) in zip(running, ended, strict=True)]


def test_two_processes_lose_one_and_resume_with_the_losses_of_one(data_dir, ten_steps, tmp_path):
  arguments = small_runs.command(data_dir, tmp_path, **TEN_STEPS)
  (_, (code, said)) = after_an_epoch(local.start(arguments, 2, 4), 0, signal.SIGKILL)
  assert code == 1
  assert said.startswith("error: process 0 of 2, on 127.0.0.1, is gone") and said.count("\n") == 1
  done = small_runs.run_together(arguments)
  assert done.returncode == 0 and "Resuming" in done.stderr, done.stderr
  assert_close_runs(ten_steps, tmp_path)


def test_stopped_in_two_processes_it_goes_on_in_one(data_dir, ten_steps, tmp_path):
  arguments = small_runs.command(data_dir, tmp_path, **TEN_STEPS)
  for code, said in after_an_epoch(local.start(arguments, 2, 4), 1, signal.SIGTERM):
    assert code == 128 + signal.SIGTERM and said.endswith(
      "SIGTERM: saved; the same command resumes\n"
    )
  done = small_runs.run(arguments)
  assert done.returncode == 0 and "Resuming" in done.stderr, done.stderr
  assert_close_runs(ten_steps, tmp_path)


def test_stopped_in_one_process_it_goes_on_in_two(data_dir, ten_steps, tmp_path):
  arguments = small_runs.command(data_dir, tmp_path, **TEN_STEPS)
  alone = subprocess.Popen(arguments, env=small_runs.environment(), stderr=subprocess.PIPE)
  ((code, _),) = after_an_epoch([alone], 0, signal.SIGTERM)
  assert code == 128 + signal.SIGTERM
  done = small_runs.run_together(arguments)
  assert done.returncode == 0 and "Resuming" in done.stderr, done.stderr
  assert_close_runs(ten_steps, tmp_path)


def assert_close_runs(a, b) -> None:
  """The same losses to float tolerance, row by row."""
  (rows, found), (other_rows, other_found) = comparable(a), comparable(b)
  for row, other in zip(rows, other_rows, strict=True):
    assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-5)
    assert other["val_loss"] == pytest.approx(row["val_loss"], rel=1e-5)
  assert other_found["test_loss"] == pytest.approx(found["test_loss"], rel=1e-5)


def test_streamed_run_is_the_resident_run(data_dir, whole_run, tmp_path):
  done = small_runs.run(small_runs.command(data_dir, tmp_path, data__resident_bytes=0))
  assert done.returncode == 0, done.stderr
  assert comparable(whole_run) == comparable(tmp_path)
  small_runs.assert_same(small_runs.final_state(whole_run), small_runs.final_state(tmp_path))


def test_several_steps_in_one_dispatch_are_the_same_steps(data_dir, tmp_path):
  # Four steps, as one dispatch of three and one of the rest.
  fields = TEN_STEPS | {"num_epochs": 1, "data.train_examples": 320}
  for name, at_once in (("single", 1), ("several", 3)):
    config = small_runs.config(data_dir, steps_per_dispatch=at_once, **fields)
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


def test_bfloat16_computes_in_it_and_keeps_float32(data_dir, tmp_path):
  config = small_runs.config(data_dir, dtype="bfloat16", num_epochs=1, ema_decay=0.9)
  train.train_and_evaluate(config, str(tmp_path))
  state = small_runs.final_state(tmp_path)
  floats = {v.dtype for v in state.values() if np.issubdtype(v.dtype, np.floating)}
  assert floats == {np.dtype(np.float32)}
  row = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert np.isfinite(row["train_loss"])


def test_a_part_of_the_last_epoch_and_a_test_with_augmentation(data_dir, tmp_path):
  config = small_runs.config(data_dir, last_epoch=0.3, select__monitor="")
  found = train.train_and_evaluate(config, str(tmp_path))
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [(row["epoch"], row["step"]) for row in rows] == [(1, 16), (2, 21)]  # 20.8 rounded up
  assert found["epochs_run"] == found["best_epoch"] == 2
  state = small_runs.final_state(tmp_path)
  assert state["state.step"] == 21
  for path, value in small_runs.checkpoint(tmp_path / "checkpoints" / "best").items():
    np.testing.assert_array_equal(value, state[f"state.{path}"])
    np.testing.assert_array_equal(value, state[f"state.slow.{path}"])
  assert found["tta"] == "flip" and found["test_tta_loss"] != found["test_loss"]
  assert f"augmentation flip: {found['test_tta_accuracy']:.2%}" in results.summarize(found)


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


def test_plateau_lowers_the_rate_and_early_stopping_ends_the_run(data_dir, tmp_path):
  config = small_runs.config(
    data_dir,
    num_epochs=9,
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
  found = train.train_and_evaluate(config, str(tmp_path))
  rates = [
    json.loads(line)["learning_rate"]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  np.testing.assert_allclose(rates, [1e-7, 1e-7, 1e-7, 1e-8, 1e-8], rtol=1e-5)
  assert found["epochs_run"] == 5
  schedule = optax.constant_schedule(1e-7)
  assert schedule(0) == pytest.approx(rates[0])


def test_selecting_on_the_test_set_is_said(data_dir, tmp_path):
  config = small_runs.config(data_dir, data__validation="test", num_epochs=1)
  found = train.train_and_evaluate(config, str(tmp_path))
  assert found["selected_on"] == "test"
  assert found["test_accuracy"] == found["val_accuracy"]


def test_order_of_an_epoch_uses_only_training_examples(data_dir):
  dataset = input_pipeline.load(small_runs.config(data_dir))
  splits = make_splits(dataset, small_runs.config(data_dir).data)
  order = np.asarray(input_pipeline.epoch_order(jax.random.key(0), 0, splits.train))
  assert not np.isin(order, splits.validation).any() and not np.isin(order, splits.test).any()
