"""The count of uses of the test images: nothing lowers it, and nothing is seen uncounted."""

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from cifar_jax import errors
from cifar_jax.runs import results, run_folder, test_uses


def test_uses_are_counted_by_test_set(tmp_path):
  assert (test_uses.count(tmp_path), test_uses.uses(tmp_path)) == (0, [])
  test_uses.record(tmp_path, "train", "selected weights")
  test_uses.record(tmp_path, "evaluate", "other images", "cifar10.1")
  test_uses.record(tmp_path, "compare", "against /tmp/b")
  assert (test_uses.count(tmp_path), test_uses.count(tmp_path, "cifar10.1")) == (2, 1)
  first, *_ = test_uses.uses(tmp_path)
  assert first["time"].endswith("+00:00")
  assert (first["mode"], first["purpose"]) == ("train", "selected weights")


def test_a_run_inherits_the_uses_of_those_that_it_began_with(tmp_path):
  grandparent, parent, child = (tmp_path / name for name in ("a", "b", "c"))
  for path in (grandparent, parent, child):
    path.mkdir()
  test_uses.record(grandparent, "train", "selected weights")
  test_uses.inherit(parent, grandparent)
  test_uses.record(parent, "train", "selected weights")
  test_uses.inherit(child, parent)
  test_uses.inherit(child, parent)  # as after a start that was killed
  test_uses.record(child, "train", "selected weights")
  rows = test_uses.uses(child)
  assert [row.get("inherited_from") for row in rows] == ["a", "b", None]
  assert test_uses.count(child) == 3
  test_uses.record(grandparent, "evaluate", "later")  # what came later cannot have mattered
  assert test_uses.count(child) == 3


def test_nothing_is_inherited_from_a_run_that_was_never_tested(tmp_path):
  (tmp_path / "child").mkdir()
  (tmp_path / "parent").mkdir()
  test_uses.inherit(tmp_path / "child", tmp_path / "parent")
  assert not (tmp_path / "child" / test_uses.FILE).exists()


def test_a_run_older_than_the_count_was_tested_at_its_end(tmp_path):
  (tmp_path / "results_2_epochs.json").write_text(
    '{"test_accuracy": 0.5, "finished": "2026-01-01"}'
  )
  (tmp_path / "results.json").write_text('{"test_accuracy": 0.6}')
  (tmp_path / "results_9_epochs.json").write_text("damaged")
  assert test_uses.count(tmp_path) == 2
  test_uses.record(tmp_path, "evaluate", "again")
  assert test_uses.count(tmp_path) == 3  # the first line of the file does not hide those before
  (tmp_path / "results.json").write_text('{"val_accuracy": 0.6}')
  assert test_uses.count(tmp_path) == 3


@given(st.binary(max_size=40).filter(lambda part: part and b"\n" not in part))
def test_the_part_of_a_line_that_a_killed_process_left_counts(tmp_path_factory, part):
  path = tmp_path_factory.mktemp("run")
  test_uses.record(path, "train", "validation of epoch 1")
  with open(path / test_uses.FILE, "ab") as file:
    file.write(part)
  test_uses.record(path, "train", "validation of epoch 2")
  assert test_uses.count(path) == 3
  assert test_uses.uses(path)[-1]["purpose"] == "validation of epoch 2"


def test_a_use_that_cannot_be_recorded_is_refused(tmp_path):
  (tmp_path / test_uses.FILE).mkdir()
  with pytest.raises(errors.UserError, match=r"cannot be written \(Is a directory"):
    test_uses.record(tmp_path, "evaluate", "again")


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (0, "test images never used"),
    (1, "test images used once"),
    (2, "test images used twice"),
    (1234, "test images used 1,234 times"),
  ],
)
def test_counts_as_text(number, text):
  assert test_uses.describe(number) == text


def test_the_count_stands_beside_the_test_accuracy():
  content = {
    **{"seeds": [0], "best_epoch": 1, "epochs_run": 1, "model": "m", "selected_on": "validation"},
    **{"test_accuracy": 0.5, "test_loss": 1.0, "test_top5": 0.9},
    **{"seconds_to_train": 1.0, "compile_seconds": 1.0},
    "data": {"name": "d", "requested": "d", "test_examples": 10_000},
  }
  first = results.summarize(content | {"test_uses": 3}).splitlines()[0]
  assert first == (
    "m on d: test accuracy 50.00%, loss 1.0000, top-5 90.00% (10,000 test images used 3 times)"
  )
  assert results.summarize(content).splitlines()[0].endswith("(10,000 images)")


def test_weights_selected_on_the_test_set_are_remembered(tmp_path):
  parent, child, grandchild = (tmp_path / name for name in ("a", "b", "c"))
  for path in (parent, child, grandchild):
    path.mkdir()
  test_uses.record(parent, "train", "selected weights")
  (parent / "results.json").write_text('{"selected_on": "test"}')
  test_uses.inherit(child, parent)
  test_uses.record(child, "train", "selected weights")
  (child / "results.json").write_text('{"selected_on": "validation"}')
  test_uses.inherit(grandchild, child)
  found = [test_uses.began_with_weights_selected_on_test(p) for p in (parent, child, grandchild)]
  assert found == [False, True, True]
  assert results.ancestry(run_folder.RunFolder(child), "validation") == {"selected_on": "test"}


def test_uses_are_inherited_from_a_bucket(tmp_path, monkeypatch):
  bucket = tmp_path / "bucket"
  bucket.mkdir()
  test_uses.record(bucket, "train", "selected weights")
  real = epath.Path
  monkeypatch.setattr(
    epath, "Path", lambda path: bucket if str(path) == "gs://bucket/run" else real(path)
  )
  test_uses.inherit(tmp_path, "gs://bucket/run")
  assert test_uses.count(tmp_path) == 1
