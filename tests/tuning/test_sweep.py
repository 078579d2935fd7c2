"""Sweeps: their trials, folders and ranking. A stand-in replaces the training itself."""

import importlib
import io
import itertools
import json
import re

import hypothesis
import pytest
import small_runs
from etils import epath
from hypothesis import strategies as st

import experiment
import train
from cifar_jax import errors
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.runtime import console, signals
from configs import default, sweeps
from tuning import ranking, sweep, table
from tuning.trials import expand, name_of

WORDS = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,6}", fullmatch=True)
VALUES = st.one_of(
  st.integers(-1000, 1000),
  st.floats(allow_nan=False, allow_infinity=False),
  st.booleans(),
  st.none(),
  WORDS,
  st.text(max_size=20),
  st.lists(st.integers(0, 64), max_size=4).map(tuple),
  st.just((("conv.*kernel$", 5e-4),)),
)
NAMES = st.sampled_from(
  ["seed", "optimizer.learning_rate", "model.widths", "model.name", "schedule.name", "augment"]
)


def is_same(a, b) -> bool:
  return a == b and repr(a) == repr(b)


# --- Trials ---------------------------------------------------------------------------------


def test_a_grid_has_every_combination_and_the_last_field_changes_fastest():
  grid = sweeps.grid({"seed": [0, 1], "model.name": ["a", "b", "c"]})
  assert [tuple(trial.values()) for trial in grid.trials] == list(
    itertools.product([0, 1], ["a", "b", "c"])
  )


@hypothesis.given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_random_trials_are_a_prefix_of_more_random_trials(few, more, seed):
  fields = {
    "optimizer.learning_rate": sweeps.log_uniform(1e-4, 1e-1),
    "model.dropout": sweeps.uniform(0.0, 0.5),
    "model.name": ["a", "b"],
  }
  first = sweeps.random(fields, few, seed).trials
  assert sweeps.random(fields, few + more, seed).trials[:few] == first
  for trial in first:
    assert 1e-4 <= trial["optimizer.learning_rate"] <= 1e-1
    assert 0 <= trial["model.dropout"] <= 0.5
    assert trial["model.name"] in ("a", "b")


def test_log_uniform_draws_are_even_by_logarithm():
  draw = {"optimizer.learning_rate": sweeps.log_uniform(1e-4, 1e-2)}
  rates = [trial["optimizer.learning_rate"] for trial in sweeps.random(draw, 400).trials]
  assert 160 < sum(rate < 1e-3 for rate in rates) < 240


@hypothesis.given(
  st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=3), min_size=1, max_size=3)
)
def test_a_command_line_gives_the_grid_that_python_gives(fields):
  try:
    expected = sweeps.grid(fields)
  except errors.UserError:  # two values are the same
    return
  text = " ".join(f"{name}={','.join(map(repr, values))}" for name, values in fields.items())
  for trial, parsed in zip(expected.trials, sweep.parse(text).trials, strict=True):
    assert is_same(dict(trial), dict(parsed))


def test_a_command_line_needs_few_quotes():
  parsed = sweep.parse("model.widths=(8, 8),(16,)  augment='',random_crop(padding=4)  at_once=3")
  assert [dict(trial) for trial in parsed.trials] == [
    {"model.widths": widths, "augment": augment}
    for widths in ((8, 8), (16,))
    for augment in ("", "random_crop(padding=4)")
  ]
  assert parsed.at_once == 3


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "neither a .py file nor field=value"),
    ("seed", "'seed' is neither a .py file nor field=value"),
    ("=1", "neither a .py file nor field=value"),
    ("seed=", "seed: a value is empty"),
    ("seed=0,,1", "seed: a value is empty"),
    ("seed=0 seed=1", "seed is given twice"),
    ("model.widths=(1,2", "a bracket or quote has no partner"),
    ("augment='a", "a bracket or quote has no partner"),
    ("seed=1)", "a bracket or quote has no partner"),
    ("seed=0,0", "two trials are the same: seed=0"),
    ("seed=0,1 at_once=-1", "at_once: -1 must be a whole number"),
    ("seed=0,1 at_once=1,2", r"at_once: \(1, 2\) must be a whole number"),
    ("seed=0,1 rank_by=test_accuracy", "rank_by: 'test_accuracy' is not one of val_accuracy"),
    ("at_once=2", "there are no trials"),
    ("nowhere.py", "nowhere.py: no such file"),
    ("configs/default.py", "configs/default.py: cannot be loaded .*no attribute 'get_sweep'"),
    ("configs/sweeps/report002_l2.py seed=1", "seed: a file's fields cannot be extended here"),
    ("optimzer.learning_rate=1", "did you mean 'optimizer.learning_rate'"),
    ("seed.x=1", "seed.x: no such config field; seed is a value"),
    ("batch_size=1.5", "batch_size: 1.5 must be of type int"),
    ("optimizer.learning_rate=fast", "optimizer.learning_rate: 'fast' must be of type float"),
    ("batch_size=12", "batch_size: 12 does not divide over 8 devices"),
    ("num_epochs=0", "num_epochs: 0 must be at least 1"),
    (
      "data.validation=test",
      "data.validation: 'test' leaves no validation examples to rank a sweep by",
    ),
  ],
)
def test_an_invalid_sweep_is_a_one_line_error(tmp_path, monkeypatch, text, message):
  monkeypatch.chdir(small_runs.ROOT)
  with pytest.raises(errors.UserError, match=message) as raised:
    sweep.run_sweep(sweep.parse(text), small_runs.config(tmp_path), tmp_path / "out")
  assert "\n" not in str(raised.value)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: sweeps.grid({}), "there are no trials"),
    (lambda: sweeps.grid({"seed": []}), "seed: the list of values is empty"),
    (lambda: sweeps.grid({"model.name": "resnet18"}), "'resnet18' must be a list of values"),
    (lambda: sweeps.grid({"seed": 3}), "seed: 3 must be a list of values"),
    (lambda: sweeps.listed([]), "there are no trials"),
    (lambda: sweeps.listed([{}, {}]), "two trials are the same: no fields"),
    (lambda: sweeps.random({"seed": [0, 1]}, 3), "only 2 different ones were drawn"),
    (lambda: sweeps.random({"seed": [0, 1]}, 0), "count: 0 must be a whole number"),
    (lambda: sweeps.uniform(1, 1), "1 to 1 is not a range"),
    (lambda: sweeps.log_uniform(0, 1), "0 to 1 is not a range"),
    (lambda: sweeps.choice(), r"choice\(\) has no values"),
  ],
)
def test_an_invalid_sweep_in_python_is_an_error(make, message):
  with pytest.raises(errors.UserError, match=message):
    make()


def test_a_sweep_needs_a_base_config(tmp_path):
  with pytest.raises(errors.UserError, match="--config: missing"):
    sweep.run_sweep(sweep.parse("seed=0,1"), None, tmp_path)


# --- Names ---------------------------------------------------------------------------------------

TRIALS = st.dictionaries(NAMES, VALUES, max_size=4)


@hypothesis.given(TRIALS, TRIALS)
def test_names_are_safe_for_file_systems_and_different_for_other_fields(a, b):
  names = [name_of(fields) for fields in (a, b)]
  for name in names:
    assert re.fullmatch(r"[a-z0-9._=-]{1,200}", name) and name[0] not in ".-" and name[-1] != "."
  assert a == b or names[0] != names[1]
  assert name_of(dict(reversed(a.items()))) == names[0]


def test_names_are_readable():
  fields = {"seed": 0, "optimizer.learning_rate": 1e-3, "model.widths": (32, 32)}
  assert name_of(fields) == "widths=32x32__learning_rate=0.001__seed=0"
  assert name_of({"schedule.name": "step"}) == "schedule.name=step"
  assert name_of({}) == "base"


# --- The sweeps of the reports -------------------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "configs"),
  [
    (
      "report001_cats_vs_dogs",
      ["cats_vs_dogs_1e4", "cats_vs_dogs", "cats_vs_dogs_64_1e4", "cats_vs_dogs_64"],
    ),
    ("report001_cifar10_widths", ["basic_cnn", "basic_cnn_128"]),
    ("report002_l2", ["l2_0", "l2_5e5", "l2_5e4", "l2_5e2", "dropout", "final"]),
  ],
)
def test_the_reports_sweeps_are_their_configs(name, configs, tmp_path):
  parsed = sweep.parse(str(small_runs.ROOT / "configs" / "sweeps" / f"{name}.py"))
  trials = expand(parsed, None, epath.Path(tmp_path))
  for trial, config in zip(trials, configs, strict=True):
    module = importlib.import_module(f"configs.reproductions.{name[:9]}_{config}")
    assert trial.config.to_dict() == module.get_config().to_dict()


# --- Runs ----------------------------------------------------------------------------------------


class Training:
  """Stands in for train.train_and_evaluate: records its calls, and writes the files of a run."""

  def __init__(self):
    self.trained = []
    self.results = {}  # by trial name: metrics to write, or an exception to raise

  def __call__(self, config, workdir, make_experiment=None):
    folder = RunFolder(workdir)
    name = folder.path.name
    self.trained.append(name)
    config = experiment.resolve(config)
    folder.raise_if_other_config(config, default.get_config())
    folder.write_config(config)
    metrics = self.results.get(name, {})
    if isinstance(metrics, BaseException):
      raise metrics
    metrics = {"val_accuracy": 0.5, "val_loss": 1.0, "test_accuracy": 0.25} | metrics
    folder.write_metrics([{"epoch": 1, "val_accuracy": metrics["val_accuracy"], "val_loss": 1.0}])
    folder.write_results(metrics | {"epochs_run": 1, "seconds_to_train": 2.0, "best_epoch": 1})


@pytest.fixture
def training(monkeypatch):
  training = Training()
  monkeypatch.setattr(train, "train_and_evaluate", training)
  monkeypatch.setattr(sweep.jax, "clear_caches", lambda: None)
  return training


def run_sweep(tmp_path, text, **options):
  return sweep.run_sweep(
    sweep.parse(text), small_runs.config(tmp_path), tmp_path / "out", **options
  )


def test_ranking_ignores_test_metrics(training, tmp_path):
  training.results = {
    "learning_rate=0.1": {"val_accuracy": 0.6, "test_accuracy": 0.1},
    "learning_rate=0.2": {"val_accuracy": 0.5, "test_accuracy": 0.9},
    "learning_rate=0.3": {"val_accuracy": 0.6, "val_loss": 0.5, "test_accuracy": 0.2},
    "learning_rate=0.4": {"val_accuracy": None, "val_loss": None, "test_accuracy": 1.0},
  }
  summary = run_sweep(tmp_path, "optimizer.learning_rate=0.1,0.2,0.3,0.4")
  order = [entry["fields"]["optimizer.learning_rate"] for entry in summary["ranking"]]
  assert order == [0.3, 0.1, 0.2, 0.4]
  assert [entry["rank"] for entry in summary["ranking"]] == [1, 2, 3, 4]
  assert summary["best"]["test_accuracy"] == 0.2
  written = json.loads((tmp_path / "out" / "sweep.json").read_text())
  assert written == {name: value for name, value in summary.items() if name != "text"}
  assert "test" not in json.dumps(written["ranking"]) + json.dumps(written["trials"])
  assert (
    "best: learning_rate=0.3: validation accuracy 60.00%; test accuracy 20.00%" in summary["text"]
  )
  assert "4 of 4 trials finished" in summary["text"]


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
      training.results[f"learning_rate={rate}__seed={seed}"] = {
        "val_accuracy": accuracy,
        "test_accuracy": accuracy / 2,
      }
  summary = run_sweep(tmp_path, "optimizer.learning_rate=0.1,0.2 seed=0,1")
  best = summary["best"]
  assert best["name"] == "learning_rate=0.2" and best["runs"] == 2
  assert best["val_accuracy"] == pytest.approx(0.55)
  assert best["val_accuracy_standard_error"] == pytest.approx(0.05)
  assert best["test_accuracy"] == pytest.approx(0.275)


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


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_tasks_divide_the_trials(training, tmp_path, count):
  text = "model.widths=(4,4),(8,8) optimizer.learning_rate=0.1,0.2"
  shares = []
  for index in range(count):
    training.trained.clear()
    summary = run_sweep(tmp_path, text, task=(index, count))
    shares.append(list(training.trained))
  all_names = [name for names in shares for name in names]
  assert len(all_names) == len(set(all_names)) == 4
  assert max(map(len, shares)) - min(map(len, shares)) <= 1
  if count == 2:  # each has small networks and large ones
    assert all(len({name.split("__")[0] for name in names}) == 2 for names in shares)
  assert {trial["status"] for trial in summary["trials"]} == {"finished"}


@pytest.mark.parametrize("task", [(1, 1), (-1, 2), (0, 0)])
def test_a_task_out_of_range_is_an_error(tmp_path, task):
  with pytest.raises(errors.UserError, match=r"--task: task -?\d of \d does not exist"):
    run_sweep(tmp_path, "seed=0,1", task=task)


def test_a_second_sweep_in_the_folder_is_an_error(training, tmp_path):
  def start_another(*_):
    with pytest.raises(errors.UserError, match="another sweep is writing"):
      run_sweep(tmp_path, "seed=0,1")
    raise errors.UserError("second sweep was tried")

  train.train_and_evaluate = start_another  # which the fixture's monkeypatch undoes
  with pytest.raises(errors.UserError, match="every trial failed; seed=0: second sweep was tried"):
    run_sweep(tmp_path, "seed=0,1")


# --- Tables --------------------------------------------------------------------------------------


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
  header, *rows = summary["text"].splitlines()[:3]
  assert header.split() == (
    ["rank", "optimizer.learning_rate", "val_accuracy", "val_loss", "runs", "epochs", "seconds"]
  )
  assert " ".join(rows[0].split()) == "1 0.1 61.00% ± 1.00% 1.0000 ± 0.0000 2 1 2"
  assert rows[1].split() == ["failed", "0.2"]
  assert table.with_error({"val_loss": 123456.0}, "val_loss") == "1.23e+05"


class Terminal(io.StringIO):
  """Standard error as a terminal of 20 columns and 8 lines."""

  def isatty(self):
    return True


def open_terminal(monkeypatch) -> Terminal:
  """Make standard error a terminal. (In a fixture, pytest would replace it before the test.)"""
  stderr = Terminal()
  monkeypatch.setattr("sys.stderr", stderr)
  for name, value in (("TERM", "xterm"), ("COLUMNS", "20"), ("LINES", "8")):
    monkeypatch.setenv(name, value)
  console.terminal.cache_clear()  # rich reads the size once
  return stderr


def test_on_a_terminal_the_table_is_redrawn_below_warnings(monkeypatch):
  terminal = open_terminal(monkeypatch)
  handlers = console.log.handlers
  rows = [["seed=0", "waiting"]]
  with table.live_table(["trial", "status"], lambda: rows):
    rows[0][1] = "running"
    console.log.info("an epoch")
    console.log.warning("careful")
    assert console.log.handlers != handlers
  assert console.log.handlers == handlers
  first, rest = terminal.getvalue().split("careful\n")
  assert "seed=0  waiting\r" in first and "an epoch" not in first + rest
  # The cursor is back on the first line of the table.
  assert first.endswith("\r\033[2K\033[1A\033[2K")
  assert "seed=0  running\n" in rest


def test_a_long_table_is_cut_to_the_terminal(monkeypatch):
  terminal = open_terminal(monkeypatch)
  with table.live_table(["trial"], lambda: [["x" * 30], *([str(i)] for i in range(9))]):
    pass
  lines = [
    re.sub(r"\033\[[^a-zA-Z]*[a-zA-Z]", "", line) for line in terminal.getvalue().split("\n")
  ]
  assert lines[:4] == ["trial", "x" * 19 + "…", "0", "1"]
  assert lines[4].split("\r")[0] == "… and 7 more"


def test_the_live_table_lists_running_trials_first(training, tmp_path):
  run_sweep(tmp_path, "seed=0,1")
  folder = epath.Path(tmp_path / "out")
  trials = expand(sweep.parse("seed=0,1,2"), small_runs.config(tmp_path), folder)
  assert sweep._rows(trials, trials[2:], folder) == [
    ["seed=2", "running", "", "", ""],
    ["seed=0", "finished", "1/2", "50.00%", "1.0000"],
    ["seed=1", "finished", "1/2", "50.00%", "1.0000"],
  ]
  assert ranking.read_state(trials[2])["status"] == "waiting"
