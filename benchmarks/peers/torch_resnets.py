"""Logits of torchvision's and timm's ResNets, for tests/models/test_torch_resnet.py.

The weights are drawn by NumPy from a seed, so that the tests draw the same ones. In an environment
of `make peers`, with `pip install --no-deps torchvision timm` of the versions that fit its torch:

  python -m benchmarks.peers.torch_resnets tests/models/torch_resnet_logits.json
"""

import json
import sys

import numpy as np

# Blocks of each stage, and whether they are bottlenecks.
NETWORKS = {
  "resnet18": ((2, 2, 2, 2), False),
  "resnet34": ((3, 4, 6, 3), False),
  "resnet50": ((3, 4, 6, 3), True),
}
# Case: network, stem, image size, classes.
CASES = {
  "resnet18_cifar": ("resnet18", "cifar", 17, 10),
  "resnet18_imagenet": ("resnet18", "imagenet", 65, 1000),
  "resnet34_imagenet": ("resnet34", "imagenet", 64, 10),
  "resnet50_imagenet": ("resnet50", "imagenet", 65, 10),
  "resnet50_cifar": ("resnet50", "cifar", 16, 10),
}
IMAGES = 2


def shapes(network, stem, classes):
  """Return the shape of every array by its name in PyTorch, without num_batches_tracked."""
  stages, is_bottleneck = NETWORKS[network]
  size = 3 if stem == "cifar" else 7
  arrays = {"conv1.weight": (64, 3, size, size)} | _norm("bn1", 64)
  inputs = 64
  for stage, (blocks, width) in enumerate(zip(stages, (64, 128, 256, 512), strict=True), start=1):
    outputs = 4 * width if is_bottleneck else width
    sizes = (1, 3, 1) if is_bottleneck else (3, 3)
    for block in range(blocks):
      prefix = f"layer{stage}.{block}"
      channels = [inputs, *[width] * (len(sizes) - 1), outputs]
      for i, kernel in enumerate(sizes, start=1):
        arrays[f"{prefix}.conv{i}.weight"] = (channels[i], channels[i - 1], kernel, kernel)
        arrays |= _norm(f"{prefix}.bn{i}", channels[i])
      if block == 0 and (stage > 1 or inputs != outputs):
        arrays[f"{prefix}.downsample.0.weight"] = (outputs, inputs, 1, 1)
        arrays |= _norm(f"{prefix}.downsample.1", outputs)
      inputs = outputs
  return arrays | {"fc.weight": (classes, inputs), "fc.bias": (classes,)}


def _norm(name, channels):
  return {f"{name}.{x}": (channels,) for x in ("weight", "bias", "running_mean", "running_var")}


def draw_weights(network, stem, classes):
  """Return float32 arrays of these shapes, with values that keep the signal's scale.

  The variances are so small that the epsilon which is added to them shows in the logits.
  """
  rng, arrays = np.random.RandomState(0), {}
  for name, shape in shapes(network, stem, classes).items():
    if len(shape) > 1:
      spread = (2 / np.prod(shape[1:])) ** 0.5
      array = rng.uniform(-1, 1, shape) * 3**0.5 * spread
    elif name.endswith("running_var"):
      array = rng.uniform(0.001, 0.002, shape)
    elif name.endswith("weight"):
      array = rng.uniform(0.02, 0.05, shape)
    else:
      array = rng.uniform(-0.2, 0.2, shape)
    arrays[name] = array.astype(np.float32)
  return arrays


def draw_images(size):
  """Return images [IMAGES, size, size, 3] float32, of normalised values."""
  return np.random.RandomState(1).uniform(-2, 2, (IMAGES, size, size, 3)).astype(np.float32)


def main(path):
  """Write the logits of all cases; fail if timm's and torchvision's differ."""
  import timm
  import torch
  import torchvision
  from torch import nn

  expected = {"torch": torch.__version__, "torchvision": torchvision.__version__}
  expected["timm"] = timm.__version__
  for case, (network, stem, size, classes) in CASES.items():
    arrays = {name: torch.from_numpy(x) for name, x in draw_weights(network, stem, classes).items()}
    logits = []
    for create in (
      getattr(torchvision.models, network),
      lambda **options: timm.create_model(network, **options),  # noqa: B023 - called at once
    ):
      model = create(num_classes=classes)
      if stem == "cifar":
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
      names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
      assert sorted(names) == sorted(arrays)
      model.load_state_dict(arrays, strict=False)
      with torch.no_grad():
        images = torch.from_numpy(draw_images(size).transpose(0, 3, 1, 2).copy())
        logits.append(model.eval().double()(images.double()).numpy())
    np.testing.assert_array_equal(*logits)
    expected[case] = logits[0][:, :10].tolist()
    print(case, np.abs(logits[0]).mean())
  with open(path, "w", encoding="utf-8") as file:
    json.dump(expected, file, indent=1)
    file.write("\n")


if __name__ == "__main__":
  main(sys.argv[1])
