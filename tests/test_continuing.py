"""More epochs for a finished run: the same bits as if it had been longer from the start."""

import json

import pytest
import small_runs
from one_step_runs import FIELDS, STEPS_AND_PLATEAU, rows_of, run

import experiment
from analysis import run_record
from cifar_jax import errors
from cifar_jax.optim import schedules
from cifar_jax.runs import run_folder
from cifar_jax.training import continuing
from configs import default


@pytest.mark.parametrize("fields", [{}, STEPS_AND_PLATEAU], ids=["constant", "steps and plateau"])
def test_two_epochs_continued_to_four_are_four_from_the_start(one_step_data, tmp_path, fields):
  first = run(one_step_data, tmp_path / "continued", 2, **fields)
  assert (tmp_path / "continued" / "results.json").exists()
  second = run(one_step_data, tmp_path / "continued", 4, **fields)
  whole = run(one_step_data, tmp_path / "whole", 4, **fields)
  assert (first["epochs_run"], second["epochs_run"]) == (2, 4)
  small_runs.assert_same(
    small_runs.final_state(tmp_path / "continued"), small_runs.final_state(tmp_path / "whole")
  )
  assert rows_of(tmp_path / "continued") == rows_of(tmp_path / "whole")
  for name in ("test_loss", "test_accuracy", "val_accuracy", "best_epoch"):
    assert second[name] == whole[name]
  config = json.loads((tmp_path / "continued" / "config.json").read_text())
  assert (config["num_epochs"], config["earlier_num_epochs"]) == (4, [2])
  earlier = json.loads((tmp_path / "continued" / "results_2_epochs.json").read_text())
  assert earlier == json.loads(json.dumps(first))
  # The same command finds a finished run, and any other length but a greater one is refused.
  assert run(one_step_data, tmp_path / "continued", 4, **fields)["finished"] == second["finished"]
  with pytest.raises(errors.UserError, match=r"another config: num_epochs \(4 there, 2 now\)"):
    run(one_step_data, tmp_path / "continued", 2, **fields)
  with pytest.raises(errors.UserError, match=r"num_epochs \(4 there, 5 now\), seed \(0 there"):
    run(one_step_data, tmp_path / "continued", 5, **fields | {"seed": 1})


def write_run(workdir, config, rows=0, **results):
  """Write the files of a run of `rows` epochs without checkpoints, finished if it has `results`."""
  folder = run_folder.RunFolder(workdir)
  folder.write_config(experiment.resolve(config))
  folder.write_metrics([{"epoch": epoch, "step": epoch} for epoch in range(1, rows + 1)])
  if results:
    folder.write_results(results)
  return {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}


@pytest.mark.parametrize(
  ("fields", "reason"),
  [
    (
      {"schedule": {"name": "warmup_cosine"}, "batch_size": 400},
      r"had learning rates that depend on its length \(schedule.name is warmup_cosine\)",
    ),
    ({"lookahead__every": 5}, r"ended with the slow weights of Lookahead \(lookahead.every\)"),
    ({"last_epoch": 0.5, "batch_size": 400}, r"ended within an epoch \(last_epoch is 0.5\)"),
  ],
)
def test_a_run_whose_past_depends_on_its_length_is_refused(one_step_data, tmp_path, fields, reason):
  config = small_runs.config(one_step_data, **FIELDS | {"num_epochs": 1} | fields)
  before = write_run(tmp_path, config, rows=1, epochs_run=1)
  message = (
    rf"^num_epochs: the run of 1 epochs in {tmp_path} {reason}, so it cannot be continued to 2 "
    r"epochs; train in another workdir, from the start or from its weights "
    rf"\(--config.model.pretrained={tmp_path}\)$"
  )
  with pytest.raises(errors.UserError, match=message):
    run(one_step_data, tmp_path, 2, **fields)
  for name, content in before.items():
    assert (tmp_path / name).read_bytes() == content


def test_a_run_that_stopped_early_or_lost_its_checkpoint_is_refused(one_step_data, tmp_path):
  config = small_runs.config(one_step_data, **FIELDS | {"num_epochs": 3})
  write_run(tmp_path, config, rows=2, epochs_run=2)
  with pytest.raises(
    errors.UserError, match=r"early stopping ended the run in .* after epoch 2, as"
  ):
    run(one_step_data, tmp_path, 4)
  write_run(tmp_path, config, rows=3, epochs_run=3)
  with pytest.raises(errors.UserError, match=r"has no checkpoint to continue from; restore"):
    run(one_step_data, tmp_path, 4)
  assert json.loads((tmp_path / "config.json").read_text())["num_epochs"] == 3
  assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
  ("schedule", "is_independent"),
  [
    ({"name": "constant"}, True),
    ({"name": "step", "boundaries": (3, 5)}, True),
    ({"name": "step"}, False),  # its boundaries are fractions of the run
    ({"name": "exponential"}, True),
    ({"name": "inverse_time"}, True),
    ({"name": "linear", "warmup_epochs": 1}, False),
    ({"name": "one_cycle"}, False),
  ],
)
def test_a_schedule_that_ignores_the_length_is_continued(schedule, is_independent):
  config = default.get_config()
  config.schedule = schedule
  rate = schedules.create(schedule, config.optimizer.learning_rate, 10, 80)
  difference = continuing._difference(config, rate, 40, 10)
  assert (difference == "") == is_independent
  config.data.file_by_file = True
  assert "divided its epochs among the files" in continuing._difference(config, rate, 40, 10)


def test_every_earlier_length_is_kept(tmp_path):
  folder = run_folder.RunFolder(tmp_path)
  config = default.get_config()
  for epochs in (2, 4, 4, 7):
    config.num_epochs = epochs
    folder.write_config(config)
  saved = json.loads((tmp_path / "config.json").read_text())
  assert (saved.pop("earlier_num_epochs"), saved["num_epochs"]) == ([2, 4], 7)
  assert run_record.read_config(folder.path) == saved
  folder.raise_if_other_config(config, default.get_config())


@pytest.mark.parametrize("num_epochs", [2, 3], ids=["resumed", "continued"])
def test_a_run_goes_on_with_its_own_images_only(one_step_data, tmp_path, num_epochs):
  run(one_step_data, tmp_path, 2)
  if num_epochs == 2:
    (tmp_path / "results.json").unlink()
  file = tmp_path / "dataset.json"
  description = json.loads(file.read_text()) | {"fingerprint": "other"}
  file.write_text(json.dumps(description))
  kept = {path: path.read_bytes() for path in tmp_path.glob("*.json*")}
  with pytest.raises(
    errors.UserError, match=r"^data\.name: .* \(fingerprint other there, .*now\);"
  ):
    run(one_step_data, tmp_path, num_epochs)
  assert {path: path.read_bytes() for path in tmp_path.glob("*.json*")} == kept
