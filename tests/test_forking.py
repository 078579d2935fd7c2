"""Runs that start from a checkpoint of another: `--from=RUN[@step]`."""

import contextlib
import json
import types

import numpy as np
import pytest
import small_runs
from one_step_runs import STEPS_AND_PLATEAU, rows_of, run

from analysis import load_run
from cifar_jax import errors
from cifar_jax.runs import checkpoints, run_folder
from cifar_jax.training import fork_parent, fork_state, forking
from cifar_jax.training.callbacks import Callbacks
from cifar_jax.training.fork_parent import Fork
from configs import default

STABLE_THEN_DECAY = {
  "schedule": {"name": "warmup_stable_decay", "warmup_epochs": 2, "decay_epochs": 2},
  "keep_every": 3,
}
TWO_SEEDS = STEPS_AND_PLATEAU | {"num_seeds": 2}
COSINE = {"schedule": {"name": "warmup_cosine"}, "keep_every": 2, "checkpoint_every": 5}


@pytest.fixture(scope="module")
def parent(one_step_data, tmp_path_factory):
  """A finished run of five epochs with momentum and a cosine; every second epoch is kept."""
  workdir = tmp_path_factory.mktemp("runs") / "parent"
  run(one_step_data, workdir, 5, **COSINE)
  return workdir


def lineage_of(workdir):
  return json.loads((workdir / "lineage.json").read_text())["lineage"]


def assert_same_run(a, b):
  """Assert that two run folders have the same states, metrics and results, bit for bit."""
  small_runs.assert_same(small_runs.final_state(a), small_runs.final_state(b))
  assert rows_of(a) == rows_of(b)
  assert small_runs.comparable(a)[1] == small_runs.comparable(b)[1]


@pytest.mark.parametrize(
  ("fields", "step"),
  [({}, 5), (STABLE_THEN_DECAY, 3), (TWO_SEEDS, 5)],
  ids=["constant", "before the decay", "plateau and two seeds"],
)
def test_five_epochs_forked_to_ten_are_ten_from_the_start(
  one_step_data, tmp_path, log_lines, fields, step
):
  fields = fields | {"checkpoint_every": 10}  # saving costs more than an epoch
  short = run(one_step_data, tmp_path / "short", 5, **fields)
  source = f"{tmp_path / 'short'}@{step}"
  forked = run(one_step_data, tmp_path / "forked", 10, Fork(source), **fields)
  run(one_step_data, tmp_path / "whole", 10, **fields)
  assert_same_run(tmp_path / "forked", tmp_path / "whole")
  assert "  num_epochs: 5 there, 10 here" in log_lines
  assert "  the same as a run of 10 epochs from the start" in log_lines
  (entry,) = lineage_of(tmp_path / "forked")
  assert entry["config_changes"] == {"num_epochs": [5, 10]}
  assert (entry["run"], entry["step"], entry["epoch"]) == (str(tmp_path / "short"), step, step)
  assert (entry["differences"], entry["learning_rates"]) == ([], None)
  assert entry["fingerprint"] == short["data"]["fingerprint"] == forked["data"]["fingerprint"]
  assert forked["lineage"] == [entry]
  assert forked["test_uses"] == short["test_uses"] + 1
  config = json.loads((tmp_path / "forked" / "config.json").read_text())
  assert (config["num_epochs"], config["forked_from"]) == (10, source)
  # The same command finds its finished run, and the parent is as it was.
  again = run(one_step_data, tmp_path / "forked", 10, Fork(source), **fields)
  assert again["finished"] == forked["finished"]
  assert json.loads((tmp_path / "short" / "results.json").read_text()) == json.loads(
    json.dumps(short)
  )


def test_a_run_that_stopped_early_forked_without_stopping_is_one_that_never_stopped(
  one_step_data, tmp_path
):
  stopping = {"early_stopping__monitor": "train_loss", "early_stopping__min_delta": 9.0}
  stopping["checkpoint_every"] = 10
  run(one_step_data, tmp_path / "stopped", 5, early_stopping__patience=2, **stopping)
  assert len(rows_of(tmp_path / "stopped")) == 3
  with pytest.raises(errors.UserError, match=r"early stopping ended .* after epoch 3, as it would"):
    run(
      one_step_data,
      tmp_path / "again",
      6,
      Fork(str(tmp_path / "stopped")),
      early_stopping__patience=2,
      **stopping,
    )
  patient = {"early_stopping__patience": 4, **stopping}
  run(one_step_data, tmp_path / "forked", 6, Fork(str(tmp_path / "stopped")), **patient)
  run(one_step_data, tmp_path / "whole", 6, **patient)
  assert_same_run(tmp_path / "forked", tmp_path / "whole")
  assert len(rows_of(tmp_path / "forked")) == 5


def test_a_jump_of_the_learning_rate_must_be_confirmed(one_step_data, tmp_path, parent, log_lines):
  message = (
    r"^--from: the learning rate would go from 0\.00477 to 0\.025 at step 5, and the steps before "
    r"did not have the rates of the new schedule; add --confirm_jump, or set a schedule with the "
  )
  with pytest.raises(errors.UserError, match=message):
    run(one_step_data, tmp_path / "forked", 10, Fork(str(parent)), **COSINE)
  assert "  learning rate: 0.00477 before the fork, 0.025 after it" in log_lines
  assert not checkpoints.list_states(tmp_path / "forked")
  run(one_step_data, tmp_path / "forked", 10, Fork(str(parent), confirm_jump=True), **COSINE)
  rows, before = rows_of(tmp_path / "forked"), rows_of(parent)
  assert rows[:5] == before
  # The cosine of ten epochs goes on from its middle.
  assert rows[5]["learning_rate"] == pytest.approx(0.05 * 0.5)
  assert lineage_of(tmp_path / "forked")[0]["learning_rates"] == pytest.approx(
    [before[-1]["learning_rate"], 0.025]
  )


def test_checkpoints_are_kept_and_can_be_read(one_step_data, parent):
  assert checkpoints.list_states(parent) == [2, 4, 5]
  weights = [checkpoints.read_weights(parent, step)["params"] for step in (2, 4, 5)]
  assert not np.array_equal(weights[0]["head"]["kernel"], weights[1]["head"]["kernel"])
  loaded = load_run(parent, step=2)
  assert loaded.step == 2
  np.testing.assert_array_equal(
    loaded.variables["params"]["head"]["kernel"], weights[0]["head"]["kernel"]
  )
  with pytest.raises(errors.UserError, match=r"has no checkpoint of step 3; take one of: 2, 4, 5"):
    load_run(parent, step=3)


def test_what_the_parent_has_not_starts_anew_if_confirmed(one_step_data, tmp_path, parent):
  other = COSINE | {"optimizer__momentum": 0.0}
  with pytest.raises(errors.UserError, match=r"opt_state\.method\S* is \(.+\) there but absent wi"):
    run(one_step_data, tmp_path, 6, Fork(str(parent), confirm_jump=True), **other)
  fields = COSINE | {"optimizer__name": "adam", "optimizer__momentum": None, "ema_decay": 0.5}
  fields |= {"seed": 7, "select__monitor": "val_loss", "select__mode": "min"}
  with pytest.raises(
    errors.UserError, match=r"^optimizer\.name: .* it is sgd there and adam here; add --fresh_opt"
  ):
    run(one_step_data, tmp_path, 6, Fork(str(parent), confirm_jump=True), **fields)
  result = run(one_step_data, tmp_path, 6, Fork(f"{parent}@4", True, True), **fields)
  state = small_runs.final_state(tmp_path)
  assert state["state.opt_state.step"] == state["state.step"] == 6  # the schedule went on
  assert state["state.key"].tolist() == [0, 7]
  assert result["best_epoch"] > 4
  (entry,) = lineage_of(tmp_path)
  assert entry["differences"] == [
    "the weights of ema_decay start from those of the checkpoint",
    "the optimizer's state is new",
    "the best epoch is chosen from those after the checkpoint",
    "ema_decay, optimizer.momentum, optimizer.name, seed, select.mode, select.monitor had other "
    "values in the steps before",
  ]


@pytest.mark.parametrize(
  ("source", "epochs", "fields", "message"),
  [
    ("{parent}@3", 9, {}, r"parent: has no checkpoint of step 3; take one of: 2, 4, 5$"),
    (
      "{parent}/plots",
      9,
      {},
      r"^--from: .*/plots is not a run folder, because it has no config.json; name",
    ),
    (
      "{parent}@5",
      5,
      {},
      r"^num_epochs: .*@5 is at epoch 5 already, and the fork ends after 5; ra",
    ),
    (
      "{parent}",
      9,
      {"batch_size": 600},
      r"^batch_size: the epochs of .* do not have the 2 steps ",
    ),
    ("{parent}", 9, {"num_seeds": 2}, r"^num_seeds: 1 in .*parent, 2 now; a fork must keep its"),
    (
      "{parent}",
      9,
      {"model__hidden": 4},
      r"differs: params\.Dense_0\.bias is absent there but \(4,\) with this config; a fork must",
    ),
  ],
)
def test_what_cannot_be_forked_is_one_line(
  one_step_data, tmp_path, parent, source, epochs, fields, message
):
  fields = COSINE | fields
  with pytest.raises(errors.UserError, match=message) as raised:
    run(one_step_data, tmp_path, epochs, Fork(source.format(parent=parent), True), **fields)
  assert "\n" not in str(raised.value)
  assert not (tmp_path / "lineage.json").exists()


@pytest.mark.parametrize(
  ("field", "is_refused"),
  [("seed", True), ("data.split_seed", True), ("data.dir", False), ("data.workers", False)],
)
def test_a_fork_within_an_epoch_keeps_the_order_of_examples(field, is_refused):
  parent = types.SimpleNamespace(config=default.get_config(), path="run", step=5)
  parent.rows = [{"epoch": 1, "step": 4}]
  child = types.SimpleNamespace(config=default.get_config(), steps_per_epoch=4, total_steps=40)
  expectation = contextlib.nullcontext()
  if is_refused:
    expectation = pytest.raises(errors.UserError, match=rf"^{field}: changes the order of examples")
  with expectation:
    forking._raise_if_not_continuable(parent, child, {field: (0, 1)})


def test_a_callback_cannot_watch_what_the_parent_has_not_measured():
  config = default.get_config()
  config.early_stopping.monitor = "val_loss"
  fresh = Callbacks(config).init()
  arguments = ([{"epoch": 1, "train_loss": 1.0}], fresh, fresh, Callbacks(config).update, config)
  with pytest.raises(errors.UserError, match=r"^early_stopping\.monitor: the parent's epochs have"):
    fork_state.adapt_callbacks(*arguments, {"early_stopping.monitor": ("", "val_loss")}, False)


def test_a_folder_has_one_origin(one_step_data, tmp_path, parent):
  with pytest.raises(errors.UserError, match="is the run that --from names; use another folder"):
    run(one_step_data, parent, 5, Fork(str(parent)), **COSINE)
  run(one_step_data, tmp_path / "a", 6, Fork(f"{parent}@4", True), **COSINE)
  with pytest.raises(errors.UserError, match=r"a run that started from \S+@4, not from \S+@5; use"):
    run(one_step_data, tmp_path / "a", 6, Fork(f"{parent}@5", True), **COSINE)
  # A fork of a fork lists both ancestors.
  last = COSINE | {"keep_every": 1, "select__monitor": ""}
  run(one_step_data, tmp_path / "b", 7, Fork(str(tmp_path / "a"), True), **last)
  assert [row["step"] for row in lineage_of(tmp_path / "b")] == [4, 6]
  fork = run_folder.RunFolder(tmp_path / "unfinished")
  fork.write_lineage(lineage_of(tmp_path / "a"))
  with pytest.raises(errors.UserError, match=r"was meant to start from .* at step 4, but has no"):
    run(one_step_data, fork.path, 6, **COSINE)
  # The last epoch's weights were selected, and its whole state is there.
  path, step = fork_parent._parse(f"{tmp_path / 'b'}@best")
  assert (str(path), step) == (str(tmp_path / "b"), 7)


def test_a_fork_need_not_have_the_figures_of_its_parent(parent, one_step_data, tmp_path):
  fork = Fork(str(parent), confirm_jump=True)
  fields = COSINE | {"loss__l2": (), "select__monitor": ""}
  content = run(one_step_data, tmp_path / "fork", 6, fork, **fields)
  rows = rows_of(tmp_path / "fork")
  assert "val_objective" in rows[0] and "val_objective" not in rows[-1]
  assert "val_objective" not in content and content["val_loss"] == rows[-1]["val_loss"]
