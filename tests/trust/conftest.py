"""What the tests of trust/ share: a small trained run."""

import pathlib

import pytest
import small_runs
import written_runs

import train


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> pathlib.Path:
  """A folder for the digits dataset."""
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def trained(data_dir, tmp_path_factory) -> pathlib.Path:
  """The run folder of a training of two epochs of 16 steps; not to be changed."""
  path = tmp_path_factory.mktemp("runs") / "small"
  with small_runs.quick_compilation():
    train.train_and_evaluate(
      small_runs.config(data_dir, **written_runs.SMALL), str(path), heartbeat=0
    )
  return path
