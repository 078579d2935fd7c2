"""Checkpoints: complete or skipped, and never of another model."""

import errno
import json
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from cifar_jax import errors
from cifar_jax.runs import checkpoint_arrays, checkpoints
from cifar_jax.runtime import distributed


class State(struct.PyTreeNode):
  step: jnp.ndarray
  params: dict
  nothing: None


def run(step: int, width: int = 300) -> dict:
  """Return what is saved after a step."""
  kernel = np.random.default_rng(step).normal(size=(width, 40)).astype(np.float32)
  params = {"dense": {"kernel": jnp.asarray(kernel)}}
  return {"state": State(jnp.int32(step), params, None), "best": {"params": params}}


@pytest.fixture
def three(tmp_path):
  """Saves three steps, of which the folder keeps two."""
  store = checkpoints.Checkpoints(tmp_path)
  for step in (10, 20, 30):
    store.save_latest(step, run(step), [step])
  store.close()
  return tmp_path


def damage(directory) -> None:
  """Cut every data file of a checkpoint in half."""
  files = [f for f in directory.rglob("*") if f.is_file() and "/d/" in str(f)]
  assert files
  for file in files:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def restore(workdir, template=None):
  """Return what a run would resume from, and make `best` agree with it."""
  store = checkpoints.Checkpoints(workdir)
  try:
    restored = store.restore_latest(template or run(0))
    if restored is not None:
      store.keep_best([restored[0]], restored[1]["best"])
    return restored
  finally:
    store.close()


def assert_same(tree: dict, expected: dict) -> None:
  """Assert that the arrays are equal, bit for bit."""
  jax.tree.map(np.testing.assert_array_equal, tree, jax.tree.map(np.asarray, expected))


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
  assert restore(tmp_path) is None


def test_the_newest_is_restored_bit_for_bit(three):
  step, saved = restore(three)
  assert step == 30
  assert_same(saved, run(30))
  for which in ("latest", "best"):
    steps = sorted(path.name for path in (three / "checkpoints" / which).iterdir())
    assert steps == ["00000020", "00000030"]


def test_a_truncated_latest_is_logged_and_the_previous_one_is_used(three, log_lines):
  damage(three / "checkpoints" / "latest" / "00000030")
  step, saved = restore(three)
  assert step == 20
  assert_same(saved, run(20))
  (line,) = [line for line in log_lines if "latest/00000030: cannot be read" in line]
  assert line.endswith("trying the previous one") and "\n" not in line
  assert checkpoints.read_best(three)[0] == 20
  set_aside = three / "checkpoints" / "set_aside"
  assert sorted(path.name for path in set_aside.iterdir()) == ["best-00000030", "latest-00000030"]
  assert_same(
    checkpoint_arrays.read(set_aside / "best-00000030").arrays,
    {"params.dense.kernel": run(30)["best"]["params"]["dense"]["kernel"]},
  )
  store = checkpoints.Checkpoints(three)
  store.save_latest(30, run(30), [30])  # the repeated epoch can write it again
  store.close()
  assert restore(three)[0] == 30


def test_a_truncated_best_is_logged_and_written_again(three, log_lines):
  damage(three / "checkpoints" / "best" / "00000030")
  step, best = checkpoints.read_best(three)
  assert step == 20
  assert_same(best["params"], run(20)["best"]["params"])
  assert restore(three)[0] == 30
  step, best = checkpoints.read_best(three)
  assert step == 30
  assert_same(best["params"], run(30)["best"]["params"])
  assert any("best/00000030: cannot be read" in line for line in log_lines)
  assert (three / "checkpoints" / "set_aside" / "best-00000030" / "default").exists()


def os_error(number: int) -> OSError:
  return OSError(number, "failed")


@pytest.mark.parametrize(
  ("error", "reason"),
  [
    (os_error(errno.EMFILE), "Too many open files"),
    (os_error(errno.EACCES), "Permission denied"),
    (os_error(errno.EIO), "Input/output error"),
    (MemoryError(), "out of memory"),
    (ValueError("UNKNOWN: Error reading x: failed [os_error_code='5']"), "Input/output error"),
    (ValueError("UNAVAILABLE: the bucket does not answer"), "UNAVAILABLE: the bucket"),
    (RuntimeError("can't start new thread"), "can't start new thread"),
  ],
)
def test_an_error_that_may_pass_costs_no_checkpoint(three, monkeypatch, error, reason):
  def fail(*_, **__):
    raise error

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint_arrays.ocp.Checkpointer, "restore", fail)
    for read in (restore, checkpoints.read_best):
      with pytest.raises(errors.UserError, match="00000030: unavailable") as caught:
        read(three)
      assert reason in str(caught.value) and "rerun the same command" in str(caught.value)
  assert not (three / "checkpoints" / "set_aside").exists()
  assert restore(three)[0] == 30


@pytest.mark.parametrize(
  "error",
  [
    os_error(errno.ENOENT),
    os_error(errno.ENAMETOOLONG),
    ValueError("FAILED_PRECONDITION: Truncated Zstd-compressed stream"),
    ValueError("NOT_FOUND: Error opening x [os_error_code='2']"),
  ],
)
def test_other_errors_are_damage(three, monkeypatch, error):
  def fail(*_, **__):
    raise error

  monkeypatch.setattr(checkpoint_arrays.ocp.Checkpointer, "restore", fail)
  with pytest.raises(errors.UserError, match="none of its checkpoints can be read"):
    checkpoints.read_best(three)


def test_a_best_without_a_latest_is_set_aside(tmp_path):
  # As after a kill between two saves of a run that then starts anew, here with other weights.
  store = checkpoints.Checkpoints(tmp_path)
  store.save_best([10], run(1)["best"])
  store.close()
  assert restore(tmp_path) is None
  assert (tmp_path / "checkpoints" / "set_aside" / "best-00000010").exists()
  store = checkpoints.Checkpoints(tmp_path)
  store.save_latest(10, run(10), [10])
  store.close()
  assert_same(checkpoints.read_best(tmp_path)[1]["params"], run(10)["best"]["params"])


def test_a_second_checkpoint_of_a_step_is_set_aside_under_another_name(tmp_path):
  for _ in range(2):
    store = checkpoints.Checkpoints(tmp_path)
    store.save_best([10], run(1)["best"])
    store.close()
    assert restore(tmp_path) is None
  names = sorted(path.name for path in (tmp_path / "checkpoints" / "set_aside").iterdir())
  assert names == ["best-00000010", "best-00000010-2"]


def test_a_checkpoint_that_is_not_written_is_an_error(three):
  store = checkpoints.Checkpoints(three)
  store.save_latest(20, run(20))
  with pytest.raises(errors.UserError, match=r"latest: cannot write the checkpoint .*not after 30"):
    store.wait()
  store.close()


def test_a_checkpoint_that_orbax_completes_without_some_parts_is_an_error(three, monkeypatch):
  # As Orbax does when it cannot read what it wrote before.
  path_class = type(checkpoint_arrays.epath.Path(three))
  write_text = path_class.write_text

  def without_custom_metadata(path, text, *arguments):
    if "commit_timestamp" in text:
      text = json.dumps({k: v for k, v in json.loads(text).items() if k != "custom_metadata"})
    return write_text(path, text, *arguments)

  store = checkpoints.Checkpoints(three)
  monkeypatch.setattr(path_class, "write_text", without_custom_metadata)
  store.save_latest(40, run(40), [40])
  with pytest.raises(errors.UserError, match=r"latest: cannot write the checkpoint .*00000040"):
    store.close()
  monkeypatch.undo()
  assert restore(three)[0] == 30


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
  may_write, checksums = threading.Event(), checkpoint_arrays.checksums

  def wait(arrays):
    assert may_write.wait(60) and threading.current_thread() is not threading.main_thread()
    return checksums(arrays)

  monkeypatch.setattr(checkpoint_arrays, "checksums", wait)
  store, tree = checkpoints.Checkpoints(tmp_path), jax.tree.map(np.asarray, run(10))
  store.save_latest(10, tree, [10])
  tree["best"]["params"]["dense"]["kernel"] = None
  may_write.set()
  store.close()
  monkeypatch.undo()
  assert_same(restore(tmp_path)[1], run(10))


def test_best_names_the_steps_that_its_weights_were_selected_at(tmp_path):
  store, seeds = checkpoints.Checkpoints(tmp_path), {"params": {"bias": np.arange(2.0)}}
  store.save_latest(30, {"best": seeds}, [20, 10])
  store.close()
  assert [path.name for path in (tmp_path / "checkpoints" / "best").iterdir()] == ["00000020"]
  step, best = checkpoints.read_best(tmp_path)
  assert step == 20
  assert_same(best["params"], seeds["params"])
  for seed, expected in enumerate((20, 10)):
    step, best = checkpoints.read_best(tmp_path, seed)
    assert (step, best["params"]["bias"]) == (expected, seed)


def restore_in_second_process(workdir, summary, monkeypatch):
  """Return what the second process restores when the first one publishes `summary`."""
  with monkeypatch.context() as patch:
    patch.setattr(jax, "process_index", lambda: 1)
    patch.setattr(distributed, "value_of_first", lambda *_: json.dumps(summary))
    return restore(workdir)


def test_other_processes_restore_what_the_first_one_chose(three, monkeypatch):
  def digest(step):
    folder = three / "checkpoints" / "latest" / f"{step:08}"
    return checkpoint_arrays.digest(checkpoint_arrays.read(folder).arrays)

  step, saved = restore_in_second_process(three, [20, digest(20)], monkeypatch)
  assert step == 20
  assert_same(saved, run(20))
  assert restore_in_second_process(three, [], monkeypatch) is None
  with pytest.raises(errors.UserError, match="00000020: differs from what the first process reads"):
    restore_in_second_process(three, [20, digest(30)], monkeypatch)
  damage(three / "checkpoints" / "latest" / "00000030")
  with pytest.raises(
    errors.UserError, match=r"cannot be read .* but the first process can read it"
  ):
    restore_in_second_process(three, [30, "0" * 64], monkeypatch)
  assert not (three / "checkpoints" / "set_aside").exists()


@pytest.mark.parametrize("which", ["latest", "best"])
def test_flipped_bits_never_become_weights(three, which, tmp_path, log_lines):
  rng = np.random.default_rng(0)
  folder = three / "checkpoints" / which / "00000030"
  files = sorted(f.relative_to(three) for f in folder.rglob("*") if f.is_file())
  arrays = max(files, key=lambda file: (three / file).stat().st_size)
  for i, file in enumerate([*files, *[arrays] * 5]):
    copy = tmp_path / f"copy{i}"
    shutil.copytree(three / "checkpoints", copy / "checkpoints")
    content = bytearray((copy / file).read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    (copy / file).write_bytes(content)
    step, best = checkpoints.read_best(copy)
    assert step == 20 or which == "latest" or file != arrays
    assert_same(best["params"], run(step)["best"]["params"])
    step, saved = restore(copy)
    assert step == 20 or which == "best" or file != arrays
    assert_same(saved, run(step))
  assert any("dense.kernel is not what was written there" in line for line in log_lines)


@pytest.mark.parametrize("which", ["latest", "best"])
def test_without_any_one_file_the_checkpoint_is_complete_or_skipped(three, which, tmp_path):
  used = set()
  folder = three / "checkpoints" / which / "00000030"
  for i, file in enumerate(sorted(f for f in folder.rglob("*") if f.is_file())):
    copy = tmp_path / f"copy{i}"
    shutil.copytree(three / "checkpoints", copy / "checkpoints")
    (copy / file.relative_to(three)).unlink()
    step, best = checkpoints.read_best(copy)
    used.add((step, restore(copy)[0]))
    assert_same(best["params"], run(step)["best"]["params"])
  # Nothing reads some of the files.
  assert used == ({(30, 30), (20, 30)} if which == "best" else {(30, 30), (30, 20)})


def older_form(workdir) -> None:
  """Remove what old checkpoints lack: checksums, and the best weights within `latest`."""
  shutil.rmtree(workdir / "checkpoints" / "latest")
  store = checkpoints.Checkpoints(workdir)
  store.save_latest(30, {"state": run(30)["state"]})
  store.close()
  for file in workdir.rglob("_CHECKPOINT_METADATA"):
    content = json.loads(file.read_text())
    assert content["custom_metadata"]["sha256"]
    content["custom_metadata"] = None
    file.write_text(json.dumps(content))


def test_old_checkpoints_are_restored(three):
  older_form(three)
  step, saved = restore(three)
  assert step == 30
  assert_same(saved, run(30))


def test_old_checkpoints_without_a_best_are_restored(three):
  older_form(three)
  shutil.rmtree(three / "checkpoints" / "best")
  step, saved = restore(three)
  assert step == 30
  assert_same(saved, {"state": run(30)["state"], "best": run(0)["best"]})


def test_old_checkpoints_without_the_sum_of_the_top5_are_restored(tmp_path):
  sums = {"loss": jnp.float32(3), "top5": jnp.float32(7)}
  store = checkpoints.Checkpoints(tmp_path)
  store.save_latest(10, {"state": {"sums": {"loss": sums["loss"]}}, "best": run(10)["best"]})
  store.close()
  template = {"state": {"sums": sums}, "best": run(0)["best"]}
  _, restored = restore(tmp_path, template)
  assert restored["state"]["sums"]["loss"] == 3
  assert np.isnan(restored["state"]["sums"]["top5"])  # of a part of an epoch there is no sum


def test_if_all_are_damaged_nothing_is_overwritten(three):
  for step in ("00000020", "00000030"):
    damage(three / "checkpoints" / "latest" / step)
  with pytest.raises(errors.UserError, match="no checkpoint can be read; move"):
    restore(three)
  assert len(list((three / "checkpoints" / "latest").iterdir())) == 2


@pytest.mark.parametrize(
  ("other", "message"),
  [
    (
      run(0, width=301),
      r"params.dense.kernel is \(300, 40\) there but \(301, 40\) with this config",
    ),
    (
      run(0) | {"state": State(jnp.int32(0), {"conv": {"kernel": jnp.ones((3, 3))}}, None)},
      r"params.conv.kernel is absent there but \(3, 3\) with this config; use another workdir",
    ),
  ],
)
def test_a_checkpoint_of_another_model_is_rejected(three, other, message):
  with pytest.raises(errors.UserError, match=message):
    restore(three, other)


def test_kept_checkpoints_stay_and_those_of_another_course_are_set_aside(tmp_path):
  store = checkpoints.Checkpoints(tmp_path)
  for step in (10, 20, 30, 40):
    store.save_latest(step, run(step), [step], is_kept=step in (10, 40))
  store.close()
  assert checkpoints.list_states(tmp_path) == [10, 30, 40]
  np.testing.assert_array_equal(
    checkpoints.read_weights(tmp_path, 10)["params"]["dense"]["kernel"],
    run(10)["state"].params["dense"]["kernel"],
  )
  damage(tmp_path / "checkpoints" / "latest" / "00000040")
  step, _ = restore(tmp_path)
  assert step == 30
  assert checkpoints.list_states(tmp_path) == [10, 30]
  names = sorted(path.name for path in (tmp_path / "checkpoints" / "set_aside").iterdir())
  assert names == ["best-00000040", "kept-00000040", "latest-00000040"]
  damage(tmp_path / "checkpoints" / "kept" / "00000010")
  with pytest.raises(errors.UserError, match=r"kept/00000010: cannot be read \(.*; use another st"):
    checkpoints.read_state(tmp_path, 10)
