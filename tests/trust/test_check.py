"""--mode=check: damage that is planted in run folders and data, and its repair."""

import hashlib
import json
import os
import pathlib
import shutil

import filelock
import numpy as np
import pytest
from etils import epath

from cifar_jax import errors
from cifar_jax.data import array_record
from cifar_jax.runs import checkpoint_arrays
from trust import check, check_data


@pytest.fixture
def run(trained, tmp_path) -> pathlib.Path:
  """A copy of the trained run, which a test may damage."""
  return pathlib.Path(shutil.copytree(trained, tmp_path / "archive" / "run")).resolve()


def flip_bit(folder: pathlib.Path) -> None:
  """Flip a bit in the middle of the largest file below a folder, or of a file."""
  files = [path for path in folder.rglob("*") if path.is_file()] or [folder]
  file = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


def state(folder: pathlib.Path) -> dict[str, object]:
  """Return the content and the time of every file below a folder."""
  return {
    str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
    for path in folder.rglob("*")
    if path.is_file()
  }


def checksums(folder: pathlib.Path) -> dict[str, str]:
  return checkpoint_arrays.read(epath.Path(folder)).checksums


def edit_json(file: pathlib.Path, **changes: object) -> None:
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_intact_folders_are_read_and_not_changed(run, data_dir):
  before = state(run.parent) | state(data_dir)
  text, code = check.check([str(run.parent), str(data_dir)])
  assert code == 0
  assert "2 epochs, 4 checkpoints" in text
  assert "2 checked, 0 damaged" in text
  assert state(run.parent) | state(data_dir) == before


def test_a_flipped_bit_of_a_checkpoint_is_found_and_set_aside(run):
  oldest = run / "checkpoints" / "latest" / "00000016"
  flip_bit(oldest)
  before = state(run)
  text, code = check.check([str(run)])
  assert code == 1
  assert f"{oldest}: cannot be read" in text
  assert "resumes from step 32" in text
  assert "--repair does this without deleting" in text
  assert state(run) == before
  text, code = check.check([str(run)], repair=True)
  assert code == 0
  assert "repaired: moved to checkpoints/set_aside" in text
  assert (run / "checkpoints" / "set_aside" / "latest-00000016").exists()
  assert check.check([str(run)])[1] == 0


def test_a_finished_run_without_its_last_checkpoint_stays_a_finding(run):
  (run / "checkpoints" / "latest" / "00000032").rename(run / "moved")
  text, code = check.check([str(run)])
  assert code == 1
  assert "the newest is from step 16, but the run ended at step 32; move results.json away" in text


def test_damaged_best_weights_are_written_again_with_the_same_bits(run, monkeypatch):
  monkeypatch.chdir(run.parent)
  best = run / "checkpoints" / "best" / "00000032"
  before = checksums(best)
  flip_bit(best)
  text, code = check.check([run.name])
  assert code == 1
  assert "`latest` holds these weights" in text
  assert check.check([run.name], repair=True)[1] == 0
  assert checksums(best) == before
  assert check.check([run.name])[1] == 0


@pytest.mark.parametrize(
  ("lost", "problem"),
  [
    ("best", "the selected weights are missing"),
    ("best/00000032", "the selected weights are not those that `latest` holds"),
  ],
)
def test_missing_best_weights_are_written_again(run, lost, problem):
  best = run / "checkpoints" / "best" / "00000032"
  before = checksums(best)
  (run / "checkpoints" / lost).rename(run / "moved")
  assert problem in check.check([str(run)])[0]
  check.check([str(run)], repair=True)
  assert checksums(best) == before


def test_without_an_intact_latest_nothing_is_set_aside(run):
  """The training command would start anew, and overwrite the metrics."""
  for folder in (run / "checkpoints" / "latest").iterdir():
    flip_bit(folder)
  before = state(run)
  text, code = check.check([str(run)], repair=True)
  assert code == 1
  assert "restore it from a copy; the selected weights, in `best`, are intact" in text
  assert {path: content for path, (content, _) in state(run).items()} == {
    path: content for path, (content, _) in before.items()
  }


@pytest.mark.parametrize(
  ("changes", "problem"),
  [
    ({"epochs_run": 3}, "epochs_run is 3, but 2 in the other files"),
    ({"val_accuracy": 0.99}, "val_accuracy is 0.99, but "),
    ({"seeds": [4]}, r"seeds is [4], but [0] in the other files"),
    ({"data": {"name": "digits"}}, "its description of the data is not that of dataset.json"),
  ],
)
def test_results_that_disagree_with_the_other_files_are_found(run, changes, problem):
  edit_json(run / "results.json", **changes)
  text, code = check.check([str(run)])
  assert code == 1
  assert f"{run / 'results.json'}: {problem}" in text


def test_json_of_another_shape_is_a_finding(run):
  edit_json(run / "config.json", model=[])
  text, code = check.check([str(run)])
  assert code == 1
  assert "a file holds content that this program does not write (AttributeError" in text


def test_a_cut_line_of_the_metrics_is_found(run):
  file = run / "metrics.jsonl"
  file.write_text(file.read_text()[:-40])
  text, code = check.check([str(run)], repair=True)
  assert code == 1
  assert "line 2 is not the row of epoch 2 with a step after 16" in text


def test_a_damaged_dataset_json_is_restored_and_the_old_one_kept(run):
  file = run / "dataset.json"
  before = json.loads(file.read_text())
  file.write_text("{")
  assert check.check([str(run)])[1] == 1
  assert check.check([str(run)], repair=True)[1] == 0
  assert json.loads(file.read_text()) == before
  assert (run / "dataset.json.damaged").read_text() == "{"


def test_a_run_that_is_being_written_is_left_alone(run):
  flip_bit(run / "checkpoints" / "latest" / "00000032")
  with filelock.FileLock(run / ".lock"):
    text, code = check.check([str(run)])
  assert code == 0
  assert "a run is writing to it" in text


def test_records_without_checkpoints_are_checked():
  text, code = check.check(["benchmarks/results"])
  assert (code, " checked, 0 damaged" in text) == (0, True), text
  assert "7 epochs, no checkpoints" in text


def test_a_sweep_is_compared_with_its_trials(run):
  sweep = run.parent
  shutil.move(run, sweep / "trials" / "seed=0")
  results = json.loads((sweep / "trials" / "seed=0" / "results.json").read_text())
  trials = [
    {"name": "seed=0", "status": "finished", "val_loss": results["val_loss"]},
    {"name": "seed=1", "status": "finished", "val_loss": 1.0},
    {"name": "seed=2", "status": "failed", "error": "NaN"},
  ]
  (sweep / "sweep.json").write_text(json.dumps({"trials": trials}))
  text, code = check.check([str(sweep)])
  assert code == 1
  assert "seed=1/results.json: missing, but sweep.json has its figures" in text
  trials[1:] = []
  trials[0]["val_loss"] = 0.0
  (sweep / "sweep.json").write_text(json.dumps({"trials": trials}))
  assert "but 0.0 in sweep.json" in check.check([str(sweep)])[0]


def test_a_flipped_bit_of_decoded_images_is_found_and_set_aside(trained, data_dir, tmp_path):
  copy = pathlib.Path(shutil.copytree(data_dir, tmp_path / "data"))
  (decoded,) = (copy / "digits").glob("decoded-*")
  flip_bit(decoded / "train_images.npy")
  text, code = check.check([str(copy)])
  assert code == 1
  assert "differs from its description in index.json" in text
  assert check.check([str(copy)], repair=True)[1] == 0
  assert not decoded.exists()
  assert (copy / "digits" / f"{decoded.name}.damaged").exists()


def test_a_flipped_bit_of_a_tfds_dataset_is_found(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
  examples = [(image, {"label": i}) for i, image in enumerate(images)]
  classes = {"label": tuple("abcdefghij")}
  written = array_record.write("Cifar10", {"train": examples}, classes, epath.Path(tmp_path))
  folder = tmp_path / "other" / "3.0.2"
  shutil.copytree(written, folder)
  assert check_data.check_tfds(folder).findings == []
  assert check_data.check_tfds(folder).checked == "3 records, against ArrayRecord's checksums"
  (file,) = folder.glob("*.array_record*")
  content = bytearray(file.read_bytes())
  content[content.index(b"IDAT") + 200] ^= 1
  file.write_bytes(content)
  (finding,) = check_data.check_tfds(folder).findings
  assert "--mode=prepare fetches the dataset again" in finding.remedy
  # Under CIFAR-10's name, even an intact dataset must have the official images.
  assert check_data.check_tfds(written).findings


def test_an_archive_of_another_content_is_found(tmp_path):
  (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"another")
  (tmp_path / "unknown.tar.gz").write_bytes(b"another")
  text, code = check.check([str(tmp_path)])
  assert code == 1
  assert "1 checked, 1 damaged" in text
  assert "not c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd" in text


def test_json_names_every_finding(run):
  edit_json(run / "results.json", epochs_run=3)
  text, code = check.check([str(run)], as_json=True)
  content = json.loads(text)
  assert (code, content["damaged"]) == (1, 1)
  (finding,) = content["items"][0]["findings"]
  assert finding["path"] == str(run / "results.json")
  assert finding["can_repair"] is False


@pytest.mark.parametrize(
  ("paths", "message"),
  [
    ([], "--mode=check: no folders; name run folders or data directories"),
    (["/nonexistent"], "/nonexistent: does not exist; name run folders or data directories"),
    (["docs"], "docs: holds no run, no dataset and no archive of a known name"),
  ],
)
def test_a_wrong_path_is_one_line(paths, message):
  with pytest.raises(errors.UserError, match=message):
    check.check(paths)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_a_finding(tmp_path):
  file = tmp_path / "cifar-10-binary.tar.gz"
  file.write_bytes(b"")
  file.chmod(0)
  assert "cannot be read" in check.check([str(tmp_path)])[0]
