"""Datasets by name: the registry, the data directory, and the imports of a start."""

import pytest
from small_datasets import ROOT, check_small, python

from cifar_jax import errors
from cifar_jax.data import datasets

pytestmark = pytest.mark.usefixtures("small_cifar")


def test_unknown_name():
  with pytest.raises(errors.UserError) as caught:
    datasets.load("cifra10")
  assert str(caught.value) == (
    "data.name: unknown dataset 'cifra10'; did you mean 'cifar10'? "
    "known: cifar10, cifar100, cifar100_coarse, digits, mnist, fashion_mnist, image_folder, "
    "cats_vs_dogs"
  )
  assert datasets.list_names() == (
    "cifar10",
    "cifar100",
    "cifar100_coarse",
    "digits",
    "mnist",
    "fashion_mnist",
    "image_folder",
    "cats_vs_dogs",
  )


def test_data_dir_is_tfds_s_by_default(prepared, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
  check_small(datasets.load("cifar10"))
  monkeypatch.delenv("TFDS_DATA_DIR")
  monkeypatch.setenv("HOME", str(prepared.parent))
  monkeypatch.setattr(datasets, "prepare", lambda *args: "not prepared")
  assert datasets.load("cifar10") == "not prepared"
  (prepared.parent / "tensorflow_datasets").symlink_to(prepared)
  check_small(datasets.load("cifar10"))
  check_small(datasets.load("cifar10", "~/tensorflow_datasets"))


def test_unusable_data_dir(tmp_path):
  (tmp_path / "file").write_text("")
  for data_dir in (str(tmp_path / "file"), "/proc/none"):
    with pytest.raises(errors.UserError, match=rf"data.dir: cannot prepare digits in {data_dir}"):
      datasets.load("digits", data_dir)
  with pytest.raises(errors.UserError, match=r"data.dir: gs://bucket is not a local folder"):
    datasets.load("digits", "gs://bucket")


def test_imports(tmp_path, source):
  """TensorFlow is never imported, even if installed; with a cache, no heavy package is."""
  fake = tmp_path / "site" / "tensorflow"
  fake.mkdir(parents=True)
  (fake / "__init__.py").write_text("raise AssertionError('TensorFlow was imported')")
  code = """
heavy = {"tensorflow", "tensorflow_datasets", "PIL", "sklearn", "jax"}
print("imported:", sorted(heavy & set(sys.modules)))
datasets.load("cifar10", sys.argv[1], sys.argv[2])
print("loaded:", sorted(heavy & set(sys.modules)))
"""
  path = f"{ROOT}:{ROOT / 'tests'}:{fake.parent}"
  for loaded in ("['PIL', 'tensorflow_datasets']", "[]"):
    output = python(code, tmp_path, source, PYTHONPATH=path).communicate()[0]
    assert "imported: []\n" in output, output
    assert f"loaded: {loaded}\n" in output, output
