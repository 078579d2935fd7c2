"""Run folders loaded again, and networks exported from them."""

import json

import jax
import numpy as np
import pytest
import scipy.special
import small_runs
from safetensors import safe_open

import models
import train
from analysis import export
from analysis.run import load_run
from cifar_jax import errors


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
  """A finished run of two seeds."""
  path = tmp_path_factory.mktemp("runs") / "two_seeds"
  config = small_runs.config(data_dir, num_seeds=2, data__normalize="standardize", num_epochs=1)
  train.train_and_evaluate(config, str(path))
  return path


@pytest.fixture(scope="module")
def run(workdir):
  return load_run(workdir)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_loaded_run_has_the_accuracy_that_it_recorded(workdir, seed):
  run = load_run(workdir, seed)
  dataset, _ = run.data()
  logits, labels = run.logits(dataset.test.images), dataset.test.labels
  probabilities = run.predict(dataset.test.images[:20])
  np.testing.assert_allclose(probabilities, scipy.special.softmax(logits[:20], 1), atol=1e-5)
  recorded = run.results["per_seed"][seed]
  accuracy = np.mean(logits.argmax(1) == labels)
  assert accuracy == pytest.approx(recorded["test_accuracy"], abs=1e-6)
  right = scipy.special.log_softmax(logits, 1)[np.arange(len(labels)), labels]
  assert -right.mean() == pytest.approx(recorded["test_loss"], rel=1e-4)


def test_predictions_do_not_depend_on_how_many_are_asked_for(run):
  images = run.data()[0].test.images[:260]  # more than are computed at once
  together = run.logits(images)
  np.testing.assert_allclose(run.logits(images[:3]), together[:3], rtol=1e-4, atol=1e-5)
  assert run.logits(images[:0]).shape == (0, 10)


@pytest.mark.parametrize(
  "images", [np.zeros((2, 32, 32, 3), np.float32), np.zeros((2, 33, 32, 3), np.uint8)]
)
def test_images_of_another_kind_are_refused(run, images):
  with pytest.raises(errors.UserError, match=r"takes uint8 of shape \(n, 32, 32, 3\)"):
    run.logits(images)


def test_what_is_no_run_folder_is_refused(workdir, tmp_path):
  with pytest.raises(errors.UserError, match=r"not a run folder, it has no config\.json"):
    load_run(tmp_path)
  for name in ("config.json", "dataset.json"):
    (tmp_path / name).write_text((workdir / name).read_text())
  with pytest.raises(errors.UserError, match="holds no selected weights"):
    load_run(tmp_path)
  with pytest.raises(errors.UserError, match=r"has the seeds 0 to 1, not 2"):
    load_run(workdir, seed=2)


def test_data_that_changed_are_refused(workdir, data_dir, tmp_path):
  for name in ("config.json", "dataset.json", "checkpoints"):
    (tmp_path / name).symlink_to(workdir / name)
  description = json.loads((workdir / "dataset.json").read_text()) | {"fingerprint": "0" * 64}
  (tmp_path / "dataset.json").unlink()
  (tmp_path / "dataset.json").write_text(json.dumps(description))
  with pytest.raises(errors.UserError, match=r"digits is not what .* was trained on"):
    load_run(tmp_path).data()


@pytest.mark.parametrize(
  "field",
  [
    {"mean": [None]},  # null, which NumPy takes for NaN
    {"std": ["0.2"]},
    {"mean": [0.5, 0.5]},
    {"std": [float("nan")]},
    {"class_names": []},
    {"image_shape": [8, 8]},
  ],
)
def test_a_description_of_no_data_set_is_refused(workdir, tmp_path, field):
  for name in ("config.json", "checkpoints"):
    (tmp_path / name).symlink_to(workdir / name)
  description = json.loads((workdir / "dataset.json").read_text()) | field
  (tmp_path / "dataset.json").write_text(json.dumps(description))
  with pytest.raises(errors.UserError, match=r"dataset\.json: its name, class_names"):
    load_run(tmp_path)


def test_exported_files_loaded_again_are_the_same_network(run):
  weights, function = export.export(run)
  images = run.data()[0].test.images[:5]
  np.testing.assert_allclose(
    export.load_function(function)(images), run.logits(images), rtol=1e-4, atol=1e-5
  )
  with safe_open(weights, framework="numpy") as file:
    tree = {"params": {}, "batch_stats": {}}
    for name in file.keys():  # noqa: SIM118 - not a dict
      node, *path, leaf = name.split(".")
      place = tree[node]
      for part in path:
        place = place.setdefault(part, {})
      place[leaf] = file.get_tensor(name)
    config = json.loads(file.metadata()["config"])
    classes = json.loads(file.metadata()["class_names"])
  model = models.create(config["model"], len(classes))
  logits = jax.jit(lambda images: model.apply(tree, run.normalize(images), train=False))(images)
  np.testing.assert_allclose(logits, run.logits(images), rtol=1e-4, atol=1e-5)
