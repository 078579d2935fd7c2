"""Loading run folders, in a notebook too, and exporting networks."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import scipy.special
import small_runs
from image_batches import make_keys
from safetensors import safe_open

import models
import train
from analysis import export, load_run
from cifar_jax import errors
from cifar_jax.augment import transforms


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
  """A finished run of two seeds, whose images are transformed for evaluation, in part at random."""
  path = tmp_path_factory.mktemp("runs") / "two_seeds"
  config = small_runs.config(
    data_dir,
    num_seeds=2,
    data__normalize="standardize",
    num_epochs=1,
    model__widths=(4, 8),
    eval_transform="pad_and_resize(padding=4) | random_crop(padding=3)",
  )
  with small_runs.quick_compilation():
    train.train_and_evaluate(config, str(path))
  return path


@pytest.fixture(scope="module")
def run(workdir):
  return load_run(workdir)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_loaded_run_has_the_accuracy_that_it_recorded(workdir, seed):
  run = load_run(workdir, seed)
  dataset, splits = run.load_data()
  for part in ("train", "validation", "test"):
    assert run.results["data"][f"{part}_examples"] == len(getattr(splits, part)) > 0
  logits, labels = run.logits(dataset.test.images), dataset.test.labels
  probabilities = run.predict(dataset.test.images[:20])
  np.testing.assert_allclose(probabilities, scipy.special.softmax(logits[:20], 1), atol=1e-5)
  recorded = run.results["per_seed"][seed]
  accuracy = np.mean(logits.argmax(1) == labels)
  assert accuracy == pytest.approx(recorded["test_accuracy"], abs=1e-6)
  right = scipy.special.log_softmax(logits, 1)[np.arange(len(labels)), labels]
  assert -right.mean() == pytest.approx(recorded["test_loss"], rel=1e-4)


def test_views_of_test_time_augmentation_are_those_of_the_transformed_image(run):
  images = run.load_data()[0].test.images[:2]
  inputs = run.prepare(images)  # as the evaluation step receives them
  apply = jax.jit(lambda x: run.model.apply(run.variables, x, train=False))
  views = [apply(x) for x in (inputs, inputs[:, :, ::-1])]
  expected = np.log(scipy.special.softmax(np.array(views, np.float64), 2).mean(0))
  np.testing.assert_allclose(run.logits(images, tta="flip"), expected, rtol=1e-4, atol=1e-5)


def test_images_are_prepared_as_the_config_says(workdir, tmp_path):
  """Also by folders from before `eval_transform`, which lack the field."""
  for name in ("dataset.json", "checkpoints"):
    (tmp_path / name).symlink_to(workdir / name)
  config = json.loads((workdir / "config.json").read_text())
  original = load_run(workdir)
  images = original.load_data()[0].test.images[:3]
  apply = jax.jit(lambda x: original.model.apply(original.variables, x, train=False))
  for spec in ("", None, "pad_and_resize(padding=4)"):
    config |= {"eval_transform": spec}
    kept = {field: value for field, value in config.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    run = load_run(tmp_path)
    inputs = run.normalize(images)
    if spec:
      inputs = transforms.pad_and_resize(make_keys(3), inputs, padding=4)
    np.testing.assert_allclose(run.prepare(images), inputs, atol=1e-6)
    np.testing.assert_allclose(run.logits(images), apply(inputs), rtol=1e-4, atol=1e-5)


def test_predictions_do_not_depend_on_the_number_of_images(run):
  images = run.load_data()[0].test.images[:260]  # more than a batch
  together = run.logits(images)
  np.testing.assert_allclose(run.logits(images[:3]), together[:3], rtol=1e-4, atol=1e-5)
  assert run.logits(images[:0]).shape == (0, 10)


def test_a_batch_is_spread_over_all_local_devices(run, monkeypatch):
  images = run.load_data()[0].test.images[:21]  # not a multiple of the devices
  assert jax.local_device_count() == 8
  spread = load_run(run.path)
  logits = spread.logits(images, "flip")
  weights = jax.tree.leaves(spread._replicated_variables)
  assert all(len(leaf.sharding.device_set) == 8 for leaf in weights)
  assert "_compiled" not in vars(spread)  # the program of one device
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  single = load_run(run.path)
  expected = single.logits(images, "flip")
  assert "_spread" not in vars(single)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  assert logits.shape == expected.shape == (21, 10)


@pytest.mark.parametrize(
  "images", [np.zeros((2, 32, 32, 3), np.float32), np.zeros((2, 33, 32, 3), np.uint8)]
)
def test_images_of_another_type_or_shape_are_rejected(run, images):
  with pytest.raises(errors.UserError, match=r"takes uint8 of shape \(n, 32, 32, 3\)"):
    run.logits(images)


def test_folders_without_a_run_are_rejected(workdir, tmp_path):
  with pytest.raises(errors.UserError, match=r"not a run folder, because it has no config\.json"):
    load_run(tmp_path)
  for name in ("config.json", "dataset.json"):
    (tmp_path / name).write_text((workdir / name).read_text())
  with pytest.raises(errors.UserError, match="holds no selected weights"):
    load_run(tmp_path)
  (tmp_path / "dataset.json").unlink()
  with pytest.raises(errors.UserError, match=r"not a run folder, because it has no dataset\.json"):
    load_run(tmp_path)
  with pytest.raises(errors.UserError, match=r"has the seeds 0 to 1, not 2"):
    load_run(workdir, seed=2)


def test_changed_data_is_rejected(workdir, data_dir, tmp_path):
  for name in ("config.json", "dataset.json", "checkpoints"):
    (tmp_path / name).symlink_to(workdir / name)
  description = json.loads((workdir / "dataset.json").read_text()) | {"fingerprint": "0" * 64}
  (tmp_path / "dataset.json").unlink()
  (tmp_path / "dataset.json").write_text(json.dumps(description))
  with pytest.raises(errors.UserError, match=r"digits is not the data that .* was trained on"):
    load_run(tmp_path).load_data()


@pytest.mark.parametrize(
  "field",
  [
    {"mean": [None]},  # null, which NumPy converts to NaN
    {"std": ["0.2"]},
    {"mean": [0.5, 0.5]},
    {"std": [float("nan")]},
    {"class_names": []},
    {"image_shape": [8, 8]},
  ],
)
def test_invalid_dataset_json_is_rejected(workdir, tmp_path, field):
  for name in ("config.json", "checkpoints"):
    (tmp_path / name).symlink_to(workdir / name)
  description = json.loads((workdir / "dataset.json").read_text()) | field
  (tmp_path / "dataset.json").write_text(json.dumps(description))
  with pytest.raises(errors.UserError, match=r"dataset\.json: name, class_names, .* is invalid"):
    load_run(tmp_path)


def test_loading_the_exported_files_gives_the_same_network(run):
  weights, function, _ = export.export(run)
  images = run.load_data()[0].test.images[:5]
  np.testing.assert_allclose(
    export.load_function(function)(images), run.logits(images), rtol=1e-4, atol=1e-5
  )
  with safe_open(weights, framework="numpy") as file:
    tree = {"params": {}, "batch_stats": {}}
    for name in file.keys():  # noqa: SIM118 - not a dict
      *path, leaf = name.split(".")
      node = tree
      for part in path:
        node = node.setdefault(part, {})
      node[leaf] = file.get_tensor(name)
    config = json.loads(file.metadata()["config"])
    classes = json.loads(file.metadata()["class_names"])
  model = models.create(config["model"], len(classes))
  logits = jax.jit(lambda images: model.apply(tree, run.prepare(images), train=False))(images)
  np.testing.assert_allclose(logits, run.logits(images), rtol=1e-4, atol=1e-5)


NOTEBOOK = """
import sys
import analysis
assert "jax" not in sys.modules, "import analysis must stay fast"
sys.modules["models"] = type(sys)("models")  # another project's module, imported before
sys.modules["models"].__spec__ = None
sys.modules["models"].__file__ = "/elsewhere/models/__init__.py"
try:
  analysis.load_run
except ImportError as error:
  print(error)
del sys.modules["models"]
from analysis import Run, load_run
from analysis import run
assert (Run, load_run) == (run.Run, run.load_run)
try:
  from analysis import no_such_name
except ImportError as error:
  print("ImportError")
"""


def test_notebooks_import_load_run_lazily_and_see_which_module_shadows_ours(tmp_path):
  script = f"import sys; sys.path.insert(0, {str(small_runs.ROOT)!r})\n{NOTEBOOK}"
  finished = subprocess.run(
    [sys.executable, "-c", script],
    env=small_runs.environment(),
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert finished.returncode == 0, finished.stderr
  assert finished.stdout.splitlines() == [
    "models: Python finds /elsewhere/models/__init__.py, not the module in "
    f"{small_runs.ROOT.resolve()}; put this folder first in sys.path and restart Python",
    "ImportError",
  ]
