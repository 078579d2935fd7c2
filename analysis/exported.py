"""Networks loaded from exported files, used like a run: `--mode=predict --model=FILE`.

- network.onnx is run by onnxruntime (`pip install onnxruntime`).
- inference.jax_export is run by JAX; inference.json in the same folder describes it.
- weights.safetensors is loaded as a run (analysis/run.py).
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping

import ml_collections
import numpy as np
import scipy.special
from etils import epath

from analysis import export, run_record, shared_run
from analysis.run import BATCH_SIZE, Described, Run, is_valid_description, load_run
from cifar_jax import errors
from cifar_jax.runs import run_folder
from cifar_jax.types import Row


@dataclasses.dataclass(frozen=True)
class ExportedNetwork(Described):
  """A network from a file that --mode=export wrote, with the attributes of a `Run`."""

  path: epath.Path
  config: ml_collections.ConfigDict
  description: Row
  seed: int
  step: int
  apply: Callable[[np.ndarray], np.ndarray]
  batch_size: int

  @property
  def name(self) -> str:
    """The file's name."""
    return self.path.name

  def logits(self, images: np.ndarray) -> np.ndarray:
    """Return the logits [n, classes] float32 of uint8 images [n, height, width, channels]."""
    batches = [np.zeros((0, len(self.class_names)), np.float32)]
    for start in range(0, len(images), self.batch_size):
      batches.append(self.apply(images[start : start + self.batch_size]))
    return np.concatenate(batches)

  def predict(self, images: np.ndarray) -> np.ndarray:
    """Return probabilities [n, classes] float32 of uint8 images [n, height, width, channels]."""
    return scipy.special.softmax(self.logits(images), axis=1)


def load_network(source: str | os.PathLike, seed: int | None = None) -> Run | ExportedNetwork:
  """Load an exported file, or anything that `load_run` accepts.

  Raises:
    UserError: the file is missing or unreadable, or its runtime is not installed.
  """
  path = epath.Path(source)
  readers = {".onnx": _read_onnx, ".jax_export": _read_jax_export}
  if path.suffix not in readers:
    return load_run(source, seed)
  path = path.expanduser()
  if not path.exists():
    raise errors.UserError(f"--model: {path}: no such file; name one that --mode=export wrote")
  metadata, apply, batch_size = readers[path.suffix](path)
  with run_folder.reading(path):
    content: dict[str, Row] = {name: json.loads(metadata[name]) for name in ("config", "dataset")}
    config = shared_run.check_config(content["config"])
    if not is_valid_description(content["dataset"], config.data.normalize == "standardize"):
      raise ValueError("the description of the dataset is invalid")
    step, saved_seed = int(metadata["step"]), int(metadata["seed"])
  if seed not in (None, saved_seed):
    raise errors.UserError(
      f"seed: {path} has the weights of seed {saved_seed}, not {seed}; use that seed"
    )
  return ExportedNetwork(path, config, content["dataset"], saved_seed, step, apply, batch_size)


_Reader = tuple[Mapping[str, str], Callable[[np.ndarray], np.ndarray], int]


def _read_onnx(path: epath.Path) -> _Reader:
  try:
    import onnxruntime
  except ImportError:
    raise errors.UserError(
      f"--model: {path} needs onnxruntime; run `pip install onnxruntime`"
    ) from None
  try:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (image_input,) = session.get_inputs()
    size = image_input.shape[0]
  except Exception as error:  # onnxruntime has an exception type for each status code
    raise errors.UserError(
      f"--model: {path}: not a network that onnxruntime can run ({errors.first_line(error)}); "
      "export it again"
    ) from error

  def apply(images: np.ndarray) -> np.ndarray:
    return session.run(None, {image_input.name: images})[0]

  metadata = session.get_modelmeta().custom_metadata_map
  return metadata, apply, size if isinstance(size, int) else BATCH_SIZE


def _read_jax_export(path: epath.Path) -> _Reader:
  description = run_record.read_json_if_present(path.with_suffix(".json"))
  metadata = {name: json.dumps(value) for name, value in description.items()}
  try:
    return metadata, export.load_function(path), BATCH_SIZE
  except Exception as error:  # a damaged flatbuffer fails in many ways
    raise errors.UserError(
      f"--model: {path}: not a network that JAX can run ({errors.first_line(error)}); export "
      "it again"
    ) from error
