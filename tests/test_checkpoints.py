"""Checkpoints: whole or passed over, and never of another model."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import checkpoints
import errors


class State(struct.PyTreeNode):
  step: jnp.ndarray
  params: dict
  nothing: None


def state(step: int, width: int = 300) -> State:
  kernel = np.random.default_rng(step).normal(size=(width, 40)).astype(np.float32)
  return State(jnp.int32(step), {"dense": {"kernel": jnp.asarray(kernel)}}, None)


@pytest.fixture
def three(tmp_path):
  """A folder with three saved steps, of which two are kept."""
  store = checkpoints.Checkpoints(tmp_path)
  for step in (10, 20, 30):
    store.save_best(step, state(step).params)
    store.save_latest(step, state(step))
  store.close()
  return tmp_path


def damage(directory) -> None:
  """Cuts every data file of a checkpoint in half."""
  files = [f for f in directory.rglob("*") if f.is_file() and "/d/" in str(f)]
  assert files
  for file in files:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_nothing_there(tmp_path):
  store = checkpoints.Checkpoints(tmp_path)
  assert store.restore_latest(state(0)) is None
  store.close()


def test_newest_comes_back_bit_for_bit(three):
  store = checkpoints.Checkpoints(three)
  step, found = store.restore_latest(state(0))
  assert step == 30 and found.step == 30 and found.nothing is None
  np.testing.assert_array_equal(
    found.params["dense"]["kernel"], state(30).params["dense"]["kernel"]
  )
  step, best = store.restore_best(state(0).params)
  assert step == 30
  np.testing.assert_array_equal(best["dense"]["kernel"], state(30).params["dense"]["kernel"])
  store.close()
  assert sorted(p.name for p in (three / "checkpoints" / "latest").iterdir()) == [
    "00000020",
    "00000030",
  ]


def test_a_damaged_one_is_said_and_the_one_before_is_used(three, log_lines):
  damage(three / "checkpoints" / "latest" / "00000030")
  store = checkpoints.Checkpoints(three)
  step, found = store.restore_latest(state(0))
  assert step == 20 and found.step == 20
  assert any("00000030: cannot be read" in line for line in log_lines)
  store.rewind(step)
  assert store.restore_best(state(0).params)[0] == 20
  store.save_best(30, state(30).params)  # the repeated epoch can write its own again
  store.save_latest(30, state(30))
  store.close()


def test_when_all_are_damaged_nothing_is_overwritten(three):
  for step in ("00000020", "00000030"):
    damage(three / "checkpoints" / "latest" / step)
  store = checkpoints.Checkpoints(three)
  with pytest.raises(errors.UserError, match="none of the checkpoints there can be read; move"):
    store.restore_latest(state(0))
  store.close()
  assert len(list((three / "checkpoints" / "latest").iterdir())) == 2


@pytest.mark.parametrize(
  ("other", "message"),
  [
    (
      state(0, width=301),
      r"params.dense.kernel is \(300, 40\) there but \(301, 40\) by the config",
    ),
    (
      State(jnp.int32(0), {"conv": {"kernel": jnp.ones((3, 3))}}, None),
      r"params.conv.kernel is absent there but \(3, 3\) by the config; use another workdir",
    ),
  ],
)
def test_of_another_model(three, other, message):
  store = checkpoints.Checkpoints(three)
  with pytest.raises(errors.UserError, match=message):
    store.restore_latest(other)
  store.close()
