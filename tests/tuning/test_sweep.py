"""Sweeps: their folders and ranking. A stand-in replaces the training itself."""

import json

import numpy as np
import pytest
import scipy.stats
import small_runs
from etils import epath

import experiment
import train
from cifar_jax import errors
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.runtime import signals
from configs import default
from tuning import ranking, sweep, table
from tuning.trials import expand

# --- Runs ----------------------------------------------------------------------------------------


class Training:
  """Stands in for train.train_and_evaluate: records its calls, and writes the files of a run."""

  def __init__(self):
    self.trained = []
    self.results = {}  # by trial name: metrics to write, or an exception to raise

  def __call__(self, config, workdir, evaluate_test, pause):
    assert not evaluate_test
    folder = RunFolder(workdir)
    name = folder.path.name
    self.trained.append(name)
    config = experiment.resolve(config)
    folder.raise_if_other_config(config, default.get_config())
    folder.write_config(config)
    metrics = self.results.get(name, {})
    if isinstance(metrics, BaseException):
      raise metrics
    metrics = {"val_accuracy": 0.5, "val_loss": 1.0} | metrics
    folder.write_metrics([{"epoch": 1, "val_accuracy": metrics["val_accuracy"], "val_loss": 1.0}])
    folder.write_results(metrics | {"epochs_run": 1, "seconds_to_train": 2.0, "best_epoch": 1})


@pytest.fixture
def training(monkeypatch):
  training = Training()
  monkeypatch.setattr(train, "train_and_evaluate", training)
  monkeypatch.setattr(sweep.jax, "clear_caches", lambda: None)
  monkeypatch.setattr(sweep.panel, "draw_curves", lambda *_: True)  # see test_panel.py
  return training


def run_sweep(tmp_path, text):
  return sweep.run_sweep(sweep.parse(text), small_runs.config(tmp_path), tmp_path / "out")


def test_ranking_by_accuracy(training, tmp_path):
  training.results = {
    "learning_rate=0.1": {"val_accuracy": 0.6},
    "learning_rate=0.2": {"val_accuracy": 0.5},
    "learning_rate=0.3": {"val_accuracy": 0.6, "val_loss": 0.5},
    "learning_rate=0.4": {"val_accuracy": None, "val_loss": None},
  }
  summary = run_sweep(tmp_path, "optimizer.learning_rate=0.1,0.2,0.3,0.4")
  order = [entry["fields"]["optimizer.learning_rate"] for entry in summary["ranking"]]
  assert order == [0.3, 0.1, 0.2, 0.4]
  assert [entry["rank"] for entry in summary["ranking"]] == [1, 2, 3, 4]
  written = json.loads((tmp_path / "out" / "sweep.json").read_text())
  assert written == {name: value for name, value in summary.items() if name != "text"}
  assert "best: learning_rate=0.3: validation accuracy 60.00%" in summary["text"]
  assert "4 of 4 trials finished" in summary["text"]
  assert (
    "the best and the second are distinguishable is unknown: they differ by 0.00 points"
    in (summary["lead"])
  )


def test_the_ranking_says_whether_the_best_is_distinguishable_from_the_second(training, tmp_path):
  for seed, (accuracy, other, worst) in enumerate([(0.61, 0.6, 0.3), (0.63, 0.62, 0.5)]):
    training.results |= {
      f"learning_rate=0.1__seed={seed}": {"val_accuracy": other},
      f"learning_rate=0.2__seed={seed}": {"val_accuracy": accuracy, "val_loss": None},
      f"learning_rate=0.3__seed={seed}": {"val_accuracy": worst},
    }
  text = "optimizer.learning_rate=0.1,0.2,0.3 seed=0,1"
  best, lead = run_sweep(tmp_path, text)["text"].splitlines()[4:6]
  assert best.startswith("best: learning_rate=0.2: validation accuracy 62.00% ±")
  assert lead.startswith(
    "the second and the best are not distinguishable: the best − the second is"
  )
  assert "2 pairs of seeds" in lead
  assert run_sweep(tmp_path, f"{text} rank_by=val_loss")["lead"].startswith(
    "the second and the best are not distinguishable: each of the 2 seeds has the same figure"
  )


def test_rank_by_loss(training, tmp_path):
  training.results = {
    "learning_rate=0.1": {"val_accuracy": 0.6, "val_loss": 0.7},
    "learning_rate=0.2": {"val_accuracy": 0.5, "val_loss": 0.6},
  }
  summary = run_sweep(tmp_path, "optimizer.learning_rate=0.1,0.2 rank_by=val_loss")
  assert summary["best"]["fields"] == {"optimizer.learning_rate": 0.2}
  assert "best: learning_rate=0.2: validation loss 0.6000" in summary["text"]


def test_trials_that_differ_in_seed_are_one_configuration(training, tmp_path):
  for rate, accuracies in ((0.1, (0.9, 0.1)), (0.2, (0.6, 0.5))):
    for seed, accuracy in enumerate(accuracies):
      training.results[f"learning_rate={rate}__seed={seed}"] = {"val_accuracy": accuracy}
  summary = run_sweep(tmp_path, "optimizer.learning_rate=0.1,0.2 seed=0,1")
  best = summary["best"]
  assert best["name"] == "learning_rate=0.2" and best["runs"] == 2
  assert best["val_accuracy"] == pytest.approx(0.55)
  assert best["val_accuracy_standard_error"] == pytest.approx(0.05)


def test_a_seed_that_two_trials_share_counts_once(training, tmp_path):
  def seed_results(first, accuracies):
    per_seed = [
      {"seed": first + i, "val_accuracy": value, "val_loss": 1 - value}
      for i, value in enumerate(accuracies)
    ]
    return {"per_seed": per_seed, "val_accuracy": 0.0}

  training.results = {
    "seed=0": seed_results(0, [0.1, 0.2, 0.6]),
    "seed=1": seed_results(1, [0.2, 0.6, 0.7]),
  }
  best = run_sweep(tmp_path, "seed=0,1")["best"]
  values = [0.1, 0.2, 0.6, 0.7]
  assert best["runs"] == 4
  assert best["val_accuracy"] == pytest.approx(np.mean(values))
  assert best["val_accuracy_standard_error"] == pytest.approx(scipy.stats.sem(values))


def test_best_py_is_the_config_of_the_best_trial(training, tmp_path):
  training.results["widths=8x8__learning_rate=0.5__seed=1"] = {"val_accuracy": 0.9}
  run_sweep(tmp_path, "model.widths=(4,4),(8,8) optimizer.learning_rate=0.1,0.5 seed=1")
  scope = {}
  exec((tmp_path / "out" / "best.py").read_text(), scope)
  config = scope["get_config"]()
  expected = small_runs.config(tmp_path, model__widths=(8, 8), optimizer__learning_rate=0.5)
  assert config.to_dict() == expected.to_dict()  # with the seed of the base


def test_a_second_start_trains_the_missing_trials_and_a_sweep_may_grow(training, tmp_path):
  training.results["seed=1"] = signals.Interrupted(15)
  with pytest.raises(signals.Interrupted):
    run_sweep(tmp_path, "seed=0,1,2")
  assert training.trained == ["seed=0", "seed=1"]
  states = json.loads((tmp_path / "out" / "sweep.json").read_text())["trials"]
  assert [trial["status"] for trial in states] == ["finished", "waiting", "waiting"]
  training.results.clear()
  training.trained.clear()
  summary = run_sweep(tmp_path, "seed=0,1,2,3")
  assert training.trained == ["seed=1", "seed=2", "seed=3"]
  assert {trial["status"] for trial in summary["trials"]} == {"finished"}
  training.trained.clear()
  assert run_sweep(tmp_path, "seed=0,1,2,3") == summary
  assert training.trained == []


def test_a_workdir_with_another_config_is_an_error_before_any_training(training, tmp_path):
  run_sweep(tmp_path, "seed=0,1")
  training.trained.clear()
  with pytest.raises(errors.UserError, match=r"another config: batch_size \(80 there, 40 now\)"):
    sweep.run_sweep(
      sweep.parse("seed=2,1"), small_runs.config(tmp_path, batch_size=40), tmp_path / "out"
    )
  assert training.trained == []


def test_a_trial_with_an_error_is_reported_and_retried(training, tmp_path):
  training.results["learning_rate=9.0"] = errors.UserError("loss: became NaN")
  summary = run_sweep(tmp_path, "optimizer.learning_rate=9.0,0.1")
  assert [entry["status"] for entry in summary["ranking"]] == ["finished", "failed"]
  assert "failed: learning_rate=9.0: loss: became NaN" in summary["text"]
  assert "1 of 2 trials finished" in summary["text"]
  training.results["learning_rate=9.0"] = {}
  summary = run_sweep(tmp_path, "optimizer.learning_rate=9.0,0.1")
  assert {trial["status"] for trial in summary["trials"]} == {"finished"}
  assert "failed" not in summary["text"]


def test_a_configuration_with_a_failed_run_has_no_rank(training, tmp_path):
  training.results["learning_rate=9.0__seed=1"] = errors.UserError("loss: became NaN")
  training.results["learning_rate=9.0__seed=0"] = {"val_accuracy": 0.99}
  summary = run_sweep(tmp_path, "optimizer.learning_rate=9.0,0.1 seed=0,1")
  assert summary["best"]["name"] == "learning_rate=0.1"
  assert summary["ranking"][1]["rank"] is None


def test_a_sweep_fails_if_every_trial_fails(training, tmp_path):
  training.results = {f"seed={i}": errors.UserError("model.name: no") for i in (0, 1)}
  with pytest.raises(errors.UserError, match=r"every trial failed; seed=0: model\.name: no"):
    run_sweep(tmp_path, "seed=0,1")


def test_off_a_terminal_progress_is_logged(training, tmp_path, log_lines):
  run_sweep(tmp_path, "seed=0,1")
  assert "seed=1: validation accuracy 50.00%" in log_lines
  assert log_lines[-1] == "2 of 2 trials done; best so far: base"


def test_ranking_table(training, tmp_path):
  training.results = {
    "learning_rate=0.1__seed=0": {"val_accuracy": 0.6},
    "learning_rate=0.1__seed=1": {"val_accuracy": 0.62},
    "learning_rate=0.2__seed=0": errors.UserError("loss: became NaN"),
    "learning_rate=0.2__seed=1": {"val_loss": 123456.0},
  }
  summary = run_sweep(tmp_path, "optimizer.learning_rate=0.1,0.2 seed=0,1")
  assert summary["text"].endswith(f"wrote {tmp_path / 'out' / 'curves.png'}")
  header, *rows = summary["text"].splitlines()[:3]
  assert header.split() == (
    ["rank", "optimizer.learning_rate", "val_accuracy", "val_loss", "runs", "epochs", "seconds"]
  )
  assert " ".join(rows[0].split()) == "1 0.1 61.00% ± 1.00% 1.0000 ± 0.0000 2 1 2"
  assert rows[1].split() == ["failed", "0.2"]
  assert table.format_metric({"val_loss": 123456.0}, "val_loss") == "1.23e+05"


def test_the_live_table_lists_running_trials_first(training, tmp_path):
  run_sweep(tmp_path, "seed=0,1")
  folder, parsed = epath.Path(tmp_path / "out"), sweep.parse("seed=0,1,2")
  trials = expand(parsed, small_runs.config(tmp_path), folder)
  worker = sweep._Worker(parsed, small_runs.config(tmp_path), folder)
  worker._running = trials[2:]
  assert worker._rows(worker._study) == [
    ["seed=2", "running", "", "", ""],
    ["seed=0", "finished", "1/2", "50.00%", "1.0000"],
    ["seed=1", "finished", "1/2", "50.00%", "1.0000"],
  ]
  assert ranking.read_state(trials[2])["status"] == "waiting"
