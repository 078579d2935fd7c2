"""Learning-rate range test (Smith 2015, arXiv:1506.01186): which rates are worth trying.

The rate grows from step to step, by the same factor each time, and the training loss is watched:
it stays, falls, and at last rises beyond all bounds. Good rates lie where it falls fastest, well
below the rate at which it is lowest. Everything else is as the config says.
"""

import json
import math
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

import errors
import programs
import transfer
from analysis import plots
from console import log, progress
from experiment import Experiment, resolve

_SMOOTHING = 0.95
_DIVERGED = 3.0  # times the lowest smoothed loss


def lr_range_test(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  low: float = 1e-6,
  high: float = 10.0,
  steps: int = 300,
) -> dict[str, Any]:
  """Runs the test; writes lr_range.json and lr_range.png in `workdir`.

  Args:
    config: the experiment; its schedule and plateau are set aside.
    low, high: first and last learning rate.
    steps: training steps between them; fewer are taken if the loss diverges before.

  Returns:
    'suggested': the rate at which the smoothed loss falls fastest, None if it nowhere falls;
    'lowest': the rate with the lowest smoothed loss; 'learning_rate', 'loss' and 'smoothed' by
    step.

  Raises:
    UserError: low, high or steps make no range; and as training does.
  """
  if not 0 < low < high < math.inf:
    raise errors.UserError(f"low, high: {low:g} to {high:g} is no range; give 0 < low < high")
  if steps < 10:
    raise errors.UserError(f"steps: {steps} are too few to see a trend in; give at least 10")
  factor = (high / low) ** (1 / (steps - 1))
  experiment = Experiment(resolve(config), schedule=lambda step: low * factor**step)
  state = programs.replicate(experiment.init(transfer.load(config.model.pretrained)))
  program = experiment.programs(state)

  losses: list[jax.Array] = []
  with progress("learning rates", steps, "steps") as advance:
    while len(losses) < steps and not _diverged(losses):
      order = experiment.order(len(losses) // experiment.steps_per_epoch % config.num_epochs)
      take = min(experiment.steps_per_epoch, steps - len(losses))
      for shard, data in program.source.train(order, config.batch_size, 0, [1] * take):
        state, loss = program.train(1, state, shard, data)
        losses.append(loss)
        if len(losses) % 10 == 0:
          advance(10, loss=float(np.mean(loss)))
          if _diverged(losses):
            break
  values = np.array([np.mean(loss) for loss in losses], np.float64)
  values = values[: _first_bad(values)]
  if len(values) < 2:
    raise errors.UserError(f"low: the loss is not finite at {low:g} already; give a lower one")
  rates = low * factor ** np.arange(len(values))
  smoothed = smooth(values)
  suggested = steepest(rates, smoothed)
  found = {
    "suggested": suggested,
    "lowest": float(rates[np.argmin(smoothed)]),
    "learning_rate": rates.tolist(),
    "loss": values.tolist(),
    "smoothed": smoothed.tolist(),
  }
  folder = epath.Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "lr_range.json").write_text(json.dumps(found, indent=2) + "\n")
  title = f"Learning-rate range test: {config.model.name} on {experiment.dataset.name}"
  _plot(found, title, folder / "lr_range.png")
  if suggested is None:
    log.warning("The loss falls nowhere between %g and %g: no rate can be suggested", low, high)
  return found


def smooth(losses: np.ndarray, weight: float = _SMOOTHING) -> np.ndarray:
  """Exponential moving average of [n] numbers, each divided by the weights' sum up to it."""
  average, out = 0.0, []
  for count, loss in enumerate(losses, start=1):
    average = weight * average + (1 - weight) * loss
    out.append(average / (1 - weight**count))
  return np.array(out)


def steepest(rates: np.ndarray, smoothed: np.ndarray) -> float | None:
  """The rate [n] at which the loss [n] falls fastest by the logarithm of the rate, before its low.

  None if it never falls.
  """
  end = int(np.argmin(smoothed)) + 1
  if end < 2:
    return None
  slope = np.gradient(smoothed[:end], np.log(rates[:end]))
  return float(rates[np.argmin(slope)])


def _diverged(losses: list[jax.Array]) -> bool:
  if len(losses) < 10 or len(losses) % 10:
    return False
  values = np.array([np.mean(loss) for loss in losses], np.float64)
  if not np.isfinite(values).all():
    return True
  smoothed = smooth(values)
  return bool(smoothed[-1] > _DIVERGED * smoothed.min())


def _first_bad(values: np.ndarray) -> int:
  bad = np.flatnonzero(~np.isfinite(values))
  return int(bad[0]) if len(bad) else len(values)


def _plot(found: dict[str, Any], title: str, path: epath.Path) -> None:
  rates, suggested = found["learning_rate"], found["suggested"]
  with plots.figure(path, 1, 1, figsize=(6, 3.6)) as (_, axis):
    axis.plot(rates, found["loss"], color="tab:blue", alpha=0.25, lw=0.8, label="each step")
    axis.plot(rates, found["smoothed"], color="tab:blue", label="smoothed")
    if suggested is not None:
      axis.axvline(suggested, color="tab:green", lw=1, label=f"falls fastest: {suggested:.2g}")
    axis.axvline(
      found["lowest"], color="tab:gray", lw=1, ls=":", label=f"lowest: {found['lowest']:.2g}"
    )
    top = max(found["smoothed"][0], 1e-9)
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=title)
    axis.set_ylim(min(found["smoothed"]) * 0.8, top * 1.5)
    axis.legend()
