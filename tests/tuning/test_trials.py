"""The trials of sweeps: grids and draws, the command line, names, and the reports' sweeps."""

import importlib
import itertools
import re

import hypothesis
import pytest
import small_runs
from etils import epath
from hypothesis import strategies as st

from cifar_jax import errors
from configs import sweeps
from tuning import sweep
from tuning.trials import expand, name_trial

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


@hypothesis.settings(max_examples=20, deadline=None)
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
  rates = [trial["optimizer.learning_rate"] for trial in sweeps.random(draw, 200).trials]
  assert 75 < sum(rate < 1e-3 for rate in rates) < 125
  assert all(float(f"{rate:.4g}") == rate for rate in rates)


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


def test_a_command_line_gives_the_draws_that_python_gives():
  ranges = "optimizer.learning_rate=log_uniform(1e-4,0.1) model.depth=integers(2, 9) seed=0,1"
  space = {
    "optimizer.learning_rate": sweeps.log_uniform(1e-4, 0.1),
    "model.depth": sweeps.integers(2, 9),
    "seed": [0, 1],
  }
  parsed = sweep.parse(f"{ranges} sampler=random count=5 sampler_seed=3")
  assert parsed == sweeps.random(space, count=5, sampler_seed=3)
  parsed = sweep.parse(f"sampler=tpe count=5 {ranges} rank_by=val_loss")
  assert parsed == sweeps.tpe(space, count=5, rank_by="val_loss")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "neither a .py file nor field=value"),
    ("seed", "'seed' is neither a .py file nor field=value"),
    ("=1", "neither a .py file nor field=value"),
    ("seed=", "seed: a value is empty"),
    ("seed=0,,1", "seed: a value is empty"),
    ("seed=0 seed=1", "seed is given twice"),
    ("model.widths=(1,2", "a bracket or quote is unmatched"),
    ("augment='a", "a bracket or quote is unmatched"),
    ("seed=1)", "a bracket or quote is unmatched"),
    ("seed=0,0", "two trials are the same: seed=0"),
    ("seed=0,1 at_once=-1", "at_once: -1 must be a whole number"),
    ("seed=0,1 at_once=1,2", r"at_once: \(1, 2\) must be a whole number"),
    ("seed=0,1 rank_by=test_accuracy", "rank_by: 'test_accuracy' is not one of val_accuracy"),
    ("at_once=2", "there are no trials"),
    ("seed=0,1 count=3", "count: a grid has every combination; add sampler=random"),
    ("seed=uniform(0,1)", "seed: a range cannot be part of a grid; add sampler=random"),
    ("seed=0,1 sampler=best count=3", "sampler: 'best' is not one of grid, random, tpe"),
    ("seed=0,1 sampler=tpe", "count: missing"),
    ("seed=0,1 sampler=tpe count=0", "count: 0 must be a whole number >= 1"),
    ("seed=0,1 sampler=random count=100000000", "count: 100000000 must be at most 10,000"),
    ("seed=integers(0,4),9 sampler=tpe count=3", "seed: a range cannot have further values"),
    ("batch_size=integers(8,8) sampler=tpe count=3", "8 to 8 is not a range; give low < high"),
    ("batch_size=integers(8,9.5) sampler=tpe count=3", "8 to 9.5 is not a range of whole numbers"),
    ("seed=log_uniform(0,1) sampler=tpe count=3", "0 to 1 is not a range; give 0 < low < high"),
    ("seed=uniform(0) sampler=tpe count=3", r"'uniform\(0\)' is not a range; write uniform\(low,"),
    ("seed=uniform(a,b) sampler=tpe count=3", r"is not a range; write uniform\(low,high\)"),
    ("seed=uniform(0,1)+(1) sampler=tpe count=3", r"is not a range; write uniform\(low,high\)"),
    ("batch_size=integers(80,84) sampler=tpe count=3", "batch_size: 84 does not divide over 8"),
    ("seed=0,1 sampler=tpe count=2 at_once=2", "at_once: TPE draws a trial when"),
    ("batch_size=40,80 pruner=best", "pruner: 'best' is not one of halving, hyperband"),
    ("batch_size=40,80 pruner=halving reduction=1", "reduction: 1 must be a whole number >= 2"),
    ("batch_size=40,80 pruner=halving at_once=2", "at_once: trials that train together cannot"),
    ("seed=0,1 pruner=halving", "pruner: trials that differ in seed cannot be compared at a rung"),
    ("batch_size=40,80 pruner=halving first_rung=2", "first_rung: 2 must be less than num_epochs"),
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
    (lambda: sweeps.tpe({}, 1), "there are no trials"),
    (lambda: sweeps.integers(0, True), "0 to True is not a range of whole numbers"),
    (lambda: sweeps.integers(0, 2**60), "is not a range"),
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
  names = [name_trial(fields) for fields in (a, b)]
  for name in names:
    assert re.fullmatch(r"[a-z0-9._=-]{1,200}", name) and name[0] not in ".-" and name[-1] != "."
  assert a == b or names[0] != names[1]
  assert name_trial(dict(reversed(a.items()))) == names[0]


def test_names_are_readable():
  fields = {"seed": 0, "optimizer.learning_rate": 1e-3, "model.widths": (32, 32)}
  assert name_trial(fields) == "widths=32x32__learning_rate=0.001__seed=0"
  assert name_trial({"schedule.name": "step"}) == "schedule.name=step"
  assert name_trial({}) == "base"


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
