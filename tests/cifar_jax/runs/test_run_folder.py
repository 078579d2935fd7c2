"""A run folder: one run, one config, complete files."""

import json

import pytest

from cifar_jax import errors
from cifar_jax.runs import run_folder
from configs import default


def test_the_same_config_is_accepted(tmp_path):
  folder = run_folder.RunFolder(tmp_path / "run")
  folder.raise_if_other_config(default.get_config(), default.get_config())
  folder.write_config(default.get_config())
  folder.raise_if_other_config(default.get_config(), default.get_config())
  assert json.loads((tmp_path / "run" / "config.json").read_text())["batch_size"] == 128


def test_another_config_is_rejected_by_field(tmp_path):
  folder = run_folder.RunFolder(tmp_path)
  folder.write_config(default.get_config())
  other = default.get_config()
  other.loss.l2 = (("kernel", 1e-4),)
  other.model.depth = 28
  with pytest.raises(errors.UserError) as raised:
    folder.raise_if_other_config(other, default.get_config())
  assert str(raised.value) == (
    f"workdir: {tmp_path} holds a run with another config: "
    "loss.l2 ([] there, [['kernel', 0.0001]] now), model.depth (absent there, 28 now); "
    "use another folder, or the same values to resume"
  )


def test_fields_that_an_older_run_lacks_have_their_defaults(tmp_path):
  folder, config = run_folder.RunFolder(tmp_path), default.get_config()
  del config.tta, config.lookahead
  folder.write_config(config)
  folder.raise_if_other_config(default.get_config(), default.get_config())
  other = default.get_config()
  other.tta = "flip"
  with pytest.raises(errors.UserError, match=r"config: tta \( there, flip now\)"):
    folder.raise_if_other_config(other, default.get_config())


def test_one_run_at_a_time_uses_a_folder(tmp_path):
  first, second = run_folder.RunFolder(tmp_path), run_folder.RunFolder(tmp_path)
  with first.locked(), pytest.raises(errors.UserError, match="another run is writing to"):
    second.locked().__enter__()
  with second.locked():
    pass


def test_rows_are_replaced_together_and_nan_is_null(tmp_path):
  folder = run_folder.RunFolder(tmp_path)
  assert folder.metrics() == []
  folder.write_metrics([{"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": float("nan")}])
  assert folder.metrics() == [{"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": None}]
  folder.write_metrics(folder.metrics()[:1])
  assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1, "val_loss": 0.5}\n'
  assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json"])
def test_a_damaged_file_is_named(tmp_path, name):
  folder = run_folder.RunFolder(tmp_path)
  (tmp_path / name).write_text('{"epoch": 1')
  with pytest.raises(errors.UserError, match=rf"{name}: .*JSON.*; use another workdir"):
    if name == "metrics.jsonl":
      folder.metrics()
    folder.raise_if_other_config(default.get_config(), default.get_config())


def test_only_the_writer_writes(tmp_path):
  reader = run_folder.RunFolder(tmp_path / "run", writer=False)
  reader.write_config(default.get_config())
  reader.write_metrics([{"epoch": 1}])
  reader.write_results({})
  with reader.locked():
    assert not (tmp_path / "run").exists()


def test_rows_before_the_checkpoint_must_exist(tmp_path):
  folder = run_folder.RunFolder(tmp_path)
  folder.write_metrics([{"epoch": epoch, "step": 10 * epoch} for epoch in (1, 2, 3)])
  assert [row["step"] for row in folder.metrics_until(20, 2)] == [10, 20]
  with pytest.raises(errors.UserError, match=r"metrics.jsonl: has 3 of the 4 epochs before"):
    folder.metrics_until(40, 4)
  folder.write_metrics([{"epoch": 1, "step": 10}, {"epoch": 3, "step": 30}])
  with pytest.raises(errors.UserError, match="the lines are not those of epochs 1, 2"):
    folder.metrics_until(20, 2)
  folder.write_metrics([{"epoch": 1}])
  with pytest.raises(errors.UserError, match=r"metrics.jsonl: corrupt .KeyError: 'step'"):
    folder.metrics_until(20, 1)
