"""models/torch_resnet.py: weights in torchvision's and timm's naming give PyTorch's logits.

torch_resnet_logits.json holds what PyTorch computes in float64; benchmarks/peers/torch_resnets.py
wrote it.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import models
from benchmarks.peers import torch_resnets
from cifar_jax.errors import UserError
from models import torch_resnet, transfer

EXPECTED = json.loads((pathlib.Path(__file__).parent / "torch_resnet_logits.json").read_text())


def initial_shapes(model, size):
  """Return the shapes of a model's variables."""
  images = jnp.zeros((1, size, size, 3))
  return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)


@pytest.mark.parametrize("case", ["resnet18_cifar", "resnet50_imagenet"])
def test_logits_are_those_of_pytorch(case, tmp_path, quick_compilation):
  network, stem, size, classes = torch_resnets.CASES[case]
  save_file(torch_resnets.draw_weights(network, stem, classes), tmp_path / "model.safetensors")
  model = models.create({"name": network, "stem": stem}, classes)
  spec = initial_shapes(model, size)
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), spec)
  variables = transfer.insert(zeros, transfer.load(str(tmp_path / "model.safetensors")))
  images = torch_resnets.draw_images(size)
  logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
  expected = np.array(EXPECTED[case])
  assert np.abs(expected).mean() > 0.1  # the signal does not vanish
  np.testing.assert_allclose(logits[:, :10], expected, atol=1e-5 * np.abs(expected).max())


def test_every_array_of_resnet34_has_its_place():
  shapes = torch_resnets.shapes("resnet34", "imagenet", 10)
  arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
  arrays |= {"bn1.num_batches_tracked": np.zeros((), np.int64)}
  converted = torch_resnet.convert(arrays, "weights")
  spec = initial_shapes(models.create({"name": "resnet34", "stem": "imagenet"}, 10), 32)
  assert jax.tree.map(np.shape, converted) == jax.tree.map(np.shape, dict(spec))


@pytest.mark.parametrize(
  ("name", "shape"),
  [
    ("layer1.0.se.fc1.weight", (4, 64, 1, 1)),  # squeeze and excitation
    ("layer2.0.downsample.1.weight", (128, 64, 1, 1)),  # ResNet-D
    ("conv1.0.weight", (32, 3, 3, 3)),  # a deep stem
  ],
)
def test_arrays_of_other_networks_are_named(name, shape):
  arrays = {"layer1.0.conv1.weight": np.zeros((4, 4, 3, 3), np.float32)}
  arrays[name] = np.zeros(shape, np.float32)
  with pytest.raises(UserError) as error:
    torch_resnet.convert(arrays, "hf://timm/other")
  assert str(error.value).startswith(
    f"model.pretrained: hf://timm/other: {name} {shape} has no counterpart in a ResNet"
  )


def test_weights_of_the_other_stem_are_refused(tmp_path):
  arrays = torch_resnets.draw_weights("resnet18", "imagenet", 10)
  save_file(arrays, tmp_path / "model.safetensors")
  spec = initial_shapes(models.create({"name": "resnet18"}, 10), 32)
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), spec)
  with pytest.raises(
    UserError, match=r"stem_conv/kernel is \(7, 7, 3, 64\) .* the same model\.stem"
  ):
    transfer.insert(zeros, transfer.load(str(tmp_path / "model.safetensors")))
