"""Targets of fuzz.py that hold runs: run folders, checkpoints, pretrained weights."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np

from analysis import images as analysis_images
from analysis.report import comparison, page, report
from analysis.run import load_run
from benchmarks.robustness.fuzz_damage import Target, damaged_files, damaged_json, replaced
from cifar_jax.runs import checkpoints, run_folder
from cifar_jax.types import Row
from configs import default
from models import pretrained
from trust import compare

_RUN_FILES = ("config.json", "dataset.json", "metrics.jsonl", "results.json")
_CLASSES = ("cat", "dog", "cow")


# --- Run folders ---------------------------------------------------------------------------------


def run_targets(folder: pathlib.Path) -> list[Target]:
  """Return the targets for a run folder of four epochs and two seeds, with an evaluation."""
  config = _write_run(folder)
  _write_evaluation(folder / "evaluation")
  run_files = {name: (folder / name).read_bytes() for name in _RUN_FILES}
  evaluation_files = {
    f"evaluation/{path.name}": path.read_bytes() for path in (folder / "evaluation").iterdir()
  }

  def resume() -> None:
    saved_run = run_folder.RunFolder(folder)
    saved_run.raise_if_other_config(config, default.get_config())
    saved_run.results()
    assert [row["epoch"] for row in saved_run.metrics_until(4, 4)] == [1, 2, 3, 4]

  def write_reports() -> None:
    with charts_without_pixels():
      report.write_report(folder)
      comparison.write_comparison([folder, folder], folder / "comparison.html")

  def load() -> None:
    run = load_run(folder, None)
    run.results, run.metrics  # noqa: B018
    analysis_images.choose_decoding(run)
    run.normalize(np.zeros((1, *run.image_shape), np.uint8))

  other = folder.with_name("other")
  shutil.copytree(folder, other)

  def compare_sides() -> None:
    with charts_without_pixels():
      compare.compare([str(folder), str(other)], output=folder / "compare.html")

  def target(purpose: str, files: dict[str, bytes], read: Callable[[], None]) -> Target:
    def read_file(file: tuple[str, bytes]) -> None:
      name, content = file
      with replaced(folder / name, content):
        read()

    return Target(
      f"run folder, to {purpose}", damaged_json(files), list(run_files.items()), read_file
    )

  return [
    target("resume", run_files, resume),
    target("report", run_files | evaluation_files, write_reports),
    target("load", run_files, load),
    target("compare", run_files, compare_sides),
  ]


@contextlib.contextmanager
def charts_without_pixels() -> Iterator[None]:
  """Draw the charts of reports without rendering them."""

  def draw_only(
    title: str, alt: str, draw: Callable[[Any], None], size: tuple[float, float] = (1, 1)
  ) -> page.Html:
    from matplotlib.figure import Figure

    draw(Figure().subplots())
    return page.Html("")

  page.chart, original = draw_only, page.chart
  try:
    yield
  finally:
    page.chart = original


def _write_run(folder: pathlib.Path) -> ml_collections.ConfigDict:
  """Write the files of a run with a checkpoint; return its config."""
  config = default.get_config()
  config.model.name, config.dtype, config.num_seeds, config.num_epochs = "lenet2", "float32", 2, 4
  config.select.monitor = "val_accuracy"
  run = run_folder.RunFolder(folder)
  run.write_config(config)
  dataset = _dataset_description()
  run.write_dataset(dataset)
  run.write_metrics([_metrics_row(epoch) for epoch in range(1, 5)])
  run.write_results(_results(dataset))
  store = checkpoints.Checkpoints(folder)
  store.save_best([2], {"params": {"w": np.ones((2, 3), np.float32)}})
  store.close()
  return config


def _dataset_description() -> Row:
  """Return the content of dataset.json."""
  return {
    "name": "cifar10",
    "requested": "cifar10",
    "fingerprint": "f" * 64,
    "class_names": list(_CLASSES),
    "image_shape": [32, 32, 3],
    "train_examples": 900,
    "validation_examples": 100,
    "test_examples": 200,
    "mean": [0.5] * 3,
    "std": [0.2] * 3,
  }


def _metrics_row(epoch: int) -> Row:
  """Return a row of metrics.jsonl."""
  metrics = {"train_loss": 1.5, "train_accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.4}
  metrics |= {"learning_rate": 0.1}
  return {
    "step": epoch,
    "epoch": epoch,
    **metrics,
    "seeds": [{"seed": seed} | metrics for seed in range(2)],
    "images_per_second": 9.0,
    "seconds": 4.0,
  }


def _results(dataset: Row) -> Row:
  """Return the content of results.json."""
  metrics = {f"{split}_{name}": 0.4 for split in ("test", "val") for name in ("loss", "accuracy")}
  return {
    **metrics,
    **{f"{name}_standard_error": 0.1 for name in metrics},
    "per_seed": [{"seed": seed, "best_epoch": 2} | metrics for seed in range(2)],
    "selected_on": "validation",
    "seeds": [0, 1],
    "epochs_run": 4,
    "model": "lenet2",
    "parameters": {"trainable": 5, "non_trainable": 0, "total": 5},
    "data": dataset,
    "device": {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1, "cpu_cores": 2},
    "versions": {"jax": "0.10.2"},
    "git_commit": "abc",
    "seconds_to_train": 36.0,
    "compile_seconds": 7.5,
    "finished": "2026-01-02T03:04:05+00:00",
  }


def _write_evaluation(folder: pathlib.Path) -> None:
  """Write the files of --mode=evaluate."""
  split = {"examples": 200, "loss": 0.7, "accuracy": 0.6, "top5": 1.0}
  bins = [{"low": 0.0, "high": 1.0, "count": 200, "confidence": 0.8, "accuracy": 0.6}]
  evaluation = {
    "seed": 0,
    "step": 4,
    "splits": {"train": split, "test": split},
    "calibration": {"ece": 0.07, "confidence": 0.8, "bins": bins},
    "test_time_augmentation": None,
    "mistakes": [{"test_image": 17, "true": "dog", "predicted": "cat", "probability": 0.98}],
    "recorded": {"test_accuracy": {"value": 0.6, "difference": 0.0}},
    "evaluated": "2026-01-03T00:00:00+00:00",
  }
  counts = [[9, 1, 0], [1, 9, 1], [0, 2, 9]]
  scores = {"precision": 0.2, "recall": 0.5, "f1-score": 0.3, "support": 20.0}
  classes = {name: scores for name in (*_CLASSES, "macro avg")}
  folder.mkdir()
  for name, content in {
    "evaluation": evaluation,
    "confusion_matrix": {"class_names": _CLASSES, "counts": counts},
    "classification_report": {**classes, "accuracy": 0.6},
  }.items():
    (folder / f"{name}.json").write_text(json.dumps(content))


# --- Weights -------------------------------------------------------------------------------------


def checkpoint_target(folder: pathlib.Path) -> Target:
  """Return the target for every file of a checkpoint, including Orbax's files."""
  kernel = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
  params = {"kernel": kernel, "bias": np.zeros(20)}
  store = checkpoints.Checkpoints(folder)
  store.save_best([1], {"params": params})
  store.close()
  best = folder / "checkpoints" / "best" / "00000001"
  contents = {path: path.read_bytes() for path in sorted(best.rglob("*")) if path.is_file()}

  def read(file: tuple[pathlib.Path, bytes]) -> None:
    with replaced(*file):
      _, best_variables = checkpoints.read_best(folder)
      for name, array in params.items():
        np.testing.assert_array_equal(best_variables["params"][name], array)

  return Target("checkpoint", damaged_files(contents), list(contents.items()), read)


def weights_target(folder: pathlib.Path) -> Target:
  """Return the target for files of VGG-16's weights.

  The intact files have too few layers, so that reading must fail for every file.
  """
  import h5py
  from safetensors.numpy import save

  folder.mkdir()
  kernel, bias = np.zeros((2, 2, 3, 3), np.float32), np.zeros(2)
  with h5py.File(folder / "x.h5", "w") as file:
    file["block1_conv1/kernel"], file["block1_conv1/bias"] = kernel, bias
  safetensors = save({"features.0.weight": kernel, "features.0.bias": bias})
  (folder / "x.safetensors").write_bytes(safetensors)
  contents = {"x.h5": (folder / "x.h5").read_bytes(), "x.safetensors": safetensors}

  def read(file: tuple[str, bytes]) -> None:
    name, content = file
    with replaced(folder / name, content):
      pretrained.load_vgg16(folder / name)
      raise AssertionError("weights with too few layers were read")

  return Target("pretrained weights", damaged_files(contents), [], read)
