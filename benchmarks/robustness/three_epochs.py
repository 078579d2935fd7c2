"""Whether every reproduction learns: three epochs of each, on a small part of its real data.

  python -m benchmarks.three_epochs [--photos=FOLDER] [--vgg16=FILE] [config ...]

trains the configs named, or all of configs/reproductions/, one after another with main.py, and
prints for each the mean training loss (the cross-entropy, without penalties) of the first and of
the third epoch. It ends with exit code 1 if a loss did not fall or a run stopped with an error.
Data that cannot be had are told of, and the configs on them skipped.

Network, loss, optimiser, schedule and augmentation are the config's. What is changed for all: the
examples (`EXAMPLES` for training, `HELD_OUT` for validation and for testing), batches of at most
`BATCH`, and one stage where a config goes file by file. Whatever else is changed for one config
stands in `CHANGES` and in its line of the table.

--photos: a folder with the folders cat and dog. --vgg16: VGG-16's ImageNet weights, as
config.model.pretrained takes them; without it random ones are written in the layout of Keras' file,
so that a fall of the loss says that the dense layers learn, and nothing of ImageNet.
"""

import argparse
import importlib
import json
import pathlib
import shutil
import signal
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

from cifar_jax import errors
from cifar_jax.data import cache, datasets, splits
from models import vgg

ROOT = pathlib.Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs" / "reproductions").glob("report*.py"))
EPOCHS = 3
EXAMPLES = 128
HELD_OUT = 20  # for validation, and as many for testing
BATCH = 16
LONGEST = 900  # seconds that a run may take

# With photos of 150 pixels a run of VGG-16 takes many minutes on one core.
_SMALL_PHOTOS = {"data.options.size": 32}
# In few steps of small batches report 002's networks come down to chance, ln 10, and no further.
_MORE_STEPS = {"batch_size": 64, "data.epoch_examples": 5120}
CHANGES: dict[str, dict[str, Any]] = {
  **{name: _MORE_STEPS for name in NAMES if name.startswith("report002_")},
  "report002_l2_5e2": {},  # has come to chance before, and stays there as its docstring expects
  "report001_vgg16_augmented": _SMALL_PHOTOS,
  "report001_vgg16_frozen": _SMALL_PHOTOS,
  "report001_vgg16_unfrozen": _SMALL_PHOTOS,
  # At their own rates, from 1e-3, the loss still rises in so few steps.
  "report003_cifar10": {"optimizer.learning_rate": 1e-4},
  "report003_resnet20": {"optimizer.learning_rate": 1e-4},
  "report003_sparse": {"optimizer.learning_rate": 1e-4},
  "report003_super_convergence": {"optimizer.learning_rate": 4e-4},
}


def changes(name: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The fields that a run of the config changes, but for those that say where things are."""
  found: dict[str, Any] = {
    "num_epochs": EPOCHS,
    "batch_size": min(config.batch_size, BATCH),
    "eval_batch_size": HELD_OUT,
    "checkpoint_every": EPOCHS,
    "data.train_examples": EXAMPLES,
    "data.file_by_file": False,
  }
  if config.data.name == "cats_vs_dogs":
    found["data.options.per_class"] = 100  # with the config's fractions 160, 20 and 20
  elif config.data.validation != "test":
    found["data.validation"] = HELD_OUT
  return found | CHANGES.get(name, {})


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("configs", nargs="*", metavar="config", help="names; all if there are none")
  parser.add_argument("--photos", help="folder with the folders cat and dog")
  parser.add_argument("--vgg16", help="VGG-16's ImageNet weights; random ones without it")
  arguments = parser.parse_args()
  names = [pathlib.Path(config).stem for config in arguments.configs] or NAMES
  if unknown := sorted(set(names) - set(NAMES)):
    parser.error(f"{', '.join(unknown)}: no such config; there are {', '.join(NAMES)}")
  configs = {name: _config(name) for name in NAMES}
  names = _with_first_runs(names, configs)

  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that run and folder go with it
  outcomes = []
  with tempfile.TemporaryDirectory(prefix="three_epochs_") as folder:
    runs = _Runs(pathlib.Path(folder), arguments.photos, arguments.vgg16)
    print(f"{'config':<32} {'first':>8} {'last':>8}  {'outcome':<8} {'s':>4}  changed", flush=True)
    for name in names:
      outcome, line = runs.run(name, configs[name])
      outcomes.append(outcome)
      print(f"{name:<32} {line}", flush=True)
      if not any(_starts_from(configs[other]) == name for other in names):
        shutil.rmtree(runs.workdir(name), ignore_errors=True)
  counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
  print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
  return int(set(counts) - {"fell", "skipped"} != set() or "fell" not in counts)


def _config(name: str) -> ml_collections.ConfigDict:
  return importlib.import_module(f"configs.reproductions.{name}").get_config()


def _starts_from(config: ml_collections.ConfigDict) -> str:
  """The config whose run this one starts from, '' if none."""
  name = pathlib.Path(config.model.pretrained).name
  return name if name in NAMES else ""


def _with_first_runs(names: list[str], configs: Mapping[str, Any]) -> list[str]:
  """`names`, each once and after the one that it starts from."""
  ordered: list[str] = []
  for name in names:
    for one in (_starts_from(configs[name]), name):
      if one and one not in ordered:
        ordered.append(one)
  return ordered


class _Runs:
  """Runs in folders below `folder`, on data that are prepared there when first wanted."""

  def __init__(self, folder: pathlib.Path, photos: str | None, vgg16: str | None):
    self._folder, self._photos, self._vgg16 = folder, photos, vgg16

  def workdir(self, name: str) -> pathlib.Path:
    return self._folder / "runs" / name

  def run(self, name: str, config: ml_collections.ConfigDict) -> tuple[str, str]:
    """Trains; returns 'fell', 'rose', 'failed' or 'skipped', and the rest of the table's line."""
    try:
      places = self._places(config)
    except errors.UserError as error:
      return "skipped", f"{'':8} {'':8}  skipped: {error}"
    fields = changes(name, config) | places
    command = [sys.executable, "main.py", f"--config=configs/reproductions/{name}.py"]
    command += [f"--workdir={self.workdir(name)}"]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    start = time.monotonic()
    try:
      done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
      return "failed", f"{'':8} {'':8}  failed: took more than {LONGEST} s"
    seconds = time.monotonic() - start
    if done.returncode:
      return "failed", f"{'':8} {'':8}  failed: {(done.stderr.splitlines() or ['?'])[-1]}"
    rows = (self.workdir(name) / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["train_loss"] for row in rows]
    outcome = "fell" if len(losses) == EPOCHS and losses[-1] < losses[0] else "rose"
    note = ", ".join(f"{field}={value}" for field, value in CHANGES.get(name, {}).items())
    return outcome, f"{losses[0]:8.4f} {losses[-1]:8.4f}  {outcome:<8} {seconds:4.0f}  {note}"

  def _places(self, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Where the run finds its data and the weights that it starts from.

    Raises:
      UserError: the data cannot be had.
    """
    found: dict[str, Any] = {"data.dir": self._folder / "data"}
    if config.data.name == "cats_vs_dogs":
      if not self._photos:
        raise errors.UserError("no photos; name their folder with --photos")
      found["data.source"] = self._photos
    else:
      self._prepare_part(config.data.name)
    if first := _starts_from(config):
      found["model.pretrained"] = self.workdir(first)
    elif config.model.pretrained:
      found["model.pretrained"] = self._vgg16 or self._random_vgg16()
    return found

  def _prepare_part(self, name: str) -> None:
    """Makes a data set of this name out of a few images of it, as main.py reads them."""
    entry = datasets.REGISTRY[name]
    folder = epath.Path(self._folder / "data" / entry.folder / f"decoded-{entry.version}")
    if folder.exists():
      return
    whole = datasets.load(name)
    rng = np.random.RandomState(0)
    images, labels = {}, {}
    sizes = {"train": EXAMPLES + HELD_OUT, "test": HELD_OUT}
    for split, size in sizes.items():
      of = getattr(whole, split)
      chosen = splits.draw_stratified(of.labels, of.ids, size, rng)
      images[split], labels[split] = of.images[chosen], {entry.label: of.labels[chosen]}
    folder.parent.mkdir(parents=True)
    cache.write(folder, cache.Decoded(images, labels, {entry.label: whole.class_names}))

  def _random_vgg16(self) -> pathlib.Path:
    """A file like vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5, with He's normal weights."""
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
