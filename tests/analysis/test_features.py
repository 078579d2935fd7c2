"""The scatter of features by class, and the picture of a dataset: values against NumPy."""

import types

import numpy as np
import pytest
import sklearn.decomposition
from PIL import Image

import input_pipeline
from analysis import load_run
from analysis.visualize import dataset_picture, examples, features
from cifar_jax import errors


@pytest.fixture(scope="module")
def run(workdir):
  return load_run(workdir)


def test_features_are_means_over_positions_or_the_outputs_of_dense_layers(run):
  images = np.asarray(run.load_data()[0].test.images[:6])
  layers = {layer.name: layer for layer in features.find_layers(run)}
  _, intermediates = run.model.apply(
    run.variables, run.normalize(images), train=False, capture_intermediates=True
  )
  outputs = intermediates["intermediates"]
  convolved = np.asarray(outputs["stage1_conv1"]["__call__"][0], np.float32)
  computed = features.compute_features(run, layers["stage1_conv1"], images)
  np.testing.assert_allclose(computed, convolved.mean((1, 2)), rtol=1e-4, atol=1e-5)
  hidden = np.asarray(outputs["dense1"]["__call__"][0], np.float32)
  computed = features.compute_features(run, layers["dense1"], images)
  np.testing.assert_allclose(computed, hidden, rtol=1e-4, atol=1e-5)
  pixels = np.asarray(run.normalize(images)).reshape(6, -1)
  computed = features.compute_features(run, None, images)
  np.testing.assert_allclose(computed, pixels, rtol=1e-5, atol=1e-6)


def test_the_layer_before_the_classifier_is_chosen(run):
  layers = features.find_layers(run)
  assert layers[-1].name == "head"
  assert features.choose_layer(run, layers) == layers[-2].name
  two_classes = types.SimpleNamespace(class_names=["cat", "dog"])
  single_logit = [features.FeatureLayer(0, "dense", 8), features.FeatureLayer(1, "head", 1)]
  assert features.choose_layer(two_classes, single_logit) == "dense"
  assert features.choose_layer(two_classes, []) == "input"


def test_components_are_scikit_learns():
  x = np.random.default_rng(0).normal(size=(50, 7)) @ np.diag([5, 3, 1, 1, 1, 1, 1.0]) + 4
  points, shares = features.project(x)
  expected = sklearn.decomposition.PCA(2)
  reference = expected.fit_transform(x)
  np.testing.assert_allclose(np.abs(points), np.abs(reference), rtol=1e-6, atol=1e-8)
  np.testing.assert_allclose(shares, expected.explained_variance_ratio_, rtol=1e-6)
  points, shares = features.project(x[:, :1])
  assert points.shape == (50, 2) and not points[:, 1].any()
  np.testing.assert_allclose(shares, [1, 0])


def test_each_class_has_its_points(run, drawn, tmp_path):
  features.draw_features(run, "dense1", "3,0", "a net", tmp_path / "features.png")
  test = run.load_data()[0].test
  layer = {layer.name: layer for layer in features.find_layers(run)}["dense1"]
  expected = features.compute_features(run, layer, np.asarray(test.images))[:, [3, 0]]
  left, right = drawn[0].axes
  assert (left.get_xlabel(), left.get_ylabel()) == ("feature 3", "feature 0")
  for axis in (left, right):
    assert [points.get_label() for points in axis.collections] == run.class_names
  for label, points in enumerate(left.collections):
    np.testing.assert_allclose(points.get_offsets(), expected[test.labels == label], rtol=1e-5)
  assert drawn[0].get_suptitle() == "16 features of 360 test images: layer dense1 of a net"


@pytest.mark.parametrize(
  ("layer", "selection", "message"),
  [
    ("conv9", "", r"--layer: 'conv9' is not a layer of this network; use one of: input, stage1_"),
    ("dense1", "3", r"--features: '3' must be two numbers from 0 to 15, such as 0,1"),
    ("dense1", "3,16", r"--features: '3,16' must be two numbers"),
    ("dense1", "a,3,2", r"--features: 'a,3,2' must be two numbers"),
  ],
)
def test_wrong_layers_and_features_are_named(run, tmp_path, layer, selection, message):
  with pytest.raises(errors.UserError, match=message):
    features.draw_features(run, layer, selection, "a net", tmp_path / "features.png")
  assert not list(tmp_path.iterdir())


def fake_dataset(num_classes, count):
  """Return a dataset whose image i is filled with i, and has the label i % num_classes."""
  numbers = np.arange(count)
  images = np.broadcast_to(numbers[:, None, None, None], (count, 8, 8, 3)).astype(np.uint8)
  train = types.SimpleNamespace(images=images, labels=numbers % num_classes)
  test = types.SimpleNamespace(labels=numbers[:7])
  names = [f"class {i}" for i in range(num_classes)]
  return types.SimpleNamespace(name="a set", train=train, test=test, class_names=names)


@pytest.mark.parametrize(("classes", "count", "shown"), [(3, 90, 30), (40, 200, 100), (3, 5, 5)])
def test_a_dataset_is_shown_with_its_labels(monkeypatch, drawn, tmp_path, classes, count, shown):
  monkeypatch.setattr(input_pipeline, "load", lambda config: fake_dataset(classes, count))
  path = dataset_picture.draw_dataset(None, tmp_path / "dataset.png")
  with Image.open(path) as image:
    assert image.width > 1000
  axes = [axis for axis in drawn[0].axes if axis.images]
  numbers = [int(axis.images[0].get_array()[0, 0, 0]) for axis in axes]
  assert [axis.get_title() for axis in axes] == [f"class {i % classes}" for i in numbers]
  assert len(numbers) == len(set(numbers)) == shown
  if classes == 3:  # each class in a row of its own
    assert numbers == sorted(numbers, key=lambda i: (i % 3, i))
  with pytest.raises(errors.UserError, match=r"--picture: .* cannot be written \(No such file"):
    dataset_picture.draw_dataset(None, tmp_path / "none" / "dataset.png")


def test_the_first_of_each_class_come_first():
  labels = np.array([2, 2, 0, 2, 1, 0])
  assert examples.first_of_each_class(labels, 5).tolist() == [2, 4, 0, 5, 1]
