"""The predictions of a run for one split: computed, or read from an earlier evaluation."""

import io
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from etils import epath

from analysis.run import Run, call_size, load_run
from cifar_jax.data import datasets
from cifar_jax.data.cache import Images
from cifar_jax.runs import run_folder
from cifar_jax.runtime.console import progress
from cifar_jax.training.steps import rank_of_label

_CHUNK_SIZE = 1000  # images per update of the progress bar, or one call of the network if larger


class Labelled(NamedTuple):
  """Labels [n] integers, and logits [n, classes] float32."""

  labels: np.ndarray
  logits: np.ndarray


def predict_examples(
  run: Run, dataset: datasets.Dataset, examples: np.ndarray, title: str
) -> Labelled:
  """Return the labels and the logits of examples of one official split.

  Args:
    examples: numbered over the training images, then the test images.
    title: of the progress bar.
  """
  split, rows = _find_rows(dataset, examples)
  logits = map_images(run.logits, split.images, rows, title)
  return Labelled(split.labels[rows], logits)


def find_correct(workdir: epath.PathLike, seed: int, split: str, title: str) -> np.ndarray:
  """Return whether the selected weights of a run classify each image of a split correctly.

  The network runs only if no evaluation of the same weights has recorded its predictions.

  Args:
    split: 'validation' or 'test'.
    title: of the progress bar.

  Returns:
    [n] bool, in the order of the split.

  Raises:
    UserError: the folder holds no trained run, or its dataset is unavailable.
  """
  run = load_run(workdir, seed)
  labelled = _read_predictions(run, split)
  if labelled is None:
    dataset, splits = run.load_data()
    labelled = predict_examples(run, dataset, getattr(splits, split), title)
  return np.asarray(rank_of_label(labelled.logits, labelled.labels)) == 0


def _read_predictions(run: Run, split: str) -> Labelled | None:
  """Return what an evaluation of these weights predicted for a split; None if not recorded."""
  folder, prefix = run.path / "evaluation", "" if split == "test" else f"{split}_"
  if not (folder / "evaluation.json").exists():
    return None
  evaluation = run_folder.read_json(folder / "evaluation.json", "evaluate the run again")
  if (evaluation.get("seed"), evaluation.get("step")) != (run.seed, run.step):
    return None
  try:
    with np.load(io.BytesIO((folder / "predictions.npz").read_bytes()), allow_pickle=False) as file:
      return Labelled(file[f"{prefix}labels"], file[f"{prefix}logits"])
  except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # missing, incomplete or damaged
    return None


def _find_rows(
  dataset: datasets.Dataset, examples: np.ndarray
) -> tuple[datasets.Split, np.ndarray]:
  """Return the official split that the examples belong to, and their rows in it.

  examples: numbered over the training images, then the test images.
  """
  num_train = len(dataset.train.labels)
  if examples[0] >= num_train:
    return dataset.test, examples - num_train
  return dataset.train, examples


def map_images(
  function: Callable[[np.ndarray], np.ndarray], images: Images, rows: np.ndarray, title: str
) -> np.ndarray:
  """Apply a function to the images in these rows in chunks, with a progress bar."""
  outputs, size = [], max(_CHUNK_SIZE, call_size())
  with progress(title, len(rows), "images") as advance:
    for start in range(0, len(rows), size):
      outputs.append(function(images[rows[start : start + size]]))
      advance(len(outputs[-1]))
  return np.concatenate(outputs)
