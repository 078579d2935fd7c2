"""--mode=sync: every epoch once, in order, live and after an interruption."""

import json
import os
import signal
import struct
import sys
import threading
import types

import pytest
from tensorboardX.proto import event_pb2

from analysis import sync, trackers
from cifar_jax import errors
from cifar_jax.config import as_json
from cifar_jax.runtime import signals
from configs import default

PNG = b"\x89PNG\r\n\x1a\n"


def make_row(epoch):
  return {"step": 10 * epoch, "epoch": epoch, "val_loss": 1 / epoch, "val_top5": None}


def write_rows(folder, count):
  (folder / "metrics.jsonl").write_text(
    "".join(f"{json.dumps(make_row(epoch))}\n" for epoch in range(1, count + 1))
  )


def finish(folder):
  (folder / "plots").mkdir()
  (folder / "plots" / "learning_curves.png").write_bytes(PNG)
  results = {"test_accuracy": 0.5, "test_loss": 1.5, "seeds": [0], "model": "resnet18"}
  (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The folder of a run that has not finished an epoch."""
  monkeypatch.setattr(sync, "POLL_SECONDS", 0.02)
  path = tmp_path / "a_run"
  path.mkdir()
  (path / "config.json").write_text(json.dumps(as_json(default.get_config())))
  return path


@pytest.fixture
def sent(monkeypatch):
  """A tracker that collects what it receives; an epoch in `fails` is refused."""
  calls = types.SimpleNamespace(opened=[], rows=[], finished=[], closed=0, fails=set())

  class Tracker:
    def __init__(self, name, fields, destination, run_id):
      calls.opened.append((name, fields["batch_size"], destination, run_id))
      self.run_id = run_id or "new-id"

    def log(self, row):
      if row["epoch"] in calls.fails:
        raise ConnectionError("no route to host\nand more")
      calls.rows.append(row["epoch"])

    def finish(self, results, pictures):
      calls.finished.append((results, [path.name for path in pictures]))

    def close(self):
      calls.closed += 1

  monkeypatch.setitem(trackers.TRACKERS, "wandb", Tracker)
  return calls


def test_each_epoch_is_sent_once_over_several_calls(folder, sent):
  write_rows(folder, 2)
  assert sync.sync(folder, "wandb", "project") == ("new-id", state(2, False))
  sync.sync(folder, "wandb", "project")
  write_rows(folder, 3)
  sync.sync(folder, "wandb", "project")
  assert (sent.rows, sent.closed, sent.finished) == ([1, 2, 3], 3, [])
  write_rows(folder, 4)
  finish(folder)
  assert sync.sync(folder, "wandb", "project")[1] == state(4, True)
  assert sent.rows == [1, 2, 3, 4]
  assert sent.finished == [({"test_accuracy": 0.5, "test_loss": 1.5}, ["learning_curves.png"])]
  assert sent.closed == 3
  ids = [run_id for *_, run_id in sent.opened]
  assert sent.opened[0] == ("a_run", 128, "project", None) and ids == [None, *["new-id"] * 3]
  sync.sync(folder, "wandb")  # everything is there
  assert len(sent.opened) == 4


def state(rows, finished):
  return {"run_id": "new-id", "rows": rows, "finished": finished}


def test_after_a_failure_the_same_command_continues(folder, sent):
  write_rows(folder, 3)
  sent.fails = {2}
  with pytest.raises(errors.UserError) as error:
    sync.sync(folder, "wandb")
  assert str(error.value) == (
    "--to: wandb failed (ConnectionError: no route to host); fix this, then rerun the same command "
    "to continue"
  )
  assert json.loads((folder / "sync_wandb.json").read_text()) == state(1, False)
  sent.fails = set()
  sync.sync(folder, "wandb")
  assert sent.rows == [1, 2, 3] and sent.opened[1][3] == "new-id"


def test_a_run_is_followed_until_it_is_finished(folder, sent):
  def train():
    for epoch in (1, 2, 3):
      write_rows(folder, epoch)
      wait(lambda epoch=epoch: sent.rows == [*range(1, epoch + 1)])
    finish(folder)

  thread = threading.Thread(target=train)
  thread.start()
  assert sync.sync(folder, "wandb", follow=True)[1] == state(3, True)
  thread.join()
  assert sent.rows == [1, 2, 3] and len(sent.finished) == 1


def wait(condition):
  event = threading.Event()
  for _ in range(1000):
    if condition():
      return
    event.wait(0.01)
  raise TimeoutError


def test_a_signal_ends_following_with_everything_sent(folder, sent):
  write_rows(folder, 2)

  def interrupt():
    wait(lambda: sent.rows == [1, 2])
    os.kill(os.getpid(), signal.SIGINT)

  thread = threading.Thread(target=interrupt)
  thread.start()
  with pytest.raises(signals.Interrupted) as stop:
    sync.sync(folder, "wandb", follow=True)
  thread.join()
  assert stop.value.signum == signal.SIGINT
  assert sent.closed == 1
  assert json.loads((folder / "sync_wandb.json").read_text()) == state(2, False)


def test_what_cannot_be_sent_gets_one_line(folder, tmp_path, monkeypatch):
  with pytest.raises(errors.UserError, match=r"a_run has no finished epoch yet; .* --follow"):
    sync.sync(folder, "tensorboard", str(tmp_path / "logs"))
  write_rows(folder, 1)
  with pytest.raises(errors.UserError, match="--destination: missing; name the folder"):
    sync.sync(folder, "tensorboard")
  with pytest.raises(errors.UserError, match="'excel' is not one of wandb, mlflow"):
    sync.sync(folder, "excel")
  with pytest.raises(errors.UserError, match="not a run folder"):
    sync.sync(tmp_path, "tensorboard", str(tmp_path / "logs"))
  for package in ("wandb", "mlflow", "trackio"):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
      errors.UserError, match=f"{package} is not installed .*pip install {package}`"
    ):
      sync.sync(folder, package)
  (folder / "sync_tensorboard.json").write_text('{"rows": "many"}')
  with pytest.raises(errors.UserError, match=r"sync_tensorboard\.json: corrupt"):
    sync.sync(folder, "tensorboard", str(tmp_path / "logs"))


def read_events(folder):
  """Return step, tag and value of each event of all files of a folder, by name of the file."""
  values = []
  for file in sorted(folder.iterdir()):
    content = file.read_bytes()
    while content:
      (length,) = struct.unpack("<Q", content[:8])
      event = event_pb2.Event.FromString(content[12 : 12 + length])
      for value in event.summary.value:
        kind = value.WhichOneof("value")
        values.append((event.step, value.tag, getattr(value, kind), kind))
      content = content[16 + length :]
  return values


def test_tensorboard_events_hold_curves_config_results_and_pictures(folder, tmp_path):
  write_rows(folder, 2)
  logs = tmp_path / "logs" / "here"
  sync.sync(folder, "tensorboard", str(logs))
  write_rows(folder, 3)
  finish(folder)
  (file,) = (logs / "a_run").iterdir()
  file.unlink()  # each start writes everything
  sync.sync(folder, "tensorboard", str(logs))
  values = read_events(logs / "a_run")
  curve = [(step, value) for step, tag, value, _ in values if tag == "val_loss"]
  assert curve == [(10, 1.0), (20, 0.5), (30, pytest.approx(1 / 3))]
  assert (30, "results/test_accuracy", 0.5, "simple_value") in values
  (picture,) = [value for _, tag, value, _ in values if tag == "plots/learning_curves"]
  assert picture.encoded_image_string == PNG
  (config,) = [value for _, tag, value, _ in values if tag.startswith("config")]
  assert "optimizer.learning_rate = 0.1" in str(config)


def test_wandb_receives_steps_summary_and_pictures(folder, monkeypatch):
  calls, client = [], types.ModuleType("wandb")
  run = types.SimpleNamespace(
    id="abc",
    log=lambda values, step=None: calls.append((step, values)),
    summary={},
    finish=lambda: calls.append("finish"),
  )
  client.Image = lambda path: ("image", os.path.basename(path))
  client.init = lambda **options: calls.append(options) or run
  monkeypatch.setitem(sys.modules, "wandb", client)
  write_rows(folder, 1)
  finish(folder)
  assert sync.sync(folder, "wandb", "mine")[0] == "abc"
  options = calls[0]
  assert (options["project"], options["name"], options["id"]) == ("mine", "a_run", None)
  assert options["config"]["optimizer.learning_rate"] == 0.1
  assert calls[1:] == [
    (10, {"epoch": 1, "val_loss": 1.0}),
    (None, {"plots/learning_curves": ("image", "learning_curves.png")}),
    "finish",
  ]
  assert run.summary == {"test_accuracy": 0.5, "test_loss": 1.5}


def test_mlflow_receives_parameters_metrics_and_pictures(folder, monkeypatch):
  calls, client = [], types.ModuleType("mlflow")

  class Client:
    def get_experiment_by_name(self, name):
      return None

    def create_experiment(self, name):
      calls.append(("experiment", name))
      return "7"

    def create_run(self, experiment, run_name):
      calls.append(("run", experiment, run_name))
      return types.SimpleNamespace(info=types.SimpleNamespace(run_id="id"))

    def log_batch(self, run_id, metrics=(), params=()):
      assert run_id == "id" and len(params) <= 100
      calls.extend(("param", name, value) for name, value in params)
      calls.extend((step, name, value) for name, value, _, step in metrics)

    def log_artifact(self, run_id, path, folder):
      calls.append((os.path.basename(path), folder))

    def set_terminated(self, run_id, status):
      calls.append(status)

  client.MlflowClient = Client
  client.entities = types.SimpleNamespace(Param=lambda *x: x, Metric=lambda *x: x)
  monkeypatch.setitem(sys.modules, "mlflow", client)
  write_rows(folder, 1)
  finish(folder)
  assert sync.sync(folder, "mlflow")[0] == "id"
  assert calls[:2] == [("experiment", "cifar-jax"), ("run", "7", "a_run")]
  assert ("param", "optimizer.learning_rate", "0.1") in calls
  assert calls[-6:] == [
    (10, "epoch", 1.0),
    (10, "val_loss", 1.0),
    (10, "results/test_accuracy", 0.5),
    (10, "results/test_loss", 1.5),
    ("learning_curves.png", "plots"),
    "FINISHED",
  ]


def test_trackio_receives_steps_results_and_pictures(folder, monkeypatch):
  calls, client = [], types.ModuleType("trackio")
  run = types.SimpleNamespace(
    log=lambda values, step=None: calls.append((step, values)),
    finish=lambda: calls.append("finish"),
  )
  client.Image = lambda path: ("image", os.path.basename(path))
  client.init = lambda **options: calls.append(options) or run
  monkeypatch.setitem(sys.modules, "trackio", client)
  write_rows(folder, 1)
  finish(folder)
  assert sync.sync(folder, "trackio")[0] == "a_run"
  assert (calls[0]["project"], calls[0]["name"]) == ("cifar-jax", "a_run")
  picture = ("image", "learning_curves.png")
  results = {"results/test_accuracy": 0.5, "results/test_loss": 1.5}
  assert calls[1:] == [
    (10, {"epoch": 1, "val_loss": 1.0}),
    (None, results | {"plots/learning_curves": picture}),
    "finish",
  ]


def test_several_seeds_are_sent_each_and_as_means():
  seeds = [{"seed": seed, "val_loss": float(seed)} for seed in (3, 4)]
  values = trackers.numbers({"step": 5, "epoch": 1, "val_loss": 3.5, "seeds": seeds, "is_x": True})
  assert values == {"epoch": 1, "val_loss": 3.5, "seed_3/val_loss": 3.0, "seed_4/val_loss": 4.0}
