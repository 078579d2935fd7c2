"""Finding runs, their states and files; names of requests never become paths."""

import json
import os
import pathlib
import shutil

import pytest
from corner_network import make_run, write_rows

from cifar_jax import errors
from cifar_jax.runs.run_folder import RunFolder
from serve import runs, summaries


@pytest.fixture
def folder(tmp_path, corner_runs) -> pathlib.Path:
  """A copy of the runs that a test may change."""
  shutil.copytree(corner_runs, tmp_path / "runs")
  return tmp_path / "runs"


def summary(folder, name):
  (row,) = [row for row in runs.RunIndex([folder]).list_runs() if row["name"] == name]
  return row


def test_runs_are_found_at_any_depth_and_named_by_their_paths(corner_runs):
  index = runs.RunIndex([corner_runs])
  assert index.paths() == {
    "first": corner_runs / "first",
    "nested/second": corner_runs / "nested" / "second",
  }
  assert list(runs.RunIndex([corner_runs / "first"]).paths()) == ["first"]


def test_runs_of_the_same_name_are_named_by_their_full_paths(corner_runs, folder):
  names = runs.RunIndex([corner_runs, folder, folder / "first"]).paths()
  assert set(names) == {
    f"{root}/{name}" for root in (corner_runs, folder) for name in ("first", "nested/second")
  }


def test_links_folders_of_checkpoints_and_configs_of_others_are_no_runs(corner_runs, tmp_path):
  (tmp_path / "link").symlink_to(corner_runs / "first")
  for name in ("checkpoints", "project"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text('{"version": 3}')
  shutil.copy(corner_runs / "first" / "config.json", tmp_path / "checkpoints")
  assert runs.RunIndex([tmp_path]).paths() == {}


@pytest.mark.parametrize(
  ("root", "message"),
  [("gs://bucket/runs", "copy the runs"), ("/nowhere/at/all", "is not a folder")],
)
def test_roots_that_cannot_be_searched(root, message):
  with pytest.raises(errors.UserError, match=rf"--workdir: .*{message}"):
    runs.RunIndex([root])


def test_a_finished_run(corner_runs):
  row = summary(corner_runs, "first")
  assert row["state"] == "finished"
  assert (row["epochs"], row["val_accuracy"], row["test_accuracy"]) == (3, 0.3, 0.5)
  assert row["test_uses"] == 1
  assert row["can_predict"]


@pytest.mark.parametrize("has_table", [True, False])
def test_an_unfinished_run_is_live_while_a_process_holds_its_lock(folder, monkeypatch, has_table):
  path = folder / "first"
  (path / "results.json").unlink()
  write_rows(path, 3)
  if has_table and not summaries._LOCK_TABLE.exists():
    pytest.skip("this system does not list locks")
  if not has_table:
    monkeypatch.setattr(summaries, "_LOCK_TABLE", folder / "missing")
  with RunFolder(path).locked():
    row = summary(folder, "first")
    assert row["state"] == "training"
    # Epochs take 2 s; the last one ended just now.
    assert row["seconds_left"] == pytest.approx(2 * (row["num_epochs"] - 3), abs=2.5)
  if not has_table:  # then only silence tells that a run has stopped
    for file in path.iterdir():
      os.utime(file, (0, 0))
  assert summary(folder, "first")["state"] == "stopped"
  assert summary(folder, "first")["seconds_left"] is None


@pytest.mark.parametrize(
  ("file", "content"),
  [
    ("metrics.jsonl", "not JSON\n"),
    ("metrics.jsonl", '{"epoch": 1, "val_accuracy": "high"}\n'),
    ("results.json", "[]"),
    ("results.json", '{"test_accuracy": NaN}'),
    ("config.json", '{"num_epochs": "many", "data": 3}'),
  ],
)
def test_a_damaged_run_is_listed_with_its_problem_among_the_others(folder, file, content):
  (folder / "first" / file).write_text(content)
  row = summary(folder, "first")
  assert row["state"] == "unreadable"
  assert row["problem"]
  assert summary(folder, "nested/second")["state"] == "stopped"
  json.dumps(row, allow_nan=False)


def test_metrics_grow_with_the_run(folder):
  index = runs.RunIndex([folder])
  assert [row["epoch"] for row in index.metrics("first", 1)] == [2, 3]
  write_rows(folder / "first", 5)
  assert [row["epoch"] for row in index.metrics("first", 3)] == [4, 5]
  assert index.metrics("nested/second", 0) == []


@pytest.mark.parametrize(
  ("file", "content"),
  [
    ("metrics.jsonl", '{"epoch": 1, "val_loss": NaN}\n'),
    ("results.json", '{"test_accuracy": Infinity}'),
    ("config.json", '{"num_epochs": 3, "data": {}}'),
  ],
)
def test_damage_is_not_mistaken_for_an_unknown_name(folder, file, content):
  (folder / "first" / file).write_text(content)
  index = runs.RunIndex([folder])
  with pytest.raises(errors.UserError, match="first: corrupt"):
    index.details("first"), index.metrics("first", 0)


def test_known_runs_are_not_read_again_to_find_them(folder, monkeypatch):
  monkeypatch.setattr(runs, "_SECONDS_BETWEEN_SCANS", -1.0)
  index = runs.RunIndex([folder])
  assert len(index.paths()) == 2
  read = []
  monkeypatch.setattr(runs.run_record, "read_config", lambda path: read.append(path.name))
  shutil.copytree(folder / "first", folder / "third")
  assert len(index.paths()) == 3
  assert read == ["third"]


def test_seeds_are_left_out_of_the_metrics(tmp_path):
  path = make_run(tmp_path / "two", seeds=2)
  RunFolder(path).write_metrics([{"step": 1, "epoch": 1, "val_loss": 1.0, "seeds": [{}, {}]}])
  assert runs.RunIndex([tmp_path]).metrics("two", 0) == [{"step": 1, "epoch": 1, "val_loss": 1.0}]


def test_details_name_what_differs_from_the_defaults(corner_runs):
  details = runs.RunIndex([corner_runs]).details("first")
  assert details["config"]["model.has_convolution"] is True
  assert "model.has_convolution" in details["changed"]
  assert "seed" in details["config"]
  assert "seed" not in details["changed"]
  assert details["figures"] == ["plots/kernels.png"]
  assert details["has_report"]


def test_only_listed_pictures_are_read(folder):
  index = runs.RunIndex([folder])
  assert index.figure("first", "plots/kernels.png")[1:4] == b"PNG"
  (folder / "first" / "plots" / "link.png").symlink_to("/etc/passwd")
  (folder / "first" / "report.html").unlink()
  (folder / "first" / "report.html").symlink_to("/etc/passwd")
  names = ("plots/link.png", "plots/../config.json", "../first/plots/kernels.png", "/etc/passwd")
  for name in names:
    with pytest.raises(KeyError):
      index.figure("first", name)
  with pytest.raises(KeyError):
    index.report("first")
  for name in ("", "..", "nested", "first/../first", str(folder / "first")):
    with pytest.raises(KeyError):
      index.details(name)


def test_names_that_are_not_text_are_escaped(folder):
  os.rename(folder / "first", os.fsencode(folder) + b"/a\xffb\n")
  assert set(runs.RunIndex([folder]).paths()) == {"a\\xffb\n", "nested/second"}
