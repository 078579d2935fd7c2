"""Pictures of a network: values against NumPy and closed forms, and the pictures of a small run."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from keras_weights import random_variables
from PIL import Image

import input_pipeline
import models
from analysis import load_run
from analysis.visualize import ascent, drawings, examples, gradients, pictures, report001, visualize
from cifar_jax import errors
from cifar_jax.runs import test_uses

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def run(workdir):
  return load_run(workdir)


class Net(nn.Module):
  """A convolution, then a mean over positions or a flattening, then a dense layer."""

  classes: int
  pool: bool

  @nn.compact
  def __call__(self, images, train):
    x = nn.Conv(5, (3, 3), name="conv")(images)
    x = x.mean((1, 2)) if self.pool else x.reshape(len(x), -1)
    return nn.Dense(self.classes, name="head")(x)


def init_variables(model, images):
  """Return a model's variables, computed by one compiled program, which is faster."""
  return jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()


def make_net(classes, pool):
  """Return a Net, its variables, images for it, and SciPy's output of its convolution."""
  model = Net(classes, pool)
  images = np.random.default_rng(0).normal(size=(4, 6, 8, 3)).astype(np.float32)
  variables = init_variables(model, images)
  kernel, bias = (np.asarray(variables["params"]["conv"][name]) for name in ("kernel", "bias"))
  convolved = np.stack(
    [
      np.stack(
        [
          sum(scipy.signal.correlate2d(x[..., i], kernel[:, :, i, o], "same") for i in range(3))
          for o in range(5)
        ],
        -1,
      )
      for x in images
    ]
  )
  return model, variables, images, convolved + bias


def find_convolution(model, variables, images):
  (layer,) = gradients.find_feature_maps(model, variables, images.shape[1:], nn.Conv)
  return layer


def test_activations_are_flaxs_intermediates(run):
  images = run.normalize(run.load_data()[0].test.images[:3])
  layers = gradients.find_feature_maps(run.model, run.variables, run.image_shape)
  outputs = gradients.compute_outputs(run.model, run.variables, images, layers)

  @jax.jit
  def capture(images):
    captured = {"capture_intermediates": True, "mutable": ["intermediates"]}
    return run.model.apply(run.variables, images, train=False, **captured)[1]["intermediates"]

  intermediates = capture(images)
  names = [layer.name for layer in layers]
  stages = [f"stage{s}_{kind}{i}" for s in (1, 2) for i in (1, 2) for kind in ("conv", "norm")]
  assert names == [*stages, "Dropout_0"]
  for layer, output in zip(layers, outputs, strict=True):
    expected = intermediates[layer.name]["__call__"][0]
    assert output.shape == (3, *layer.shape)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5, err_msg=layer.name)


def test_activations_of_a_convolution_are_scipys():
  model, variables, images, convolved = make_net(3, pool=True)
  (output,) = gradients.compute_outputs(
    model, variables, images, [find_convolution(model, variables, images)]
  )
  np.testing.assert_allclose(output, convolved, atol=1e-5)


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_grad_cam_is_its_closed_form(pool, classes):
  model, variables, images, convolved = make_net(classes, pool)
  wanted = np.array([0, 1, 1, 0])
  layer = find_convolution(model, variables, images)
  heat = gradients.compute_grad_cam(model, variables, images, wanted, layer)
  # The logits are linear in the map: their gradient is the dense layer's kernel.
  head = np.asarray(variables["params"]["head"]["kernel"])
  if classes == 2:
    head = head - head[:, ::-1]
  positions = 6 * 8
  weights = head / positions if pool else head.reshape(positions, 5, classes).mean(0)
  expected = np.maximum(np.einsum("nhwc,cn->nhw", convolved, weights[:, wanted]), 0)
  assert (expected > 0).any((1, 2)).all()
  np.testing.assert_allclose(heat, expected, atol=1e-6)


def test_grad_cam_explains_both_classes_of_a_single_logit():
  config = {"name": "basic_cnn", "widths": (4, 4), "single_logit": True}
  model = models.create(config, 2)
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  variables = init_variables(model, images)
  layer = gradients.find_last_feature_map(
    gradients.find_feature_maps(model, variables, (16, 16, 3))
  )
  assert layer.name == "norm2"
  heats = [
    gradients.compute_grad_cam(model, variables, images, np.array([c, c]), layer) for c in (0, 1)
  ]
  (maps,) = gradients.compute_outputs(model, variables, images, [layer])
  # The head is linear in the map: evidence for one class is evidence against the other.
  weights = np.asarray(variables["params"]["head"]["kernel"]).reshape(16, 4).mean(0)
  np.testing.assert_allclose(heats[1] - heats[0], maps @ weights, atol=1e-5)
  assert all(heat.any() for heat in heats)


LAST_MAPS = {
  "resnet18": ("stage4_block2", (4, 4, 512)),
  "preact_resnet18": ("final_norm", (4, 4, 512)),
  "wrn16_8": ("final_norm", (8, 8, 512)),
  "inception_cnn": ("norm3", (4, 4, 256)),
  "lenet2": ("stage2_conv2", (16, 16, 64)),
  "two_block_cnn_bn": ("stage2_norm2", (16, 16, 64)),
  "elu_resnet18": ("stage4_block2", (2, 2, 512)),
  "vgg16": ("base/block5_conv3", (2, 2, 512)),  # the later layers have a single position
}


@pytest.mark.parametrize("name", LAST_MAPS)
def test_every_family_has_a_last_map_and_a_gradient_to_it(name):
  model = models.create({"name": name}, 10, jnp.bfloat16)
  images = jnp.zeros((2, 32, 32, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
  layers = gradients.find_feature_maps(model, variables, (32, 32, 3))
  layer = gradients.find_last_feature_map(layers)
  assert (layer.name, layer.shape) == LAST_MAPS[name]
  heat = jax.eval_shape(
    lambda v, x: gradients.compute_grad_cam(model, v, x, jnp.zeros(2, int), layer),
    variables,
    images,
  )
  assert (heat.shape, heat.dtype) == ((2, *layer.shape[:2]), jnp.float32)

  convolutions = gradients.find_feature_maps(model, variables, (32, 32, 3), nn.Conv)
  assert convolutions == [layer for layer in layers if issubclass(layer.module, nn.Conv)]
  kernels = [p for p in jax.tree.leaves(variables["params"]) if p.ndim == 4]
  assert len(convolutions) == len(kernels)


def test_the_last_map_has_parameters_and_several_positions():
  layer = gradients.Layer(0, "conv", nn.Conv, (4, 4, 8), True)
  dropout = gradients.Layer(1, "dropout", nn.Dropout, (2, 2, 8), False)
  single = gradients.Layer(2, "block", nn.Conv, (1, 1, 8), True)
  assert gradients.find_last_feature_map([layer, dropout, single]) is layer
  assert gradients.find_last_feature_map([single]) is single


def test_ascent_on_a_linear_filter_is_its_closed_form():
  class Pointwise(nn.Module):
    @nn.compact
    def __call__(self, images, train):
      return nn.Conv(4, (1, 1), name="conv")(images).mean((1, 2))

  model = Pointwise()
  pixels = np.random.default_rng(0).uniform(0, 255, (3, 5, 6, 3)).astype(np.float32)
  variables = init_variables(model, pixels)
  kernel = np.asarray(variables["params"]["conv"]["kernel"])[0, 0]
  filters = np.array([2, 0, 3])
  climb = ascent.Ascent(
    model, variables, lambda x: x / 255, find_convolution(model, variables, pixels), step_size=7.0
  )
  result = climb(pixels, filters, num_steps=3)  # steps of 7 times 1, 1 + 0.9, 1 + 0.9 + 0.81
  direction = kernel[:, filters].T / np.sqrt((kernel[:, filters].T ** 2).mean(1, keepdims=True))
  np.testing.assert_allclose(result, pixels + 7 * 5.61 * direction[:, None, None], atol=1e-3)
  expected = np.einsum("nhwc,cn->n", result / 255, kernel[:, filters]) / 30
  np.testing.assert_allclose(climb.respond(result, filters), expected, rtol=1e-4)


def test_ascent_takes_images_of_another_size_than_the_network(run):
  layers = gradients.find_feature_maps(run.model, run.variables, run.image_shape, nn.Conv)
  climb = ascent.Ascent(run.model, run.variables, run.normalize, layers[-1])
  assert climb(np.zeros((2, 12, 16, 3)), np.arange(2), 1).shape == (2, 12, 16, 3)
  few, many = (climb.count_operations(np.zeros((n, 8, 8, 3))) for n in (1, 4))
  assert 0 < few < many


def test_the_median_filter_of_a_trained_network_is_excited_tenfold(run):
  """Only the median: a filter may be bounded, or have only poor images near the noise."""
  for layer in gradients.find_feature_maps(run.model, run.variables, run.image_shape, nn.Conv):
    excited = ascent.excite_filters(run, layer)
    assert excited.pixels.shape == (layer.shape[2], 32, 32, 3)
    assert excited.pixels.dtype == np.uint8
    assert (excited.ascent_response >= excited.noise_response).all(), layer.name
    for response in (excited.ascent_response, excited.pixels_response):
      assert np.median(response) > np.median(excited.noise_response), layer.name
    assert np.median(excited.ascent_response / np.abs(excited.noise_response)) >= 10, layer.name


@pytest.mark.parametrize(
  ("config", "expected"),
  [
    ({"name": "basic_cnn", "widths": (3, 4), "dense": (5,)}, [True, True]),
    ({"name": "simple_cnn", "widths": (4,), "dense": ()}, [True, True]),  # norms with their ReLU
    ({"name": "two_block_cnn_bn"}, [False] * 4),  # a norm comes between
  ],
)
def test_layers_that_a_relu_follows_are_found(config, expected):
  model = models.create(config, 10)
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  variables = random_variables(model, images)  # with statistics that do not keep the sign
  layers = gradients.find_feature_maps(model, variables, (8, 8, 3), nn.Conv)
  assert report001.find_rectified(model, variables, images, layers) == expected


def test_filter_images_by_the_reports_procedure_on_a_linear_filter_are_its_closed_form(run):
  class Pointwise(nn.Module):
    @nn.compact
    def __call__(self, images, train):
      return nn.Conv(4, (1, 1), name="conv")(images).mean((1, 2))

  model = Pointwise()
  variables = init_variables(model, np.zeros((1, 6, 7, 3), np.float32))
  kernel = np.asarray(variables["params"]["conv"]["kernel"])[0, 0]
  config = run.config.copy_and_resolve_references()
  config.data.normalize = "unit"
  changes = {"model": model, "variables": variables, "config": config}
  changes["description"] = run.description | {"image_shape": [6, 7, 3]}
  pointwise = dataclasses.replace(run, **changes)
  layer = find_convolution(model, variables, np.zeros((1, 6, 7, 3)))
  pixels = report001.excite_filters(pointwise, layer, 4, rectified=False)

  # Only the 2 × 3 positions off the border count. The gradient is the kernel at each of them, and
  # 30 steps of length 10 in its direction follow the noise.
  expected = np.random.RandomState(0).uniform(0.4, 0.6, (4, 6, 7, 3))
  direction = kernel.T / np.linalg.norm(kernel, axis=0)[:, None] / np.sqrt(6)
  expected[:, 2:-2, 2:-2] += 300 * direction[:, None, None]
  centred = expected - expected.mean((1, 2, 3), keepdims=True)
  expected = np.clip(64 * centred / centred.std((1, 2, 3), keepdims=True) + 128, 0, 255)
  np.testing.assert_allclose(pixels, expected, atol=1)
  assert pixels.std() > 20


def test_a_relu_stops_filters_that_are_below_zero(run):
  layer = gradients.find_feature_maps(run.model, run.variables, run.image_shape, nn.Conv)[0]
  params = jax.tree.map(jnp.zeros_like, run.variables["params"])
  params[layer.name]["bias"] = jnp.full(layer.shape[2], -1.0)
  dead = dataclasses.replace(run, variables=run.variables | {"params": params})
  noise = np.random.RandomState(0).uniform(0.4, 0.6, (2, *run.image_shape))
  centred = noise - noise.mean((1, 2, 3), keepdims=True)
  expected = np.clip(64 * centred / centred.std((1, 2, 3), keepdims=True) + 128, 0, 255)
  pixels = report001.excite_filters(dead, layer, 2, rectified=True)
  np.testing.assert_allclose(pixels, expected, atol=1)


def test_augmented_images_are_those_of_training(run, monkeypatch, tmp_path):
  dataset, _ = run.load_data()
  images, labels = dataset.test.images[:3], dataset.test.labels[:3]
  drawn = []
  monkeypatch.setattr(pictures, "show_image", lambda axis, pixels: drawn.append(pixels))
  shown = [examples.Example("", *pair) for pair in zip(images, labels, strict=True)]
  drawings.draw_augmentation(run, shown, tmp_path / "a.png")
  assert len(drawn) == 3 * 7

  # The first three positions of the second epoch, and the second step's mixing.
  config = run.config.copy_and_resolve_references()
  config.batch_size = 3
  preprocess = input_pipeline.make_preprocess(config, dataset, steps_per_epoch=1)
  batch = jax.jit(preprocess.train)(
    jax.random.key(0), 1, np.arange(3), np.arange(3), images, labels
  )
  mean, std = np.asarray(dataset.mean), np.asarray(dataset.std)
  expected = np.clip(np.asarray(batch["image"]) * std + mean, 0, 1) * 255
  for i in range(3):
    np.testing.assert_array_equal(drawn[7 * i], images[i])
    np.testing.assert_allclose(drawn[7 * i + 2].astype(float), expected[i], atol=0.51)


@pytest.mark.parametrize("normalize", ["unit", "standardize"])
def test_denormalize_inverts_normalize(run, normalize):
  images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
  run.config.data.normalize, old = normalize, run.config.data.normalize
  try:
    pixels = drawings.denormalize(run, run.normalize(images))
  finally:
    run.config.data.normalize = old
  np.testing.assert_array_equal(pixels, images)


def test_mosaic_has_every_tile_in_its_place():
  tiles = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
  mosaic = pictures.make_mosaic(tiles, min_side=4, ground=0)
  assert mosaic.shape == (4 * 2 + 2, 6 * 3 + 4, 1)
  for i in range(5):
    row, column = divmod(i, 3)
    assert (mosaic[6 * row : 6 * row + 4, 8 * column : 8 * column + 6] == i + 1).all()
  assert mosaic.astype(int).sum() == 15 * 24


@pytest.mark.parametrize(("count", "filling"), [(4, 4), (5, 4), (8, 6), (13, 12), (64, 64)])
def test_the_largest_full_mosaic(count, filling):
  assert pictures.largest_full_mosaic(count, 64) == filling
  assert pictures.largest_full_mosaic(100, count) == filling
  mosaic = pictures.make_mosaic(np.zeros((filling, 40, 40, 3), np.uint8))
  assert mosaic[-1, -1].tolist() == [0, 0, 0]  # the last place is taken


def test_colours_show_signs_and_heat_covers_the_maximum():
  maps = np.array([[[-2.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]])
  blue, white, red = pictures.colour_by_sign(maps)[0, 0].astype(int)
  assert blue[2] > blue[0] + 50 and red[0] > red[2] + 50 and white.min() > 240
  assert pictures.colour_by_sign(maps)[1].min() > 240
  heat = np.zeros((2, 2))
  heat[0, 1] = 3.0
  pixels = pictures.overlay_heat(np.full((8, 8, 1), 100, np.uint8), heat).astype(int)
  assert pixels.shape == (8, 8, 3)
  assert pixels[0, 7, 0] > pixels[7, 0, 0] and (pixels[4:, :2] == pixels[7, 0]).all()


def test_selected_layers_include_the_first_and_the_last():
  layers = [gradients.Layer(i, "", nn.Conv, (1, 1, 1), True) for i in range(155)]
  chosen = [layer.number for layer in gradients.select_evenly(layers, 11)]
  assert chosen == sorted(set(chosen)) and len(chosen) == 11
  assert (chosen[0], chosen[-1]) == (0, 154)
  assert gradients.select_evenly(layers[:11], 11) == layers[:11]


PICTURES = {
  "learning_curves",
  "augmentation",
  "kernels",
  "filters",
  "filters_as_report",
  "grad_cam",
  "features",
}


def test_a_run_is_drawn_with_its_test_images(workdir, monkeypatch):
  monkeypatch.setattr(drawings, "MAX_FILTER_LAYERS", 2)
  monkeypatch.setattr(examples, "_NUM_TEST_IMAGES", 4)
  uses = test_uses.count(workdir)
  written = visualize.visualize(workdir, as_report=True)
  assert test_uses.count(workdir) == uses + 1
  names = {path.stem for path in written}
  activations, as_report = sorted(names - PICTURES, key=len)
  assert names >= PICTURES and activations.startswith("activations_test_")
  assert as_report == activations.replace("_test_", "_as_report_test_")
  assert {path.parent for path in written} == {workdir / "plots"}
  assert sorted(path.name for path in (workdir / "plots").iterdir()) == sorted(
    path.name for path in written
  )
  for path in written:
    with Image.open(path) as image:
      image.load()
      assert 400 < image.width < 1500 and 200 < image.height < 1500, path


def test_a_run_is_drawn_with_image_files(workdir, tmp_path, monkeypatch):
  for name in ("draw_filters", "draw_kernels", "draw_augmentation"):
    monkeypatch.setattr(drawings, name, lambda *_: None)
  for name in ("a/cat.png", "b/cat.png", "b/1$ and $2 猫.png"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(
      tmp_path / name
    )
  uses = test_uses.count(workdir)
  written = visualize.visualize(workdir, [tmp_path / "a" / "cat.png", tmp_path / "b"])
  assert test_uses.count(workdir) == uses  # these are no test images
  assert "features.png" not in [path.name for path in written]  # it needs the dataset
  assert [path.name for path in written if "activations" in path.name] == [
    "activations_cat.png",
    "activations_1_and_2_猫.png",
    "activations_cat_2.png",
  ]


def test_files_that_cannot_be_shown_are_rejected(workdir, tmp_path):
  bad = tmp_path / "bad.png"
  bad.write_bytes(b"not an image")
  with pytest.raises(
    errors.UserError, match=r"bad\.png: cannot be read as an image \(not an image"
  ):
    visualize.visualize(workdir, [bad])
  with pytest.raises(errors.UserError, match=r"gone\.png: cannot be read .*\(No such file"):
    visualize.visualize(workdir, [tmp_path / "gone.png"])
  with pytest.raises(errors.UserError, match="17 are too many"):
    visualize.visualize(workdir, [bad] * 17)


def test_a_run_without_augmentation_has_no_picture_of_it(workdir, tmp_path, monkeypatch, log_lines):
  for name in ("draw_filters", "draw_kernels", "draw_activations", "draw_grad_cam"):
    monkeypatch.setattr(drawings, name, lambda *_: None)
  monkeypatch.setattr(visualize, "draw_features", lambda *_: None)
  for file in workdir.iterdir():
    if file.name not in ("plots", "config.json"):
      (tmp_path / file.name).symlink_to(file)
  config = json.loads((workdir / "config.json").read_text()) | {"augment": ""}
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert "augmentation" not in {path.stem for path in visualize.visualize(tmp_path)}
  assert any("does not augment images" in line for line in log_lines)
