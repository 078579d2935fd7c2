"""Runs that the tests of several modules share."""

import pathlib

import pytest
import small_runs

import train


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """An empty folder for the digits dataset."""
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def workdir(data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A finished run of one seed, with random augmentation that mixes images."""
  path = tmp_path_factory.mktemp("runs") / "small"
  config = small_runs.config(
    data_dir,
    model__widths=(4, 8),
    num_epochs=2,
    evaluate_train=True,
    data__normalize="standardize",
    augment="random_crop(padding=2) | cutout(size=8) | mixup(alpha=1.0)",
    lookahead__every=0,
    optimizer__learning_rate=0.01,
  )
  with small_runs.quick_compilation():
    train.train_and_evaluate(config, str(path))
  return path
