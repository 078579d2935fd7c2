"""A trained network for use elsewhere: its weights as safetensors, and its function as StableHLO.

<run>/export/weights.safetensors   every array by its path, such as params.stem_conv.kernel, with
                                   the config and the names of the classes as metadata
<run>/export/inference.stablehlo   uint8 images [n, height, width, channels] to logits
                                   [n, classes], weights and normalisation within, for any n, on
                                   CPU, CUDA or TPU; for `jax.export.deserialize`
"""

import json
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from flax import traverse_util
from jax import export as jax_export

from analysis.run import Run
from cifar_jax import errors

_PLATFORMS = ("cpu", "cuda", "tpu")
_TOLERANCE = 1e-4


def export(run: Run) -> list[epath.Path]:
  """Writes both files, loads them again and compares with the run's own logits.

  Returns:
    The files' paths.

  Raises:
    UserError: they cannot be written, or what was loaded again gives other logits.
  """
  folder = run.path / "export"
  weights, function = folder / "weights.safetensors", folder / "inference.stablehlo"
  try:
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(run, weights)
    _replace(function, _serialized(run))
  except OSError as error:
    raise errors.UserError(f"{folder}: cannot be written ({error.strerror or error})") from error

  images = np.random.RandomState(0).randint(0, 256, (3, *run.image_shape), np.uint8)
  expected = run.logits(images)
  found = load_function(function)(images)
  difference = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
  if not difference <= _TOLERANCE:
    raise errors.UserError(
      f"{function}: loaded again, its logits differ by {difference:.2g} from the run's; do not use "
      "it, and report this"
    )
  return [weights, function]


def load_function(path: epath.PathLike) -> Callable[[np.ndarray], np.ndarray]:
  """The exported function: uint8 images [n, height, width, channels] to logits [n, classes]."""
  exported = jax_export.deserialize(bytearray(epath.Path(path).read_bytes()))
  call = jax.jit(exported.call)
  return lambda images: np.asarray(call(images))


def _write_weights(run: Run, path: epath.Path) -> None:
  from safetensors.numpy import save

  leaves = traverse_util.flatten_dict(run.variables, sep=".")
  tensors = {name: np.ascontiguousarray(leaf) for name, leaf in leaves.items() if leaf is not None}
  metadata = {
    "config": json.dumps(run.config.to_dict()),
    "class_names": json.dumps(run.class_names),
    "step": str(run.step),
    "seed": str(run.seed),
  }
  _replace(path, save(tensors, metadata))


def _serialized(run: Run) -> bytes:
  def infer(images: jax.Array) -> jax.Array:
    return run.model.apply(run.variables, run.normalize(images), train=False)

  (batch,) = jax_export.symbolic_shape("n")
  images = jax.ShapeDtypeStruct((batch, *run.image_shape), np.uint8)
  return jax_export.export(jax.jit(infer), platforms=_PLATFORMS)(images).serialize()


def _replace(path: epath.Path, content: bytes) -> None:
  temporary = path.with_name(f".{path.name}.tmp")
  temporary.write_bytes(bytes(content))
  temporary.replace(path)
