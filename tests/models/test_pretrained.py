"""models/pretrained.py against VGG16 of keras.applications, for each kind of file."""

import functools
import re

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import models
from cifar_jax.errors import UserError
from models import pretrained, vgg

# Keras converts its variables to NumPy in a way that NumPy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# The numbers of the convolutions in `features` of torchvision's VGG-16, as documented.
TORCHVISION = dict(
  zip(
    [f"block{s}_conv{i}" for s, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)],
    (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    strict=True,
  )
)
WIDTHS = (2, 3, 4, 5, 6)  # a network small enough to write often


def random_weights(widths, seed=0):
  """Return {layer: {'kernel', 'bias'}} of a VGG-16 with these widths; all layers differ."""
  rng = np.random.default_rng(seed)
  weights, inputs = {}, 3
  for layer in TORCHVISION:
    outputs = widths[int(layer[5]) - 1]
    kernel = rng.normal(size=(3, 3, inputs, outputs), scale=(4.5 * inputs) ** -0.5)
    bias = rng.normal(size=outputs, scale=0.1)
    weights[layer] = {"kernel": np.float32(kernel), "bias": np.float32(bias)}
    inputs = outputs
  return weights


def write_torchvision(path, weights):
  tensors = {"head.fc.weight": np.zeros((4, 2), np.float32)}
  for layer, number in TORCHVISION.items():
    kernel = weights[layer]["kernel"].transpose(3, 2, 0, 1)
    tensors[f"features.{number}.weight"] = np.ascontiguousarray(kernel)
    tensors[f"features.{number}.bias"] = weights[layer]["bias"]
  save_file(tensors, path)


def write_keras_1(path, weights):
  """Write the layout of vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5."""
  with h5py.File(path, "w") as file:
    file.attrs["layer_names"] = np.array([*weights, "block1_pool"], "S")
    file.create_group("block1_pool")
    for layer, arrays in weights.items():
      group = file.create_group(layer)
      names = [f"{layer}_W_1:0", f"{layer}_b_1:0"]
      group.attrs["weight_names"] = np.array(names, "S")
      for name, value in zip(names, arrays.values(), strict=True):
        group[name] = value


@pytest.fixture(scope="module")
def small():
  return random_weights(WIDTHS)


@pytest.fixture(scope="module")
def keras_vgg16():
  """Return Keras' VGG16 for 64×64 pixels and the random weights that it has."""
  import keras

  weights = random_weights((64, 128, 256, 512, 512))
  model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(64, 64, 3))
  for layer, arrays in weights.items():
    model.get_layer(layer).set_weights(list(arrays.values()))
  return model, weights


def test_outputs_are_those_of_keras(keras_vgg16, tmp_path):
  keras_model, weights = keras_vgg16
  images = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 64, 64, 3)), jnp.float32)
  values = [weight.value for weight in keras_model.weights]
  expected = jax.jit(lambda v: keras_model.stateless_call(v, [], images)[0])(values)
  assert np.abs(expected).mean() > 0.01  # the signal does not vanish

  keras_model.save_weights(tmp_path / "own.weights.h5")
  write_torchvision(tmp_path / "model.safetensors", weights)

  model = models.create({"name": "vgg16"}, 10)
  init = functools.partial(model.init, train=False)
  spec = jax.eval_shape(init, jax.random.key(0), images)["params"]
  params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), spec)
  features = jax.jit(lambda base: vgg.VGGBase(model.stages).apply({"params": base}, images))
  for file in ("own.weights.h5", "model.safetensors"):
    loaded = pretrained.replace_base(params, pretrained.load_vgg16(tmp_path / file))
    jax.tree.map(np.testing.assert_array_equal, loaded["base"], weights)
    assert loaded["head"] is params["head"]
    np.testing.assert_allclose(features(loaded["base"]), expected, rtol=1e-4, atol=1e-4)
  assert not params["base"]["block1_conv1"]["kernel"].any()  # `params` itself is unchanged


def write_keras_files(folder, weights):
  """Write one small network in the layouts of Keras 1, 2 and 3, alone and inside a classifier."""
  import keras
  from keras.src.legacy.saving import legacy_h5_format

  write_keras_1(folder / "keras1.h5", weights)
  layers = [keras.Input((32, 32, 3))]
  for layer, arrays in weights.items():
    conv = functools.partial(keras.layers.Conv2D, kernel_initializer="zeros", padding="same")
    layers.append(conv(len(arrays["bias"]), 3, name=layer))
  base = keras.Sequential(layers)
  for layer, arrays in weights.items():
    base.get_layer(layer).set_weights(list(arrays.values()))
  classifier = keras.Sequential(
    [base, keras.layers.Flatten(), keras.layers.Dense(2, kernel_initializer="zeros")]
  )
  classifier.compile(optimizer="adam", loss="mse")
  classifier.optimizer.build(classifier.trainable_variables)
  with h5py.File(folder / "keras2.h5", "w") as file:
    legacy_h5_format.save_weights_to_hdf5_group(file, base)
  for name, model in (("base", base), ("classifier", classifier)):
    model.save(folder / f"{name}.h5")
    model.save_weights(folder / f"{name}.weights.h5")


def test_every_layout_of_keras_is_read(small, tmp_path):
  write_keras_files(tmp_path, small)
  files = sorted(path.name for path in tmp_path.iterdir())
  assert len(files) == 6
  for file in files:
    loaded = pretrained.load_vgg16(str(tmp_path / file))
    assert list(loaded) == list(small)
    jax.tree.map(np.testing.assert_array_equal, loaded, small)


def write_keras_2_model(path, weights):
  """Write the layout of tf.keras 2.15's `model.save('vgg16.h5')` after training with Adam."""
  with h5py.File(path, "w") as file:
    for layer, arrays in weights.items():
      for name, value in arrays.items():
        file[f"model_weights/{layer}/{layer}/{name}:0"] = value
        for number, moment in enumerate(("m", "v"), start=1):
          file[f"optimizer_weights/Adam/{moment}/{layer}/{name}:0"] = value + number
          file[f"optimizer_weights/training/Adam/{layer}/{name}/{moment}:0"] = value + number


def test_the_moments_of_an_optimizer_are_not_weights(small, tmp_path):
  write_keras_2_model(tmp_path / "model.h5", small)
  loaded = pretrained.load_vgg16(tmp_path / "model.h5")
  jax.tree.map(np.testing.assert_array_equal, loaded, small)


def test_a_file_with_two_kernels_for_a_layer_is_refused(small, tmp_path):
  path = tmp_path / "two.h5"
  write_keras_1(path, small)
  with h5py.File(path, "a") as file:
    file["copy/block2_conv1/kernel"] = small["block2_conv1"]["kernel"]
  with pytest.raises(UserError) as error:
    pretrained.load_vgg16(path)
  assert re.fullmatch(
    r"model\.pretrained: .*two\.h5: the file has several kernels for block2_conv1 "
    r"\(block2_conv1/block2_conv1_W_1:0, copy/block2_conv1/kernel\); give a path .*",
    str(error.value),
  )


def test_timm_stands_for_the_file_on_the_hub(small, monkeypatch, tmp_path):
  import huggingface_hub

  requests = []

  def download(repository, name, revision):
    requests.append((repository, name, len(revision)))
    write_torchvision(tmp_path / name, small)
    return str(tmp_path / name)

  monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
  jax.tree.map(np.testing.assert_array_equal, pretrained.load_vgg16("timm"), small)
  assert requests == [("timm/vgg16.tv_in1k", "model.safetensors", 40)]


def test_without_a_network_connection_the_error_names_the_remedy(monkeypatch, tmp_path):
  from huggingface_hub import constants

  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  with pytest.raises(UserError) as error:
    pretrained.load_vgg16("timm")
  assert re.fullmatch(
    r"model\.pretrained: cannot download model\.safetensors of timm/vgg16\.tv_in1k \(.+\); "
    r"go online, or give a path to a safetensors file .+ or to Keras' .+\.h5",
    str(error.value),
  )


def break_file(tmp_path, kind, weights):
  """Return the path of a file with a fault of this kind."""
  if kind == "absent":
    return tmp_path / "none.h5"
  path = tmp_path / {"pickle": "vgg16.pth"}.get(kind, f"broken.{kind.split()[-1]}")
  if kind.startswith("lacking"):
    fewer = {layer: arrays for layer, arrays in weights.items() if layer != "block5_conv3"}
    if path.suffix == ".h5":
      write_keras_1(path, fewer)
    else:
      save_file({"features.0.weight": np.zeros((2, 3, 3, 3), np.float32)}, path)
  else:
    path.write_bytes(b"neither HDF5 nor safetensors")
  return path


@pytest.mark.parametrize(
  ("kind", "message"),
  [
    ("absent", r"none\.h5: no such file; give a path .*"),
    ("pickle", r"vgg16\.pth: neither \.safetensors nor \.h5 \(pickles are not loaded\); give .*"),
    ("broken h5", r"broken\.h5: cannot read the file: .*; give a path .*"),
    ("broken safetensors", r"broken\.safetensors: cannot read the file: .*; give a path .*"),
    ("lacking h5", r"broken\.h5: the file lacks block5_conv3; give a path .*"),
    ("lacking safetensors", r"broken\.safetensors: the file lacks features\.0\.bias, feat.*"),
  ],
)
def test_unusable_files_are_refused_in_one_line(small, tmp_path, kind, message):
  path = break_file(tmp_path, kind, small)
  with pytest.raises(UserError) as error:
    pretrained.load_vgg16(path)
  assert re.fullmatch(
    r"model\.pretrained: " + re.escape(f"{tmp_path}/") + message, str(error.value)
  )


def test_weights_must_fit_the_model(small):
  layer = {"kernel": jnp.zeros((3, 3, 3, 2)), "bias": jnp.zeros(2)}
  with pytest.raises(
    UserError, match=r"^model\.pretrained: the model has no .* model.name='vgg16'$"
  ):
    pretrained.replace_base({"head": layer}, small)
  with pytest.raises(UserError, match=r"^model\.pretrained: only one of .* has block1_conv2, bl"):
    pretrained.replace_base({"base": {"block1_conv1": layer}}, small)
  wrong = jax.tree.map(jnp.asarray, small) | {"block1_conv1": layer | {"bias": jnp.zeros(7)}}
  with pytest.raises(
    UserError, match=r"block1_conv1/bias has shape \(2,\) in the weights but \(7,\) in the model"
  ):
    pretrained.replace_base({"base": wrong}, small)


def test_weights_take_the_dtype_of_the_parameters(small):
  base = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.bfloat16), small)
  loaded = pretrained.replace_base({"base": base}, small)
  assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("bfloat16")}
