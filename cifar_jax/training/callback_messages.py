"""Log lines about what the plateau, early stopping and selection did after an epoch."""

from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from cifar_jax.training.callbacks import CallbacksState


def describe_changes(
  config: ml_collections.ConfigDict,
  seeds: Sequence[int],
  before: CallbacksState,
  after: CallbacksState,
  epoch: int,
  rates: np.ndarray,
) -> list[str]:
  """Return a line for each reduction of the learning rate and each early stop of an epoch.

  The lines state the facts that Keras' callbacks print with verbose=1: the epoch, the new rate, and
  the epoch of the best weights.

  Args:
    config: the config of the run.
    seeds: the seeds trained together; with several, lines name the seed.
    before, after: the state of the callbacks before and after the epoch; [] or [seeds] arrays.
    epoch: the epoch, from 1.
    rates: the learning rate of the schedule, which the plateau's factor multiplies; [] or [seeds].
  """
  old, new = (
    [_of_seed(state, i, len(seeds)) for i in range(len(seeds))] for state in (before, after)
  )
  lines = []
  by_seed = np.broadcast_to(rates, len(seeds)).tolist()
  for seed, rate, previous, current in zip(seeds, by_seed, old, new, strict=True):
    start = f"epoch {epoch}" + (f", seed {seed}" if len(seeds) > 1 else "")
    if current["scale"] < previous["scale"]:
      lines.append(
        f"{start}: {config.plateau.monitor} {_without_improvement(config.plateau.patience)}; "
        f"learning rate {rate * previous['scale']:.4g} → {rate * current['scale']:.4g}"
      )
    if current["stopped_epoch"] >= 0 > previous["stopped_epoch"]:
      stopping = config.early_stopping
      lines.append(
        f"{start}: {stopping.monitor} {_without_improvement(stopping.patience)}; stopping early"
      )
  return lines


def describe_selection(
  config: ml_collections.ConfigDict, seeds: Sequence[int], best_epochs: Sequence[int]
) -> str:
  """Return a line that names the epochs whose weights are tested, if a metric selects them.

  best_epochs: for each seed the epoch, from 1; 0 if the metric was never a number.
  """
  word = "highest" if config.select.mode == "max" else "lowest"
  epochs = [f"epoch {epoch}" if epoch else "the start" for epoch in best_epochs]
  if len(seeds) > 1:
    epochs = [f"{epoch} (seed {seed})" for seed, epoch in zip(seeds, epochs, strict=True)]
  return f"Restored the weights of {', '.join(epochs)}: {config.select.monitor} was {word}"


def _without_improvement(patience: int) -> str:
  epochs = max(patience, 1)  # 0 means the same as 1
  return f"has not improved for {epochs} epoch{'s' if epochs > 1 else ''}"


def _of_seed(state: CallbacksState, i: int, num_seeds: int) -> Mapping[str, float]:
  """Return the plateau's scale and the early-stopping epoch of one seed."""
  values = {
    "scale": state["plateau"].scale,
    "stopped_epoch": state["early_stopping"].stopped_epoch,
  }
  return {
    name: float(np.asarray(value)[i] if num_seeds > 1 else np.asarray(value))
    for name, value in values.items()
  }
