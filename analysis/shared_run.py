"""A shared run: a weights file, alone or in a folder, on disk or on the Hugging Face hub.

Its files come from elsewhere and are read only as data. The config must pass the same checks as a
new run's, the registry of models then builds the network from it, and no shared code is executed.
"""

import json
import os
from typing import NamedTuple

import ml_collections
from etils import epath

from analysis import run_record
from cifar_jax import config as config_module
from cifar_jax import errors
from cifar_jax.runs import hub, weights_file
from cifar_jax.types import Row
from configs import default


class SharedRun(NamedTuple):
  """The folder of the weights file, and the file's content."""

  folder: epath.Path
  content: weights_file.WeightsFile


def open_shared(path: str | os.PathLike) -> SharedRun | None:
  """Return the content of a shared run; None if `path` is anything else, such as a run folder.

  Raises:
    UserError: the repository is unavailable, a file cannot be read, or the files contradict each
      other.
  """
  if hub.is_address(path):
    return _open_folder(hub.download(str(path)), str(path))
  location = epath.Path(path).expanduser()
  if location.suffix == ".safetensors":
    return SharedRun(location.parent, weights_file.read(location))
  return _open_folder(location, str(path)) if weights_file.find(location) else None


def _open_folder(folder: epath.Path, source: str) -> SharedRun:
  file = folder / weights_file.NAME
  if not file.exists():
    raise errors.UserError(
      f"{source}: holds no {weights_file.NAME} of a run; --mode=push writes it (for weights of "
      "other programs set config.model.pretrained)"
    )
  content = weights_file.read(file)
  beside = {"config.json": content.config, "dataset.json": content.description}
  for name, expected in beside.items():
    if run_record.read_json_if_present(folder / name) not in ({}, expected):
      raise errors.UserError(
        f"{source}: {name} is not the one that the weights were saved with; download the files "
        "again"
      )
  return SharedRun(folder, content)


def check_config(saved: Row) -> ml_collections.ConfigDict:
  """Return the config of a shared run; raise UserError unless this program could train it.

  The other machine's paths to its data are dropped.
  """
  defaults = default.get_config()
  config = config_module.from_json(saved, defaults)
  config_module.check_config(config, defaults)
  config.data.dir = config.data.source = ""
  return config


def portable_config(saved: Row) -> Row:
  """Return a config for others: without this machine's paths and the history of the run."""
  config = json.loads(json.dumps(saved))
  config["data"] |= {"dir": "", "source": ""}
  pretrained = config["model"].get("pretrained")
  if pretrained and not hub.is_address(pretrained):
    config["model"]["pretrained"] = os.path.basename(os.path.normpath(pretrained))
  return config
