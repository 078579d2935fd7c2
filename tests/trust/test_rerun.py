"""--mode=rerun on a small record: the same training, another augmentation, another rounding."""

import json
import pathlib
import shutil

import pytest
import small_runs
import written_runs

import train
from cifar_jax import errors
from configs import airbench96_subset, default
from trust import rerun


@pytest.fixture
def record(trained, tmp_path) -> pathlib.Path:
  """What benchmarks/results/ keeps of a run."""
  folder = tmp_path / "record"
  folder.mkdir()
  for name in ("config.json", "metrics.jsonl", "results.json"):
    shutil.copy(trained / name, folder)
  return folder


def edit_lines(file: pathlib.Path, **factors: float) -> None:
  """Multiply metrics in every row of a metrics.jsonl."""
  rows = [json.loads(line) for line in file.read_text().splitlines()]
  for row in rows:
    for name, factor in factors.items():
      row[name] *= factor
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def trained_epochs() -> list[int]:
  """How many epochs `repeat` was asked to train."""
  return []


@pytest.fixture
def repeat(trained, trained_epochs, record, tmp_path, monkeypatch):
  """A function that repeats the record by a copy of the trained run, whose metrics it scales.

  Losses of other seeds are those of the copy times 1.01, 1.02 and 1.03.
  """
  environment = json.loads((record / "results.json").read_text())
  environment = {name: environment[name] for name in ("device", "versions", "git_commit")}
  monkeypatch.setattr(rerun.processes, "describe_environment", lambda dtype: environment)

  def run(epochs=None, results=(), **factors):
    def copy(job, num_epochs):
      trained_epochs.append(num_epochs)
      shutil.copytree(trained, job.workdir)
      edit_lines(job.workdir / "metrics.jsonl", **factors)
      edit_lines(job.workdir / "metrics.jsonl", train_loss=1 + 0.01 * job.config.seed)
      content = json.loads((job.workdir / "results.json").read_text()) | dict(results)
      (job.workdir / "results.json").write_text(json.dumps(content))

    path = str(record / "results.json")
    return rerun.rerun(path, tmp_path / "again", epochs, other_seeds=3, train=copy)

  return run


def test_the_same_training_has_the_same_bits(repeat):
  text, code = repeat()
  assert code == 0
  assert "\nsame bits\nchanged since: nothing that is recorded" in text
  assert "repeated 2 of 2 epochs" in text


def test_the_same_first_epoch_has_the_same_bits(repeat):
  text, code = repeat(epochs=1, results={"test_accuracy": 0.0})  # results are of all epochs
  assert (code, "repeated 1 of 2 epochs" in text, "\nsame bits\n" in text) == (0, True, True)


@pytest.mark.parametrize(("is_finished", "expected"), [(True, 100), (False, 2)])
def test_an_unfinished_record_is_repeated_as_far_as_it_goes(
  record, trained_epochs, repeat, is_finished, expected
):
  config = json.loads((record / "config.json").read_text()) | {"num_epochs": 100}
  (record / "config.json").write_text(json.dumps(config))
  if not is_finished:
    (record / "results.json").unlink()
  text, _ = repeat()
  assert trained_epochs == [expected]
  assert ("unknown, because the record is unfinished" in text) is not is_finished


def test_another_rounding_is_within_the_noise_of_seeds(repeat, record):
  """The losses differ in their last bits, and no image of the test set is classified otherwise."""
  text, code = repeat(train_loss=1 + 1e-7)
  assert code == 0
  assert "within the noise of seeds: p = 1 (test_accuracy, binomial error of 360 images)" in text


def test_another_accuracy_differs(repeat):
  text, code = repeat(results={"test_accuracy": 0.9})
  assert code == 1
  assert "\ndiffers: p = " in text


def test_the_first_epochs_are_judged_by_further_seeds(repeat, tmp_path):
  text, code = repeat(epochs=1, train_loss=1.005)
  assert code == 0
  assert "within the noise of seeds" in text
  assert "train_loss, against 4 seeds trained here" in text
  assert sorted(path.name for path in tmp_path.glob("again*")) == [
    *("again", "again_seed_1", "again_seed_2", "again_seed_3")
  ]
  shutil.rmtree(tmp_path / "again")
  for seed in (1, 2, 3):
    shutil.rmtree(tmp_path / f"again_seed_{seed}")
  text, code = repeat(epochs=1, train_loss=1.5)
  assert code == 1
  assert "\ndiffers: p = " in text


def test_another_augmentation_differs(record, repeat, tmp_path, quick_compilation):
  """A program that augments otherwise than the record's, with the spread of seeds of 1 %."""

  def train_otherwise(job, num_epochs):
    first = tmp_path / "other"
    if job.workdir != first:
      written_runs.write_rows(job.workdir, first, 1 + 0.01 * job.config.seed)
      return
    job.config.augment, job.config.num_epochs = "cutout(size=24)", 1
    train.train_and_evaluate(job.config, str(job.workdir), heartbeat=0)

  text, code = rerun.rerun(str(record), tmp_path / "other", 1, 3, train=train_otherwise)
  assert code == 1, text
  assert "\ndiffers: p = " in text


def test_what_changed_is_named(repeat, record):
  results = json.loads((record / "results.json").read_text())
  results["versions"]["jax"] = "0.9.9"
  results["device"] = {"platform": "gpu", "kind": "NVIDIA H100", "count": 1}
  results["git_commit"] = "0123456789abcdef"
  (record / "results.json").write_text(json.dumps(results))
  text, _ = repeat()
  assert "jax 0.9.9 → " in text
  assert "platform gpu → cpu" in text
  assert "cpu_cores not recorded → " in text
  assert "commit 0123456789ab → " in text


def test_several_seeds_are_judged_by_their_spread():
  assert rerun._welch([0.90, 0.91, 0.92], [0.91, 0.90, 0.925]) > 0.5
  assert rerun._welch([0.90, 0.91, 0.92], [0.80, 0.81, 0.82]) < 0.01


def test_the_binomial_error_is_that_of_two_samples():
  """Half of 10,000 right: one deviation of the difference is sqrt(2) * 0.005."""
  assert rerun._binomial(0.5, 0.5 + 0.005 * 2**0.5, 10_000) == pytest.approx(0.317, abs=0.001)
  assert rerun._binomial(1.0, 1.0, 10_000) == 1


def test_a_config_is_restored_with_its_types_and_new_fields():
  config = airbench96_subset.get_config()
  saved = json.loads(json.dumps(config.to_dict()))
  del saved["tta"], saved["proxy"]["learn_every"]  # fields that are newer than the record
  restored = rerun.restore_config(saved)
  assert restored.proxy.learn_every == default.get_config().proxy.learn_every
  config.tta, config.proxy.learn_every = restored.tta, restored.proxy.learn_every
  assert restored.to_dict() == config.to_dict()


def test_a_config_of_another_version_is_refused():
  saved = json.loads(json.dumps(default.get_config().to_dict())) | {"lr": 0.1}
  with pytest.raises(errors.UserError, match=r"config\.json: written by another version: lr: no s"):
    rerun.restore_config(saved)


def test_a_data_folder_that_is_gone_is_the_default(tmp_path):
  saved = small_runs.config(tmp_path / "gone").to_dict()
  assert rerun.restore_config(saved).data.dir == ""


def test_other_data_are_refused(repeat, record):
  results = json.loads((record / "results.json").read_text())
  results["data"]["fingerprint"] = "0" * 64
  (record / "results.json").write_text(json.dumps(results))
  with pytest.raises(errors.UserError, match=r"digits has the fingerprint .* trained on 0000"):
    repeat()


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match=r"no config\.json there; name a run folder or its"):
    rerun.rerun(str(tmp_path / "results.json"), tmp_path / "again")


def test_a_fork_is_refused(repeat, record):
  results = json.loads((record / "results.json").read_text())
  results["lineage"] = [{"run": "base", "step": 16}]
  (record / "results.json").write_text(json.dumps(results))
  with pytest.raises(errors.UserError, match="a fork of base, so its config alone does not repeat"):
    repeat()


def test_the_record_itself_is_no_place_for_the_repetition(record):
  with pytest.raises(errors.UserError, match="holds the record; pass another folder"):
    rerun.rerun(str(record), record)
