"""Fixtures with the small CIFAR-10 and CIFAR-100 of `small_datasets`."""

import pathlib
import shutil

import pytest
import small_datasets

from cifar_jax.data import datasets, fetch


@pytest.fixture
def small_cifar(monkeypatch):
  """Let the registry's names mean the small datasets, and hide npm, which would fetch the real."""
  monkeypatch.setattr(datasets, "REGISTRY", dict(datasets.REGISTRY))
  monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
  small_datasets.use_small()


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> str:
  """A folder with the small CIFAR-10's official files."""
  _, files, _, _ = small_datasets.small_cifar10()
  return str(small_datasets.write_folder(tmp_path_factory.mktemp("source") / "bin", files))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, source) -> pathlib.Path:
  """A data directory with the small CIFAR-10; tests that damage it take `prepared_copy`."""
  data_dir = tmp_path_factory.mktemp("prepared")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, "REGISTRY", dict(datasets.REGISTRY))
    small_datasets.use_small()
    datasets.prepare("cifar10", str(data_dir), source)
  return data_dir


@pytest.fixture
def prepared_copy(prepared, tmp_path) -> pathlib.Path:
  return shutil.copytree(prepared, tmp_path / "copy")
