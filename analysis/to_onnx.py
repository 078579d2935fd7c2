"""Convert a network to ONNX: `python -m analysis.to_onnx FOLDER`, in the environment .venv-export.

jax2onnx needs an older Orbax than training does, so `make export-env` makes an environment for it.
analysis/onnx_export.py writes FOLDER/weights.safetensors, and FOLDER/expected.npz with images and
the logits of the run. This program writes FOLDER/network.onnx and FOLDER/outcome.json. The latter
has 'batch' ('any', or a number) and 'difference', the greatest difference of logits relative to the
largest logit; or 'reason', if the network cannot be converted. Packages that only this environment
has are imported when they are used, so that the documentation can import this module.
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import safe_open

import models
from cifar_jax import errors
from cifar_jax.augment import transforms
from cifar_jax.kernels import convolution
from models import convolution as model_convolution
from models import resnet

_INPUT, _OUTPUT = "images", "logits"
_TOLERANCE = 1e-4  # for differences of logits, relative to the largest logit


def main(folder: pathlib.Path) -> None:
  """Convert for any batch size; if that fails, for single images."""
  # jax2onnx cannot convert the C++ kernels, pooling with numbers as padding, and a division whose
  # only purpose is to keep XLA from fusing operations.
  setattr(convolution, "instruction_set", lambda dtype: None)  # noqa: B010
  setattr(model_convolution, "_compute_once", lambda x, one: x)  # noqa: B010
  setattr(resnet, "max_pool", max_pool)  # noqa: B010
  infer, metadata, shape = load(folder / "weights.safetensors")
  with np.load(folder / "expected.npz", allow_pickle=False) as file:
    images, expected = file["images"], file["logits"]
  outcome: dict[str, Any] = {}
  for batch in ("any", 1):
    try:
      network = convert(infer, batch, shape, metadata)
      difference = compare(network, images, expected, 1 if batch == 1 else len(images))
      if not difference <= _TOLERANCE:
        raise ValueError(f"its logits differ by {difference:.2g}")
    except Exception as error:  # the converter and the runtime raise almost anything
      outcome = {"reason": f"{type(error).__name__}: {errors.first_line(error)}"}
      continue
    (folder / "network.onnx").write_bytes(network)
    outcome = {"batch": batch, "difference": difference}
    break
  (folder / "outcome.json").write_text(json.dumps(outcome))


def max_pool(
  x: jax.Array,
  window: tuple[int, int],
  strides: tuple[int, int],
  padding: tuple[tuple[int, int], tuple[int, int]],
) -> jax.Array:
  """Compute flax.linen.max_pool, with the padding as a separate operator."""
  padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
  return nn.max_pool(padded, window_shape=window, strides=strides)


def load(file: pathlib.Path) -> tuple[Callable[[jax.Array], jax.Array], dict[str, str], list[int]]:
  """Return the network as a function of uint8 images, the metadata, and the images' shape."""
  with safe_open(file, framework="numpy") as weights:
    metadata = weights.metadata()
    flat = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
  variables = traverse_util.unflatten_dict(flat, sep=".")
  config = json.loads(metadata["config"])
  mean, std = (tuple(json.loads(metadata[name])) for name in ("mean", "std"))
  num_classes = len(json.loads(metadata["class_names"]))
  model = models.create(config["model"], num_classes, dtype=jnp.float32)

  def infer(images: jax.Array) -> jax.Array:
    inputs = transforms.normalize(images, mean, std)
    return jnp.asarray(model.apply(variables, inputs, train=False))

  return infer, metadata, json.loads(metadata["image_shape"])


def convert(
  infer: Callable[[jax.Array], jax.Array],
  batch: str | int,
  shape: list[int],
  metadata: dict[str, str],
) -> bytes:
  """Return the ONNX file of a network, with the metadata."""
  import onnx
  from jax2onnx import to_onnx

  size = jax.export.symbolic_shape("n")[0] if batch == "any" else batch
  images = jax.ShapeDtypeStruct((size, *shape), np.uint8)
  network = to_onnx(infer, [images], input_names=[_INPUT], output_names=[_OUTPUT])
  onnx.helper.set_model_props(network, metadata)
  onnx.checker.check_model(network)
  return network.SerializeToString()


def compare(network: bytes, images: np.ndarray, expected: np.ndarray, size: int) -> float:
  """Return the greatest difference of the logits, relative to the largest logit.

  Args:
    size: the number of images per call; if it exceeds 1, a single image is also tried.
  """
  import onnxruntime

  session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
  batches = [images[start : start + size] for start in range(0, len(images), size)]
  logits = np.concatenate([session.run([_OUTPUT], {_INPUT: batch})[0] for batch in batches])
  if size > 1:
    single = session.run([_OUTPUT], {_INPUT: images[:1]})[0]
    logits, expected = np.concatenate([logits, single]), np.concatenate([expected, expected[:1]])
  return float(np.abs(logits - expected).max() / max(1.0, np.abs(expected).max()))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
