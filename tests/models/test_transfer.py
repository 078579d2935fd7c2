"""models/transfer.py: starting from trained weights, and features computed once."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from keras_weights import random_variables

import models
import train
from cifar_jax.errors import UserError
from cifar_jax.runs import checkpoints
from models import transfer, vgg

NET = {
  "augment": "",
  "loss.l2": (),
  "num_epochs": 2,
  "batch_size": 160,
  "optimizer.momentum": 0.0,
}
FROZEN = {"optimizer.freeze": ("^base/",)}
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", autouse=True)
def tiny_vgg():
  """Make VGG's module with two small stages the model 'tiny_vgg', for this module's tests."""
  # Taken back at the end: a worker that steals tests of this module later sets it up once more.
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models._REGISTRY, "tiny_vgg", (small_vgg, {}))
    yield


def small_vgg(**common):
  return vgg.VGG(stages=(1, 1), widths=(4, 8), dense=(16,), **common)


@pytest.fixture(scope="module")
def first_run(data_dir, tiny_vgg, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "first"
  with small_runs.quick_compilation():
    fit(data_dir, workdir, augment="random_flip()")
  return workdir


def fit(data_dir, workdir, **fields):
  config = small_runs.config(data_dir, **(NET | {"model.widths": None} | fields))
  config.model.name = fields.get("model.name", "tiny_vgg")
  del config.model.widths, config.model.dense
  train.train_and_evaluate(config, str(workdir))
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_starts_from_the_selected_weights_of_another(data_dir, first_run, tmp_path):
  fields = {"model.pretrained": str(first_run), "optimizer.learning_rate": 1e-30, "num_epochs": 1}
  (row,) = fit(data_dir, tmp_path / "next", **fields)
  first = json.loads((first_run / "results.json").read_text())
  assert row["val_loss"] == pytest.approx(first["val_loss"], rel=1e-6)
  _, before = checkpoints.read_best(first_run)
  _, after = checkpoints.read_best(tmp_path / "next")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-20), before, after)


def test_features_computed_once_train_as_images_do(data_dir, first_run, tmp_path, monkeypatch):
  fields = FROZEN | {"model.pretrained": str(first_run)}
  calls = []
  compute_features = transfer.compute_features
  monkeypatch.setattr(
    transfer, "compute_features", lambda *args: calls.append(1) or compute_features(*args)
  )
  once = fit(data_dir, tmp_path / "once", **fields)
  assert len(calls) == 1
  monkeypatch.setattr(transfer, "has_fixed_base", lambda *args: False)
  always = fit(data_dir, tmp_path / "always", **fields)
  assert len(calls) == 1

  for a, b in zip(once, always, strict=True):
    for name in ("train_loss", "val_loss", "val_accuracy"):
      assert a[name] == pytest.approx(b[name], rel=1e-5)
  assert once[-1]["train_loss"] < once[0]["train_loss"]
  # The checkpoint holds the complete network, with its base unchanged.
  _, before = checkpoints.read_best(first_run)
  _, after = checkpoints.read_best(tmp_path / "once")
  jax.tree.map(np.testing.assert_array_equal, before["params"]["base"], after["params"]["base"])
  assert not np.array_equal(before["params"]["head"]["kernel"], after["params"]["head"]["kernel"])


@pytest.mark.parametrize(
  ("changes", "fixed"),
  [
    ({}, True),
    ({"augment": "random_flip()"}, False),
    ({"optimizer.freeze": ()}, False),
    ({"optimizer.freeze": ("block1",)}, False),
    ({"optimizer.freeze": ("block1", "block2")}, True),
    ({"model.pretrained": ""}, False),
    ({"num_seeds": 2}, False),
    ({"tta": "flip"}, False),
    ({"proxy.keep": 80}, False),
  ],
)
def test_features_are_computed_once_only_if_nothing_before_them_changes(data_dir, changes, fixed):
  fields = NET | FROZEN | {"model.pretrained": "somewhere"} | changes
  config = small_runs.config(data_dir, **fields)
  model = models.create({"name": "tiny_vgg"}, 10)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 8, 8, 3)), False))
  assert transfer.has_fixed_base(config, model, shapes["params"]) is fixed


def tree(head, stem=(3, 4)):
  ones = functools.partial(np.ones, dtype=np.float32)
  return {
    "params": {"stem": {"kernel": ones(stem)}, "head": {"kernel": ones(head)}},
    "batch_stats": {"norm": {"mean": ones(4)}},
  }


def test_a_head_for_other_classes_keeps_its_initial_values(log_lines):
  initial = jax.tree.map(np.zeros_like, tree((4, 10)))
  merged = transfer.insert(initial, tree((4, 100)))
  np.testing.assert_array_equal(merged["params"]["stem"]["kernel"], np.ones((3, 4)))
  np.testing.assert_array_equal(merged["batch_stats"]["norm"]["mean"], np.ones(4))
  np.testing.assert_array_equal(merged["params"]["head"]["kernel"], np.zeros((4, 10)))
  assert "the head keeps its initial values" in log_lines[0]

  merged = transfer.insert(initial, tree((4, 10)))
  np.testing.assert_array_equal(merged["params"]["head"]["kernel"], np.ones((4, 10)))


def test_weights_of_another_network_are_refused():
  with pytest.raises(UserError, match=r"model.pretrained: params/stem/kernel is \(5, 4\) in the w"):
    transfer.insert(tree((4, 10)), tree((4, 10), stem=(5, 4)))
  without = tree((4, 10))
  del without["batch_stats"]
  with pytest.raises(UserError, match="batch_stats/norm/mean is absent in the weights"):
    transfer.insert(tree((4, 10)), without | {"batch_stats": {}})


def test_a_folder_without_weights_is_refused(tmp_path):
  with pytest.raises(UserError, match="it holds no selected weights; pass the folder of a run"):
    transfer.load(str(tmp_path))
  with pytest.raises(UserError, match="nothing: no such run folder or file; name"):
    transfer.load(str(tmp_path / "nothing"))
  assert transfer.load("") is None


def test_features_computed_once_give_the_same_logits():
  model = vgg.VGG(3, (1, 1), (4, 6), dense=(7,))
  images = jnp.asarray(np.random.default_rng(5).uniform(size=(2, 10, 10, 3)), jnp.float32)
  variables = random_variables(model, images)
  base = variables["params"].pop("base")
  assert set(variables["params"]) == {"dense1", "head"}
  features = vgg.VGGBase(model.stages, model.widths).apply({"params": base}, images)
  assert features.shape == (2, 2, 2, 6)
  on_features = model.clone(from_features=True)
  spec = jax.eval_shape(
    functools.partial(on_features.init, train=False), jax.random.key(0), features
  )
  assert jax.tree.structure(spec) == jax.tree.structure(variables)
  np.testing.assert_array_equal(
    on_features.apply(variables, features, train=True),
    model.apply({"params": {**variables["params"], "base": base}}, images, train=False),
  )


def test_the_folder_whose_uses_of_the_test_set_count_too(first_run, tmp_path, monkeypatch):
  monkeypatch.setattr(transfer, "_read", lambda *_: {})

  def find_folder(source):
    return transfer.load_with_folder(source)[1]

  assert find_folder("") is None and find_folder("timm") is None
  assert find_folder(str(first_run)) == first_run
  shared = tmp_path / "weights.safetensors"
  shared.touch()
  for source in (tmp_path, shared):
    assert find_folder(str(source)) == tmp_path
  assert find_folder(str(tmp_path / "model.safetensors")) is None
