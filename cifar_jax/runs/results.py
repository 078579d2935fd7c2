"""What a run reports of itself: a row for each epoch, and results.json at its end."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax
import ml_collections
import numpy as np

from experiment import Experiment

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def epoch_row(
  step: int, epoch: int, values: dict[str, np.ndarray], seeds: list[int]
) -> dict[str, Any]:
  """A row of metrics.jsonl; with several seeds the means, and each seed's values in 'seeds'."""
  row: dict[str, Any] = {"step": step, "epoch": epoch}
  row |= {name: float(np.mean(value)) for name, value in values.items()}
  if len(seeds) > 1:
    row["seeds"] = [
      {"seed": seed} | {name: float(value[i]) for name, value in values.items()}
      for i, seed in enumerate(seeds)
    ]
  return row


def epoch_line(row: dict[str, Any], num_epochs: int) -> str:
  """A row as a line to read."""
  text = f"epoch {row['epoch']}/{num_epochs}"
  text += f"  train loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.2%}"
  if "val_loss" in row:
    text += f"  val loss {row['val_loss']:.4f}  accuracy {row['val_accuracy']:.2%}"
  text += f"  lr {row['learning_rate']:.3g}  {row['images_per_second']:,.0f} images/s"
  return f"{text}  {row['seconds']:.1f} s"


def collect(
  experiment: Experiment,
  rows: list[dict[str, Any]],
  best_epochs: list[int],
  measured: dict[str, dict[str, np.ndarray]],
) -> dict[str, Any]:
  """What results.json holds.

  Args:
    rows: as in metrics.jsonl; the validation figures are those of the selected epochs.
    best_epochs: for each seed the epoch whose weights were selected, from 1; 0 for none, since no
      epoch's metric was a number.
    measured: by split ('test', and if asked for 'test_tta', with test-time augmentation, and
      'train') 'loss', 'accuracy' and 'top5' of the selected weights: scalars, or [seeds].
  """
  config = experiment.config
  seeds, parameters = experiment.seeds, experiment.parameters
  figures = {
    f"{split}_{name}": np.atleast_1d(value)
    for split, found in measured.items()
    for name, value in found.items()
  }
  for name in ("val_loss", "val_accuracy", "val_top5"):
    if rows and name in rows[0]:
      figures[name] = np.array(
        [
          rows[epoch - 1].get("seeds", rows[epoch - 1 : epoch])[i][name] if epoch else np.nan
          for i, epoch in enumerate(best_epochs)
        ],
        np.float64,  # None, which a resumed run reads for NaN, becomes NaN again
      )
  found: dict[str, Any] = {name: float(value.mean()) for name, value in figures.items()}
  if len(seeds) > 1:
    for name, value in figures.items():
      found[f"{name}_std"] = float(value.std(ddof=1))
      found[f"{name}_standard_error"] = float(value.std(ddof=1) / np.sqrt(len(seeds)))
    found["per_seed"] = [
      {"seed": seed, "best_epoch": best_epochs[i]}
      | {name: float(value[i]) for name, value in figures.items()}
      for i, seed in enumerate(seeds)
    ]
  else:
    found["best_epoch"] = best_epochs[0]
  if config.tta:
    found["tta"] = config.tta
  found |= {
    "selected_on": selected_on(config),
    "seeds": seeds,
    "epochs_run": len(rows),
    "model": config.model.name,
    "parameters": {
      "trainable": parameters[0],
      "non_trainable": parameters[1],
      "total": sum(parameters),
    },
    "data": experiment.describe_data(),
    "device": device(),
    "versions": {"python": platform.python_version()}
    | {name: importlib.metadata.version(name) for name in _LIBRARIES},
    "git_commit": git_commit(),
    "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }
  return found


def selected_on(config: ml_collections.ConfigDict) -> str:
  """The examples that decided which weights are reported: 'validation', 'test' or 'nothing'."""
  monitors = (config.select.monitor, config.early_stopping.monitor, config.plateau.monitor)
  if not any(monitor.startswith("val_") for monitor in monitors):
    return "nothing"
  return "test" if config.data.validation == "test" else "validation"


def device() -> dict[str, Any]:
  """The hardware the run used."""
  first = jax.devices()[0]
  return {
    "platform": first.platform,
    "kind": first.device_kind,
    "count": jax.device_count(),
    "processes": jax.process_count(),
    "cpu_cores": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
  }


def git_commit() -> str | None:
  """The commit of this code, with '-dirty' if it was changed since; None outside a checkout."""
  try:
    done = subprocess.run(
      ["git", "describe", "--always", "--abbrev=40", "--dirty", "--match="],
      cwd=pathlib.Path(__file__).parents[2],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip() or None


def summary(found: dict[str, Any]) -> str:
  """The end of a run in a few lines to read."""
  spread = ""
  if len(found["seeds"]) > 1:
    spread = (
      f" ± {found['test_accuracy_standard_error']:.2%} (standard error over "
      f"{len(found['seeds'])} seeds)"
    )
    epoch = "the best epoch of each seed"
  else:
    epoch = f"epoch {found['best_epoch']} of {found['epochs_run']}"
  lines = [
    f"{found['model']} on {found['data']['name']}: test accuracy "
    f"{found['test_accuracy']:.2%}{spread}, loss {found['test_loss']:.4f}, "
    f"top-5 {found['test_top5']:.2%} ({found['data']['test_examples']:,} images)",
    f"weights of {epoch}, selected on {found['selected_on']}; "
    f"{found['seconds_to_train']:.0f} s of training, {found['compile_seconds']:.0f} s compiling",
  ]
  if "tta" in found:
    lines.insert(1, f"with test-time augmentation {found['tta']}: {found['test_tta_accuracy']:.2%}")
  if found["selected_on"] == "test":
    lines.append("NOTE: selected on the test set, so the test figures are optimistic")
  if found["data"]["name"] != found["data"]["requested"]:
    lines.append(
      f"NOTE: trained on {found['data']['name']!r}, since {found['data']['requested']!r} could not "
      "be had"
    )
  return "\n".join(lines)
