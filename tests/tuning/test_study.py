"""Workers that share a sweep, TPE, halving, and the journal. A stand-in replaces the training."""

import functools
import json
import math
import os
import signal
import subprocess
import sys

import optuna
import pytest
import small_runs
import stand_in_training
from etils import epath
from optuna.trial import TrialState
from stand_in_training import stand_in, trained_epochs

import train
from cifar_jax import errors
from configs import sweeps
from tuning import study as study_module
from tuning import sweep
from tuning.trials import expand, make_trial

RATE = "optimizer.learning_rate"
RATES = (0.1, 0.2, 0.3, 0.4)


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
  monkeypatch.setattr(train, "train_and_evaluate", stand_in)
  monkeypatch.setattr(sweep.jax, "clear_caches", lambda: None)
  monkeypatch.setattr(sweep.panel, "draw_curves", lambda *_: True)  # see test_panel.py


def run_sweep(tmp_path, parsed, name="out", num_epochs=3):
  config = small_runs.config(tmp_path, num_epochs=num_epochs)
  return sweep.run_sweep(parsed, config, tmp_path / name)


def read_studies(folder):
  """Return the studies in a folder's journal, read as Optuna's users do."""
  backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
  storage = optuna.storages.JournalStorage(backend)
  names = optuna.get_all_study_names(storage)
  return [optuna.load_study(study_name=name, storage=storage) for name in names]


def open_study(tmp_path, parsed):
  """Return a worker's view of a sweep's study."""
  config, folder = small_runs.config(tmp_path), epath.Path(tmp_path / "out")
  make = functools.partial(make_trial, config=config, folder=folder)
  return study_module.Study(parsed, expand(parsed, config, folder), make, folder, num_epochs=3)


# --- Workers -------------------------------------------------------------------------------------


def test_two_workers_share_a_sweep_and_one_that_was_killed_is_restarted(tmp_path):
  folder, text = tmp_path / "out", f"{RATE}={','.join(map(str, RATES))}"
  worker = [sys.executable, stand_in_training.__file__, str(tmp_path), str(folder), text]
  environment = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(str, (small_runs.ROOT, small_runs.ROOT / "tests"))),
    "JAX_PLATFORMS": "cpu",
  }
  doomed = "learning_rate=0.1"  # the first trial, which the first of both to come claims
  workers = [
    subprocess.Popen([*worker, doomed, "2"], env=environment, stderr=subprocess.PIPE, text=True)
    for _ in range(2)
  ]
  codes = []
  for process in workers:
    assert "Traceback" not in process.communicate(timeout=300)[1]
    codes.append(process.returncode)
  assert sorted(codes) == [-signal.SIGKILL, 0]
  summary = run_sweep(tmp_path, sweep.parse(text))  # the restart
  assert {trial["status"] for trial in summary["trials"]} == {"finished"}
  names = [f"learning_rate={rate}" for rate in RATES]
  assert sorted(trained_epochs(folder)) == [(name, epoch) for name in names for epoch in (1, 2, 3)]
  (study,) = read_studies(folder)
  assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
  assert [trial.params for trial in study.trials] == [{RATE: rate} for rate in RATES]
  assert study.best_value == summary["best"]["val_accuracy"]


def test_a_live_workers_trial_is_left_to_it_and_a_dead_ones_is_taken_over(tmp_path):
  parsed = sweep.parse(f"{RATE}=0.1,0.2")
  one, other = open_study(tmp_path, parsed), open_study(tmp_path, parsed)
  (first,) = one.claim(1)
  (second,) = other.claim(1)
  assert (first.name, second.name) == ("learning_rate=0.1", "learning_rate=0.2")
  assert one.claim(1) == other.claim(1) == []
  assert one.num_elsewhere() == other.num_elsewhere() == 1
  one.release([first])  # as the end of its process does
  assert other.claim(1) == [first]
  train.train_and_evaluate(first.config, first.path, evaluate_test=False, pause=lambda _: False)
  other.end(first)
  assert {trial.state.name for trial in read_studies(tmp_path / "out")[0].trials} == {
    "COMPLETE",
    "RUNNING",
  }
  assert one.claim(1) == []


def test_what_is_trained_is_not_trained_again_without_the_journal(tmp_path):
  parsed = sweep.parse(f"{RATE}=0.1,0.2")
  summary = run_sweep(tmp_path, parsed)
  (tmp_path / "out" / "study.journal").unlink()
  assert run_sweep(tmp_path, parsed) == summary
  assert len(trained_epochs(tmp_path / "out")) == 6
  (study,) = read_studies(tmp_path / "out")
  assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


def test_a_sweep_that_grew_is_a_new_study_of_the_same_trials(tmp_path):
  run_sweep(tmp_path, sweep.parse(f"{RATE}=0.1,0.2 model.name=simple_cnn"))
  run_sweep(tmp_path, sweep.parse(f"{RATE}=0.1,0.2,0.3 model.name=simple_cnn"))
  assert len(trained_epochs(tmp_path / "out")) == 9
  studies = read_studies(tmp_path / "out")
  assert [len(study.trials) for study in studies] == [2, 3]


def test_values_of_any_type_are_in_the_study(tmp_path):
  values = [(), (("kernel$", 5e-4),)]
  run_sweep(tmp_path, sweeps.grid({"loss.l2": values, "model.name": ["simple_cnn"], "seed": [1]}))
  (study,) = read_studies(tmp_path / "out")
  params = [trial.params for trial in study.trials]
  assert [row["loss.l2"] for row in params] == list(map(repr, values))
  assert all(row["seed"] == 1 and row["model.name"] == "simple_cnn" for row in params)


def test_a_failed_trial_is_retried_by_the_next_start(tmp_path, monkeypatch):
  def fail(config, *_, **__):
    raise errors.UserError("loss: became NaN")

  parsed = sweep.parse(f"{RATE}=0.1,0.2")
  run_sweep(tmp_path, sweep.parse(f"{RATE}=0.1"))
  monkeypatch.setattr(train, "train_and_evaluate", fail)
  run_sweep(tmp_path, parsed)
  monkeypatch.setattr(train, "train_and_evaluate", stand_in)
  summary = run_sweep(tmp_path, parsed)
  assert {trial["status"] for trial in summary["trials"]} == {"finished"}
  assert not list((tmp_path / "out" / "trials").glob("*/error.txt"))
  trials = read_studies(tmp_path / "out")[1].trials
  assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
  assert trials[1].user_attrs["error"] == "loss: became NaN"


def test_without_optuna_there_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "optuna", None)
  with pytest.raises(errors.UserError, match=r"^sweep: Optuna is missing; install it with"):
    run_sweep(tmp_path, sweeps.grid({RATE: [0.1]}))


# --- TPE -----------------------------------------------------------------------------------------

SPACE = {
  RATE: sweeps.log_uniform(1e-3, 1.0),
  "optimizer.momentum": sweeps.uniform(0.123456, 0.9),
  "model.dense": sweeps.choice((8,), (16, 16)),
  "batch_size": sweeps.choice(40, 80),
  "eval_batch_size": sweeps.integers(100, 120),
}


def test_tpe_draws_from_the_space_and_a_restart_goes_on(tmp_path):
  summary = run_sweep(tmp_path, sweeps.tpe(SPACE, count=8))
  fields = [trial["fields"] for trial in summary["trials"]]
  assert len(fields) == 8 and summary["best"]["rank"] == 1
  for row in fields:
    assert row.keys() == SPACE.keys()
    assert 1e-3 <= row[RATE] <= 1 and row["model.dense"] in ((8,), (16, 16))
    assert 0.123456 <= row["optimizer.momentum"] <= 0.9
    assert row["batch_size"] in (40, 80) and type(row["eval_batch_size"]) is int
    assert 100 <= row["eval_batch_size"] <= 120
  more = run_sweep(tmp_path, sweeps.tpe(SPACE, count=10))
  assert [trial["fields"] for trial in more["trials"]][:8] == fields
  assert len(more["trials"]) == 10 and len(trained_epochs(tmp_path / "out")) == 30
  at_once = run_sweep(tmp_path, sweeps.tpe(SPACE, count=10), "at_once")
  assert [trial["fields"] for trial in at_once["trials"]] == [
    trial["fields"] for trial in more["trials"]
  ]


def test_tpe_finds_the_best_rate_more_closely_than_chance(tmp_path):
  space = {RATE: sweeps.log_uniform(1e-5, 1e3)}
  summary = run_sweep(tmp_path, sweeps.tpe(space, count=24), num_epochs=1)
  distances = [abs(math.log10(trial["fields"][RATE]) + 1) for trial in summary["trials"]]
  assert sum(distances[12:]) / 12 < 0.5 * sum(distances[:10]) / 10


def test_a_space_of_few_trials_ends_when_all_are_drawn(tmp_path):
  summary = run_sweep(tmp_path, sweeps.tpe({RATE: [0.1, 0.2]}, count=5))
  assert sorted(trial["fields"][RATE] for trial in summary["trials"]) == [0.1, 0.2]
  assert len(trained_epochs(tmp_path / "out")) == 6


def test_a_worker_that_died_while_it_drew_a_trial_leaves_none(tmp_path):
  run_sweep(tmp_path, sweeps.tpe(SPACE, count=1))
  (study,) = read_studies(tmp_path / "out")
  study.ask()  # without parameters
  summary = run_sweep(tmp_path, sweeps.tpe(SPACE, count=2))
  assert [trial["status"] for trial in summary["trials"]] == ["finished"] * 2
  (study,) = read_studies(tmp_path / "out")
  assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]


# --- Halving -------------------------------------------------------------------------------------

GRID = {RATE: [10 ** (i / 4 - 4) for i in range(16)]}  # the best is the 13th, 0.1


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_halving_finds_the_winner_of_the_grid_in_part_of_the_epochs(tmp_path, pruner):
  full = run_sweep(tmp_path, sweeps.grid(GRID), "full", num_epochs=9)
  pruned = run_sweep(tmp_path, sweeps.grid(GRID, pruner=pruner), "pruned", num_epochs=9)
  assert pruned["best"] == full["best"] and pruned["best"]["fields"] == {RATE: 0.1}
  assert len(trained_epochs(tmp_path / "full")) == 144
  num_epochs = len(trained_epochs(tmp_path / "pruned"))
  assert num_epochs < 144 * (0.45 if pruner == "halving" else 0.6)
  statuses = [trial["status"] for trial in pruned["trials"]]
  assert set(statuses) == {"finished", "pruned"} and statuses.count("finished") < 8
  (study,) = read_studies(tmp_path / "pruned")
  for trial in study.trials:
    rungs = (
      [1, 3] if trial.state == TrialState.COMPLETE else [1, 3][: len(trial.intermediate_values)]
    )
    assert list(trial.intermediate_values) == rungs
  # Of the pruned trials, those that trained longer come first.
  epochs = [entry["epochs_run"] for entry in pruned["ranking"] if entry["status"] == "pruned"]
  assert epochs == sorted(epochs, reverse=True) and set(epochs) <= {1, 3}


def test_a_promoted_trial_of_a_dead_worker_goes_on_from_its_rung(tmp_path, monkeypatch):
  class Killed(BaseException):
    pass

  def die(name, epoch):
    if epoch == 2:
      raise Killed

  parsed = sweeps.grid({RATE: [0.1]}, pruner="halving")
  dying = functools.partial(stand_in, after_epoch=die)
  monkeypatch.setattr(train, "train_and_evaluate", dying)
  with pytest.raises(Killed):
    run_sweep(tmp_path, parsed)
  monkeypatch.setattr(train, "train_and_evaluate", stand_in)
  summary = run_sweep(tmp_path, parsed)
  assert trained_epochs(tmp_path / "out") == [("learning_rate=0.1", i) for i in (1, 2, 3)]
  assert summary["best"]["name"] == "learning_rate=0.1"


def test_the_full_grid_continues_the_trials_that_halving_ended(tmp_path):
  run_sweep(tmp_path, sweeps.grid(GRID, pruner="halving"))
  assert len(trained_epochs(tmp_path / "out")) < 48
  summary = run_sweep(tmp_path, sweeps.grid(GRID))
  assert {trial["status"] for trial in summary["trials"]} == {"finished"}
  epochs = trained_epochs(tmp_path / "out")
  assert len(epochs) == len(set(epochs)) == 48


# --- The journal ---------------------------------------------------------------------------------


def test_a_journal_with_a_line_that_was_begun_is_repaired(tmp_path):
  run_sweep(tmp_path, sweep.parse(f"{RATE}=0.1,0.2"))
  journal = tmp_path / "out" / "study.journal"
  with journal.open("a") as file:
    file.write('{"op_code":8,"worker_id":"dead","trial_id":0,"user_a')
  run_sweep(tmp_path, sweep.parse(f"{RATE}=0.1,0.2,0.3"))
  assert all(json.loads(line) for line in journal.read_text().splitlines())
  studies = read_studies(tmp_path / "out")
  assert [len(study.trials) for study in studies] == [2, 3]
  assert studies[1].trials[2].state == TrialState.COMPLETE


def test_a_corrupt_journal_is_one_line(tmp_path):
  run_sweep(tmp_path, sweep.parse(f"{RATE}=0.1,0.2"))
  journal = tmp_path / "out" / "study.journal"
  journal.write_text(journal.read_text().replace("op_code", "opcode", 1))
  with pytest.raises(
    errors.UserError, match=r"study\.journal: corrupt .*; remove the file"
  ) as raised:
    run_sweep(tmp_path, sweep.parse(f"{RATE}=0.1,0.2"))
  assert "\n" not in str(raised.value)
