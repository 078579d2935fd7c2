"""Small runs for tests: the digits data set and a network that compiles in seconds."""

import os
import pathlib
import subprocess
import sys

import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from configs import default

ROOT = pathlib.Path(__file__).parent.parent
# What the tests of the training program share: 1,293 digits to train on, 16 steps an epoch.
FIELDS = {
  "data.name": "digits",
  "data.normalize": "unit",
  "data.validation": 144,
  "model.name": "simple_cnn",
  "model.widths": (4, 4, 8),
  "model.dense": (16,),
  "num_epochs": 2,
  "batch_size": 80,
  "eval_batch_size": 120,
  "augment": "random_crop(padding=2) | alternating_flip()",
  "optimizer.name": "sgd",
  "optimizer.learning_rate": 0.05,
  "optimizer.momentum": 0.9,
  "loss.label_smoothing": 0.1,
  "loss.l2": (("kernel$", 1e-4),),
  "lookahead.every": 5,
  "tta": "flip",
}


def config(data_dir: pathlib.Path, **fields: object) -> ml_collections.ConfigDict:
  """The config of a small run; `fields` are given as model__widths=(8, 8)."""
  made = default.get_config()
  changes = FIELDS | {"data.dir": str(data_dir)}
  changes |= {name.replace("__", "."): value for name, value in fields.items()}
  for name, value in changes.items():
    *parents, leaf = name.split(".")
    section = made
    for parent in parents:
      section = section[parent]
    section[leaf] = value
  return made


def command(data_dir: pathlib.Path, workdir: pathlib.Path, **fields: object) -> list[str]:
  """The same run as a command line."""
  changes = FIELDS | {"data.dir": str(data_dir)}
  changes |= {name.replace("__", "."): value for name, value in fields.items()}
  overrides = [f"--config.{name}={value}" for name, value in changes.items()]
  main = str(ROOT / "main.py")
  config_file = f"--config={ROOT / 'configs' / 'default.py'}"
  return [sys.executable, main, config_file, *overrides, f"--workdir={workdir}"]


def environment(devices: int = 1) -> dict[str, str]:
  """Variables for a process of its own with so many CPU devices."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def run(
  arguments: list[str], devices: int = 1, cwd: pathlib.Path = ROOT
) -> subprocess.CompletedProcess:
  """Runs a command line to its end and returns its output."""
  return subprocess.run(
    arguments, env=environment(devices), capture_output=True, text=True, timeout=300, cwd=cwd
  )


def run_together(
  arguments: list[str], processes: int = 2, devices: int = 4
) -> subprocess.CompletedProcess:
  """Likewise as several processes, each with so many CPU devices."""
  launcher = [sys.executable, str(ROOT / "launch" / "local.py")]
  counts = [f"--processes={processes}", f"--devices={devices}"]
  return run([*launcher, *counts, "--", *arguments])


def final_state(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array of the newest checkpoint by path, but for the clock."""
  found = checkpoint(workdir / "checkpoints" / "latest")
  del found["seconds"]
  return found


def checkpoint(directory: pathlib.Path) -> dict[str, np.ndarray]:
  """The newest checkpoint in a directory, read without knowing its structure."""
  newest = max(path for path in directory.iterdir() if path.name.isdigit())
  with ocp.StandardCheckpointer() as checkpointer:
    return {
      path: np.asarray(leaf) for path, leaf in checkpointer.restore(newest / "default").items()
    }


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
  """Bit for bit."""
  assert a.keys() == b.keys()
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name], err_msg=name)
