"""A trained network in one file: weights.safetensors, which needs no other file.

The arrays are named by path, such as params.stem_conv.kernel. The metadata are strings:

- config, dataset: the contents of config.json and dataset.json, as JSON;
- class_names, image_shape, mean, std: what images are classified as, and how they are prepared
  (pixels from 0 to 255 are divided by 255, mean is subtracted, and std divides the difference), as
  JSON;
- step, seed: the training step after which the weights were saved, and the run's seed;
- config_sha256: the SHA-256 of the text `config`;
- arrays_sha256: the SHA-256 of all arrays and their paths.
"""

import hashlib
import json
import os
from typing import NamedTuple

import numpy as np
from etils import epath
from flax import traverse_util

from cifar_jax import errors
from cifar_jax.runs import checkpoint_arrays
from cifar_jax.types import Row, Variables

NAME = "weights.safetensors"
_REMEDY = "restore the file, or download it again"


class WeightsFile(NamedTuple):
  """The content of the file.

  Attributes:
    config: the content of config.json.
    description: the content of dataset.json.
    seed: the seed that the weights belong to.
    step: the training step after which they were saved.
    variables: {'params': …, 'batch_stats': …}.
  """

  config: Row
  description: Row
  seed: int
  step: int
  variables: Variables


def find(folder: epath.Path) -> epath.Path | None:
  """Return the weights file of a run that was shared; None in a run folder with checkpoints."""
  file = folder / NAME
  return file if file.exists() and not (folder / "checkpoints").exists() else None


def serialize(content: WeightsFile) -> bytes:
  """Return the bytes of the file."""
  from safetensors.numpy import save

  arrays = {
    path: np.array(leaf, order="C")
    for path, leaf in traverse_util.flatten_dict(dict(content.variables), sep=".").items()
    if leaf is not None
  }
  metadata = {name: json.dumps(value) for name, value in describe(content).items()}
  metadata["config_sha256"] = hashlib.sha256(metadata["config"].encode()).hexdigest()
  metadata["arrays_sha256"] = checkpoint_arrays.digest(arrays)
  return save(arrays, metadata)


def describe(content: WeightsFile) -> Row:
  """Return all that another program needs to use the network, except the arrays."""
  mean, std = effective_moments(content.config, content.description)
  return {
    "class_names": content.description["class_names"],
    "image_shape": content.description["image_shape"],
    "mean": mean,
    "std": std,
    "step": content.step,
    "seed": content.seed,
    "dataset": content.description,
    "config": content.config,
  }


def effective_moments(config: Row, description: Row) -> tuple[list[float], list[float]]:
  """Return the mean and standard deviation by channel with which images / 255 are normalised."""
  if config["data"]["normalize"] == "standardize":
    return list(description["mean"]), list(description["std"])
  channels = description["image_shape"][-1]
  return [0.0] * channels, [1.0] * channels


def read(path: str | os.PathLike) -> WeightsFile:
  """Read the file, without executing anything in it.

  Raises:
    UserError: the file is missing or unreadable, holds no network of this program, or its content
      is not what was written.
  """
  metadata, arrays = read_arrays(path)
  if not {"config", "dataset", "step", "seed"} <= metadata.keys():
    raise errors.UserError(
      f"{path}: not a network of this program (its metadata lack the config or the dataset); name "
      f"a {NAME} that --mode=export or --mode=push wrote"
    )
  digests = {
    "config_sha256": hashlib.sha256(metadata["config"].encode()).hexdigest(),
    "arrays_sha256": checkpoint_arrays.digest(arrays),
  }
  for name, digest in digests.items():
    if metadata.get(name) != digest:
      raise errors.UserError(f"{path}: {name} does not match the content; {_REMEDY}")
  try:
    config, description = (json.loads(metadata[name]) for name in ("config", "dataset"))
    step, seed = int(metadata["step"]), int(metadata["seed"])
    if not isinstance(config, dict) or not isinstance(description, dict):
      raise ValueError
    variables = checkpoint_arrays.variables_of(arrays)
  except (ValueError, LookupError, TypeError, RecursionError):
    raise errors.UserError(f"{path}: the metadata are corrupt; {_REMEDY}") from None
  return WeightsFile(config, description, seed, step, variables)


def read_arrays(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, np.ndarray]]:
  """Return the metadata and the arrays of any safetensors file.

  Raises:
    UserError: the file is missing or unreadable.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import load

  try:
    content = epath.Path(path).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get("__metadata__", {})), load(content)
  except OSError as error:
    raise errors.UserError(
      f"{path}: cannot be read ({error.strerror or error}); fix this"
    ) from error
  except (SafetensorError, ValueError, LookupError, AttributeError, RecursionError) as error:
    reason = " ".join(str(error).split())[:200]
    raise errors.UserError(f"{path}: not a safetensors file ({reason}); {_REMEDY}") from error
