"""The reports of a run: a row for each epoch, and results.json at the end."""

import dataclasses
import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from cifar_jax import errors
from cifar_jax.kernels import convolution
from cifar_jax.runs import run_folder, test_uses
from cifar_jax.types import Row

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class RunSummary:
  """The experiment, as results.json describes it.

  Attributes:
    config: the resolved config.
    seeds: the seeds trained together.
    parameters: the numbers of trainable parameters and of batch statistics.
    data: the content of dataset.json.
  """

  config: ml_collections.ConfigDict
  seeds: Sequence[int]
  parameters: tuple[int, int]
  data: Row


def epoch_row(
  step: int, epoch: int, metrics: Mapping[str, np.ndarray], seeds: Sequence[int]
) -> Row:
  """Return a row of metrics.jsonl; with several seeds, means, and each seed's values in 'seeds'."""
  row: Row = {"step": step, "epoch": epoch}
  row |= {name: float(np.mean(value)) for name, value in metrics.items()}
  if len(seeds) > 1:
    row["seeds"] = [
      {"seed": seed} | {name: float(value[i]) for name, value in metrics.items()}
      for i, seed in enumerate(seeds)
    ]
  return row


def epoch_line(row: Row, num_epochs: int) -> str:
  """Return a row of metrics.jsonl as a line of the log."""
  text = f"epoch {row['epoch']}/{num_epochs}"
  text += f"  train loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.2%}"
  if "val_loss" in row:
    text += f"  val loss {row['val_loss']:.4f}  accuracy {row['val_accuracy']:.2%}"
  if "train_objective" in row:
    text += f"  objective {row['train_objective']:.4f}"
  if "val_objective" in row:
    text += f", val {row['val_objective']:.4f}"
  text += f"  lr {row['learning_rate']:.3g}  {row['images_per_second']:,.0f} images/s"
  return f"{text}  {row['seconds']:.1f} s"


def collect(
  summary: RunSummary,
  rows: Sequence[Row],
  best_epochs: Sequence[int],
  epochs_run: Sequence[int],
  metrics: Mapping[str, Mapping[str, np.ndarray]],
) -> Row:
  """Return the content of results.json.

  Args:
    rows: the rows of metrics.jsonl; the selected epochs' rows give the validation figures.
    best_epochs: for each seed the epoch whose weights were selected, from 1; 0 if there is none,
      because no epoch's metric was a number.
    epochs_run: for each seed the number of epochs until it stopped early, or of the run.
    metrics: 'loss', 'accuracy' and 'top5' of the selected weights, scalars or [seeds], by split,
      for the splits that were measured: 'test', 'test_tta' (with test-time augmentation) and
      'train'. With an L2 penalty 'test' also has the 'objective', loss + penalty, which Keras
      prints as loss.

  Returns:
    With several seeds each figure is the mean over those that have not diverged. 'diverged_seeds'
    lists the others, whose figures in 'per_seed' are NaN.

  Raises:
    UserError: every seed has diverged.
  """
  config, seeds = summary.config, summary.seeds
  figures = {
    f"{split}_{name}": np.atleast_1d(value)
    for split, split_metrics in metrics.items()
    for name, value in split_metrics.items()
  }
  figures |= _validation_figures(rows, best_epochs)
  diverged = _find_diverged(rows, best_epochs, epochs_run)
  for name in {"val_loss", "test_loss"} & figures.keys():
    diverged |= ~np.isfinite(figures[name])
  if diverged.all():
    raise errors.UserError(
      f"select.monitor: no epoch's {config.select.monitor or 'loss'} was a number, or the loss of "
      "the selected weights is not one; lower optimizer.learning_rate, with another workdir"
    )
  content: Row = {name: float(value[~diverged].mean()) for name, value in figures.items()}
  if len(seeds) > 1:
    content |= _spread(figures, seeds, best_epochs, diverged)
    content["diverged_seeds"] = np.array(seeds)[diverged].tolist()
  else:
    content["best_epoch"] = best_epochs[0]
  if "test_tta" in metrics:
    content["tta"] = config.tta
  trainable, non_trainable = summary.parameters
  if config.microbatch and non_trainable:
    content["batch_norm_examples"] = config.microbatch
  content |= {
    "selected_on": selected_on(config),
    "seeds": list(seeds),
    "epochs_run": len(rows),
    "model": config.model.name,
    "parameters": {
      "trainable": trainable,
      "non_trainable": non_trainable,
      "total": trainable + non_trainable,
    },
    "data": summary.data,
    "dtype": config.dtype,
    **environment(config.dtype),
    "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }
  return content


def _validation_figures(rows: Sequence[Row], best_epochs: Sequence[int]) -> dict[str, np.ndarray]:
  """Return the validation figures of each seed's selected epoch, [seeds]; NaN without one."""
  # The first rows of a fork are its parent's, which may lack a figure that the fork has.
  selected = [
    rows[epoch - 1].get("seeds", rows[epoch - 1 : epoch])[i] if epoch else {}
    for i, epoch in enumerate(best_epochs)
  ]
  names = ("val_loss", "val_accuracy", "val_top5", "val_objective")
  # A resumed run reads NaN as None; float64 turns None into NaN again.
  return {
    name: np.array([row.get(name) for row in selected], np.float64)
    for name in names
    if any(name in row for row in selected)
  }


def _find_diverged(
  rows: Sequence[Row], best_epochs: Sequence[int], epochs_run: Sequence[int]
) -> np.ndarray:
  """Return whether each seed has no selected weights, or a training loss that is not finite.

  Returns:
    [seeds] bool.
  """

  def is_finite(i: int) -> bool:
    seed_rows = [row["seeds"][i] if "seeds" in row else row for row in rows[: epochs_run[i]]]
    # float64 turns None into NaN, as in _validation_figures.
    losses = np.array([row["train_loss"] for row in seed_rows], np.float64)
    return bool(np.isfinite(losses).all())

  return np.array([not epoch or not is_finite(i) for i, epoch in enumerate(best_epochs)])


def _spread(
  figures: Mapping[str, np.ndarray],
  seeds: Sequence[int],
  best_epochs: Sequence[int],
  diverged: np.ndarray,
) -> Row:
  """Return the standard deviation and standard error of each figure, and each seed's figures.

  If only one seed has not diverged, there are neither deviations nor errors.
  """
  content: Row = {}
  for name, value in figures.items():
    numbers = value[~diverged]
    if len(numbers) > 1:
      content[f"{name}_std"] = float(numbers.std(ddof=1))
      content[f"{name}_standard_error"] = float(numbers.std(ddof=1) / np.sqrt(len(numbers)))
  content["per_seed"] = [
    {"seed": seed, "best_epoch": best_epochs[i]}
    | {name: np.nan if diverged[i] else float(value[i]) for name, value in figures.items()}
    for i, seed in enumerate(seeds)
  ]
  return content


def selected_on(config: ml_collections.ConfigDict) -> str:
  """Return which examples guided the choice of the weights.

  Returns:
    'validation', 'test', 'training' or 'nothing'.
  """
  monitors = (config.select.monitor, config.early_stopping.monitor, config.plateau.monitor)
  if not any(monitor.startswith("val_") for monitor in monitors):
    return "training" if any(monitors) else "nothing"
  return "test" if config.data.validation == "test" else "validation"


def ancestry(folder: run_folder.RunFolder, selected: str) -> Row:
  """Return the entries of results.json about the runs that this one started from.

  Args:
    folder: the folder of this run.
    selected: what this run itself was selected on.

  Returns:
    'selected_on', which is 'test' if any of those runs was selected on the test set, else
    `selected`; and for a fork its 'lineage'.
  """
  lineage = folder.lineage()
  on_test = any(ancestor.get("selected_on") == "test" for ancestor in lineage)
  on_test = on_test or test_uses.began_with_weights_selected_on_test(folder.path)
  content: Row = {"selected_on": "test" if on_test else selected}
  return content | ({"lineage": lineage} if lineage else {})


def environment(dtype: str) -> Row:
  """Return the environment: 'device', 'versions' of the libraries, and 'git_commit'."""
  return {
    "device": device(dtype),
    "versions": {"python": platform.python_version()}
    | {name: importlib.metadata.version(name) for name in _LIBRARIES},
    "git_commit": git_commit(),
  }


def device(dtype: str) -> Row:
  """Return a description of the hardware.

  On CPU, 'instruction_set' is that of the convolutions of `dtype`; None if XLA computes them.
  """
  first = jax.devices()[0]
  on_cpu = {"instruction_set": convolution.instruction_set(jnp.dtype(dtype))}
  has_affinity = hasattr(os, "sched_getaffinity")
  return {
    "platform": first.platform,
    "kind": first.device_kind,
    **(on_cpu if first.platform == "cpu" else {}),
    "count": jax.device_count(),
    "processes": jax.process_count(),
    "cpu_cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
  }


def git_commit() -> str | None:
  """Return this code's commit, with '-dirty' if files have changed; None outside a checkout."""
  try:
    process = subprocess.run(
      ["git", "describe", "--always", "--abbrev=40", "--dirty", "--match="],
      cwd=pathlib.Path(__file__).parents[2],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return process.stdout.strip() or None


def summarize(results: Mapping[str, Any]) -> str:
  """Return the content of results.json as a few lines to read."""
  data = results["data"]
  diverged = results.get("diverged_seeds", [])
  if len(results["seeds"]) > 1:
    epoch = "the best epoch of each seed"
  else:
    epoch = f"epoch {results['best_epoch']} of {results['epochs_run']}"
  if "test_accuracy" in results:
    figures = _describe_split(results, "test", "test")
  elif "val_accuracy" in results:
    figures = f"not tested; {_describe_split(results, 'validation', 'val')}"
  else:
    figures = "not tested"
  lines = [
    f"{results['model']} on {data['name']}: {figures}",
    f"weights of {epoch}, selected on {results['selected_on']}; "
    f"{results['seconds_to_train']:.0f} s of training, "
    f"{results['compile_seconds']:.0f} s compiling",
  ]
  if "tta" in results:
    accuracy = results["test_tta_accuracy"]
    lines.insert(1, f"with test-time augmentation {results['tta']}: {accuracy:.2%}")
  if diverged:
    names = ", ".join(map(str, diverged))
    lines.append(f"NOTE: diverged, and left out of the figures: seed {names}")
  if "batch_norm_examples" in results:
    count = results["batch_norm_examples"]
    lines.append(f"NOTE: batch norm saw {count:,} examples at once, not the batch (microbatch)")
  if results["selected_on"] == "test":
    lines.append("NOTE: selected on the test set, so the test figures are optimistic")
  if data["name"] != data["requested"]:
    lines.append(
      f"NOTE: trained on {data['name']!r}, because {data['requested']!r} was unavailable"
    )
  return "\n".join(lines)


def _describe_split(results: Mapping[str, Any], split: str, prefix: str) -> str:
  """Return the figures of a split, whose names begin with `prefix`, as text."""
  spread = ""
  if len(results["seeds"]) > 1:
    num_seeds = len(results["seeds"]) - len(results.get("diverged_seeds", []))
    spread = f" (of {num_seeds} seed)"
    if (error := results.get(f"{prefix}_accuracy_standard_error")) is not None:
      spread = f" ± {error:.2%} (standard error over {num_seeds} seeds)"
  objective = ""
  if f"{prefix}_objective" in results:
    objective = f"objective (loss + penalty) {results[f'{prefix}_objective']:.4f}, "
  count = f"{results['data'][f'{split}_examples']:,}"
  images = f"{count} images"
  if split == "test" and "test_uses" in results:  # runs before uses were counted lack it
    images = test_uses.describe(results["test_uses"], f"{count} test images")
  return (
    f"{split} accuracy {results[f'{prefix}_accuracy']:.2%}{spread}, "
    f"loss {results[f'{prefix}_loss']:.4f}, {objective}"
    f"top-5 {results[f'{prefix}_top5']:.2%} ({images})"
  )
