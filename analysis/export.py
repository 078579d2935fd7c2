"""Export a trained network as safetensors and with jax.export: `--mode=export`.

The mode writes to the folder export/ of the run:

- weights.safetensors: every array by its path, such as params.stem_conv.kernel, with config and
  classes, so that `load_run` needs no other file (cifar_jax/runs/weights_file.py).
- inference.jax_export: a function from uint8 images [n, height, width, channels] to logits
  [n, classes]. It includes weights, normalisation and evaluation transform, and computes in float32
  for any n, on CPU, CUDA or TPU. The format is that of `jax.export` (StableHLO and its calling
  convention); `jax.export.deserialize` loads it.
- inference.json: the function's classes, image shape, mean, std and config.
"""

import json
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from jax import export as jax_export

from analysis import shared_run
from analysis.files import explain_failure, write_atomically
from analysis.run import Run
from cifar_jax import errors
from cifar_jax.config import as_json
from cifar_jax.runs import weights_file

_PLATFORMS = ("cpu", "cuda", "tpu")
_TOLERANCE = 1e-4  # for differences of logits, relative to the largest logit


def export(run: Run) -> list[epath.Path]:
  """Write the files, then load the function and compare its logits with the run's.

  Returns:
    The paths of the files.

  Raises:
    UserError: a file cannot be written, or the logits of the loaded function differ.
  """
  run, folder = run.in_float32(), run.path / "export"
  weights, function = folder / weights_file.NAME, folder / "inference.jax_export"
  description = function.with_suffix(".json")
  with explain_failure(f"{folder}:", "fix this, then export again"):
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(weights, serialize_weights(run))
    write_atomically(function, _serialize_function(run))
    text = json.dumps(weights_file.describe(content_of(run)), indent=2)
    write_atomically(description, f"{text}\n".encode())

  pixels = np.random.RandomState(0).randint(0, 256, (3, *run.image_shape), dtype=np.uint8)
  expected = run.logits(pixels)
  logits = load_function(function)(pixels)
  difference = np.abs(logits - expected).max() / max(1.0, np.abs(expected).max())
  if not difference <= _TOLERANCE:
    raise errors.UserError(
      f"{function}: the logits of the loaded function differ by {difference:.2g} from the run's; "
      "do not use the file, and report this"
    )
  return [weights, function, description]


def load_function(path: epath.PathLike) -> Callable[[np.ndarray], np.ndarray]:
  """Load an exported function: uint8 images [n, height, width, channels] to logits [n, classes].

  Raises:
    OSError: the file cannot be read.
  """
  exported = jax_export.deserialize(bytearray(epath.Path(path).read_bytes()))
  call = jax.jit(exported.call)
  return lambda images: np.asarray(call(images))


def serialize_weights(run: Run) -> bytes:
  """Return the content of a run's weights.safetensors."""
  return weights_file.serialize(content_of(run))


def content_of(run: Run) -> weights_file.WeightsFile:
  config = shared_run.portable_config(as_json(run.config))
  return weights_file.WeightsFile(config, run.description, run.seed, run.step, run.variables)


def _serialize_function(run: Run) -> bytes:
  def infer(images: jax.Array) -> jax.Array:
    return run.apply(run.variables, images)

  (batch,) = jax_export.symbolic_shape("n")
  images = jax.ShapeDtypeStruct((batch, *run.image_shape), np.uint8)
  exported = jax_export.export(jax.jit(infer), platforms=_PLATFORMS)(images)
  return bytes(exported.serialize())
