"""Does every reproduction learn? Train each for three epochs on a small part of its real data.

  python -m benchmarks.robustness.three_epochs [--photos=FOLDER] [--vgg16=FILE] [config ...]

trains the named configs, or all of configs/reproductions/, one after another with main.py. It
prints the mean training loss (the cross-entropy without penalties) of the first and the third epoch
of each. The exit code is 1 if a loss did not fall or a run failed. Configs whose data is
unavailable are skipped with the reason.

Network, loss, optimizer, schedule and augmentation are the config's. All configs get fewer examples
(`EXAMPLES` for training, `HELD_OUT` for validation and for testing), batches of at most `BATCH`,
and one stage if they train file by file. `CHANGES` has the changes of single configs, which the
table also shows.

--photos is a folder with the folders cat and dog. --vgg16 is VGG-16's ImageNet weights, as
config.model.pretrained takes them. Without it random weights are written in the layout of Keras'
file; a falling loss then shows that the dense layers learn.
"""

import argparse
import importlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import h5py
import ml_collections
import numpy as np
from etils import epath

from benchmarks import records
from cifar_jax import errors
from cifar_jax.data import cache, datasets, splits
from cifar_jax.types import Row
from models import vgg

NAMES = sorted(
  path.stem for path in (records.ROOT / "configs" / "reproductions").glob("report*.py")
)
EPOCHS = 3
EXAMPLES = 128
HELD_OUT = 20  # examples for validation, and as many for testing
BATCH = 16
LIMIT = 900  # seconds that a run may take

# With photos of 150 pixels, a run of VGG-16 takes many minutes on one core.
_SMALL_PHOTOS = {"data.options.size": 32}
# In few steps of small batches, the loss of report 002's networks falls only to chance, ln 10.
_MORE_STEPS = {"batch_size": 64, "data.epoch_examples": 5120}
CHANGES: dict[str, dict[str, Any]] = {
  **{name: _MORE_STEPS for name in NAMES if name.startswith("report002_")},
  "report002_l2_5e2": {},  # reaches chance, and stays there as its docstring expects
  "report001_vgg16_augmented": _SMALL_PHOTOS,
  "report001_vgg16_frozen": _SMALL_PHOTOS,
  "report001_vgg16_unfrozen": _SMALL_PHOTOS,
  # At the rates of the configs, from 1e-3, the loss still rises in so few steps.
  "report003_cifar10": {"optimizer.learning_rate": 1e-4},
  "report003_cifar10_corrected": {"optimizer.learning_rate": 1e-4},
  "report003_resnet20": {"optimizer.learning_rate": 1e-4},
  "report003_sparse": {"optimizer.learning_rate": 1e-4},
  "report003_super_convergence": {"optimizer.learning_rate": 4e-4},
}


def changes(name: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Return the fields that a run of a config changes, without the locations of its files."""
  fields: dict[str, Any] = {
    "num_epochs": EPOCHS,
    "batch_size": min(config.batch_size, BATCH),
    "eval_batch_size": HELD_OUT,
    "checkpoint_every": EPOCHS,
    "data.train_examples": EXAMPLES,
    "data.file_by_file": False,
  }
  if config.data.name == "cats_vs_dogs":
    fields["data.options.per_class"] = 110  # the config's fractions make 132, 44 and 44 examples
  elif config.data.validation != "test":
    fields["data.validation"] = HELD_OUT
  return fields | CHANGES.get(name, {})


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("configs", nargs="*", metavar="config", help="names (default: all)")
  parser.add_argument("--photos", help="folder with the folders cat and dog")
  parser.add_argument("--vgg16", help="VGG-16's ImageNet weights (default: random weights)")
  options = records.parse(parser)
  names = [pathlib.Path(config).stem for config in options.configs] or NAMES
  if unknown := sorted(set(names) - set(NAMES)):
    parser.error(f"{', '.join(unknown)}: unknown; use some of {', '.join(NAMES)}")
  configs = {name: _load_config(name) for name in NAMES}
  names = _with_prerequisites(names, configs)

  outcomes = []
  widths = {"config": 32, "outcome": 7, "s": 4}
  with tempfile.TemporaryDirectory(prefix="three_epochs_") as folder:
    runs = _Runs(pathlib.Path(folder), options.photos, options.vgg16)
    table = records.StreamedTable(
      ["config", "first", "last", "outcome", "s"], widths, left=["config", "outcome"]
    )
    for name in names:
      row = runs.run(name, configs[name])
      outcomes.append(row["outcome"])
      table.print({"config": name} | row)
      if not any(_prerequisite(configs[other]) == name for other in names):
        shutil.rmtree(runs.workdir(name), ignore_errors=True)
  counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
  print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
  return int(set(counts) - {"fell", "skipped"} != set() or "fell" not in counts)


def _load_config(name: str) -> ml_collections.ConfigDict:
  return importlib.import_module(f"configs.reproductions.{name}").get_config()


def _prerequisite(config: ml_collections.ConfigDict) -> str:
  """Return the name of the config whose weights this one starts from, or ''."""
  name = pathlib.Path(config.model.pretrained).name
  return name if name in NAMES else ""


def _with_prerequisites(
  names: list[str], configs: Mapping[str, ml_collections.ConfigDict]
) -> list[str]:
  """Return `names` without repetitions, each after its prerequisite."""
  ordered: list[str] = []
  for name in names:
    for required in (_prerequisite(configs[name]), name):
      if required and required not in ordered:
        ordered.append(required)
  return ordered


class _Runs:
  """Trains configs in folders below `folder`, with datasets that are prepared when needed."""

  def __init__(self, folder: pathlib.Path, photos: str | None, vgg16: str | None):
    self._folder, self._photos, self._vgg16 = folder, photos, vgg16

  def workdir(self, name: str) -> pathlib.Path:
    """Return the run folder of a config."""
    return self._folder / "runs" / name

  def run(self, name: str, config: ml_collections.ConfigDict) -> Row:
    """Train a config.

    Returns:
      The row of the table; its 'outcome' is 'fell', 'rose', 'failed' or 'skipped'.
    """
    try:
      locations = self._locations(config)
    except errors.UserError as error:
      return {"outcome": "skipped", "note": str(error)}
    fields = changes(name, config) | locations
    command = [sys.executable, "main.py", f"--config=configs/reproductions/{name}.py"]
    command += [f"--workdir={self.workdir(name)}"]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    start = time.monotonic()
    try:
      completed = subprocess.run(
        command, cwd=records.ROOT, capture_output=True, text=True, timeout=LIMIT
      )
    except subprocess.TimeoutExpired:
      return {"outcome": "failed", "note": f"took more than {LIMIT} s"}
    if completed.returncode:
      return {"outcome": "failed", "note": (completed.stderr.splitlines() or ["no output"])[-1]}
    rows = (self.workdir(name) / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["train_loss"] for row in rows]
    has_fallen = len(losses) == EPOCHS and losses[-1] < losses[0]
    return {
      "first": f"{losses[0]:.4f}",
      "last": f"{losses[-1]:.4f}",
      "outcome": "fell" if has_fallen else "rose",
      "s": round(time.monotonic() - start),
      "note": ", ".join(f"{field}={value}" for field, value in CHANGES.get(name, {}).items()),
    }

  def _locations(self, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the fields that locate a run's data and the weights that it starts from.

    Raises:
      UserError: the data is unavailable.
    """
    fields: dict[str, Any] = {"data.dir": self._folder / "data"}
    if config.data.name == "cats_vs_dogs":
      if not self._photos:
        raise errors.UserError("--photos: missing; name the folder of photos")
      fields["data.source"] = self._photos
    else:
      self._prepare_part(config.data.name)
    if required := _prerequisite(config):
      fields["model.pretrained"] = self.workdir(required)
    elif config.model.pretrained:
      fields["model.pretrained"] = self._vgg16 or self._random_vgg16()
    return fields

  def _prepare_part(self, name: str) -> None:
    """Write a few images of a dataset where main.py reads the dataset."""
    entry = datasets.REGISTRY[name]
    folder = epath.Path(self._folder / "data" / entry.folder / f"decoded-{entry.version}")
    if folder.exists():
      return
    dataset = datasets.load(name)
    rng = np.random.RandomState(0)
    images, labels = {}, {}
    sizes = {"train": EXAMPLES + HELD_OUT, "test": HELD_OUT}
    for split_name, size in sizes.items():
      split = getattr(dataset, split_name)
      chosen = splits.draw_stratified(split.labels, split.ids, size, rng)
      images[split_name] = split.images[chosen]
      labels[split_name] = {entry.label: split.labels[chosen]}
    folder.parent.mkdir(parents=True)
    cache.write(folder, cache.Decoded(images, labels, {entry.label: dataset.class_names}))

  def _random_vgg16(self) -> pathlib.Path:
    """Return a file like vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5, with random weights.

    The weights have He's normal distribution.
    """
    file = self._folder / "vgg16.h5"
    if file.exists():
      return file
    rng = np.random.RandomState(0)
    inputs = 3
    with h5py.File(file, "w") as out:
      stages = zip(vgg.VGG16_STAGES, vgg.VGGBase.widths, strict=True)
      for stage, (count, width) in enumerate(stages, start=1):
        for index in range(1, count + 1):
          layer = f"block{stage}_conv{index}"
          kernel = rng.normal(0, np.sqrt(2 / (9 * inputs)), (3, 3, inputs, width))
          out[f"{layer}/{layer}_W_1:0"] = np.float32(kernel)
          out[f"{layer}/{layer}_b_1:0"] = np.zeros(width, np.float32)
          inputs = width
    return file


if __name__ == "__main__":
  sys.exit(main())
