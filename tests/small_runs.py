"""Small runs for tests: the digits dataset and a network that compiles in seconds."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cifar_jax.runtime import startup
from configs import default

ROOT = pathlib.Path(__file__).parent.parent
# The run that end-to-end tests share: 1,293 digits to train on, 16 steps per epoch.
FIELDS = {
  "data.name": "digits",
  "data.normalize": "unit",
  "data.validation": 144,
  "dtype": "float32",  # the same numbers on every machine
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
  "tta": "",
}


def config(data_dir: pathlib.Path, **fields: object) -> ml_collections.ConfigDict:
  """Return the config of a small run; `fields` are given as model__widths=(8, 8)."""
  small_config = default.get_config()
  for name, value in _merge_fields(data_dir, fields).items():
    *parents, leaf = name.split(".")
    section = small_config
    for parent in parents:
      section = section[parent]
    section[leaf] = value
  return small_config


def command(data_dir: pathlib.Path, workdir: pathlib.Path | str, **fields: object) -> list[str]:
  """Return the command line of the same run."""
  changes = _merge_fields(data_dir, fields)
  overrides = [f"--config.{name}={value}" for name, value in changes.items()]
  main = str(ROOT / "main.py")
  config_file = f"--config={ROOT / 'configs' / 'default.py'}"
  return [sys.executable, main, config_file, *overrides, f"--workdir={workdir}"]


def _merge_fields(data_dir: pathlib.Path, fields: dict[str, object]) -> dict[str, object]:
  changes = {name.replace("__", "."): value for name, value in fields.items()}
  return FIELDS | {"data.dir": str(data_dir)} | changes


def environment(devices: int = 1) -> dict[str, str]:
  """Return the variables for a process with this number of CPU devices."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def run(
  arguments: list[str], devices: int = 1, cwd: pathlib.Path = ROOT
) -> subprocess.CompletedProcess[str]:
  """Run a command line to its end and return its output; main.py need not restart."""
  return subprocess.run(
    arguments,
    env=startup.cpu_environment(environment(devices)),
    capture_output=True,
    text=True,
    timeout=300,
    cwd=cwd,
  )


def run_together(
  arguments: list[str], processes: int = 2, devices: int = 4
) -> subprocess.CompletedProcess[str]:
  """Run a command line as several processes, each with this number of CPU devices."""
  launcher = [sys.executable, str(ROOT / "launch" / "local.py")]
  counts = [f"--processes={processes}", f"--devices={devices}"]
  return run([*launcher, *counts, "--", *arguments])


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
  """Compile with fewer optimizations, here and in processes started meanwhile.

  For programs that cost more to compile than to run. Not for tests that compare the bits of
  different programs: optimizations may be what tells them apart.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
      yield
    finally:
      jax.config.update("jax_disable_most_optimizations", False)


def final_state(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Return every array of the newest checkpoint by path, except the seconds of training."""
  arrays = checkpoint(workdir / "checkpoints" / "latest")
  del arrays["seconds"]
  return arrays


def checkpoint(directory: pathlib.Path) -> dict[str, np.ndarray]:
  """Return the arrays of the newest checkpoint in a directory, by path."""
  newest = max(path for path in directory.iterdir() if path.name.isdigit())
  with ocp.StandardCheckpointer() as checkpointer:
    return {
      path: np.asarray(leaf) for path, leaf in checkpointer.restore(newest / "default").items()
    }


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
  """Assert that the arrays are equal, bit for bit."""
  assert a.keys() == b.keys()
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name], err_msg=name)


def comparable(workdir: pathlib.Path) -> tuple[list[dict], dict]:
  """Return the rows of metrics.jsonl and the figures of results.json, without times.

  Also without the count of uses of the test images, which a killed run may have repeated.
  """
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  for row in rows:
    del row["seconds"], row["images_per_second"]
  summary = json.loads((workdir / "results.json").read_text())
  del summary["test_uses"]
  return rows, {k: v for k, v in summary.items() if k.startswith(("test_", "val_", "best_"))}
