"""Learning-rate range test (Smith 2015, arXiv:1506.01186): which rates are worth trying.

The rate grows from step to step, by the same factor each time, and the training loss is watched:
it stays, falls, and at last rises beyond all bounds. Good rates lie between the one at which it
falls fastest and the one at which it is lowest. A tenth of the latter is suggested: networks with
batch norm learn something at any rate, so that their loss often falls fastest in the very first
steps, at rates far too low to train with. Everything else is as the config says.
"""

import json
import math
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from scipy import signal

from cifar_jax import errors
from cifar_jax.runs import plots
from cifar_jax.runtime.console import log, progress
from cifar_jax.training import compiled_steps
from experiment import Experiment, resolve
from models import transfer

_SMOOTHED_OVER = 0.5  # decades of the learning rate
_BELOW_LOWEST = 10.0
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
    'lowest': the rate with the lowest smoothed loss; 'steepest': that at which it falls fastest
    before; 'suggested': a tenth of the lowest. The latter two are None if it never falls.
    'learning_rate', 'loss' and 'smoothed' by step.

  Raises:
    UserError: low, high or steps make no range; and as training does.
  """
  if not 0 < low < high < math.inf:
    raise errors.UserError(f"low, high: {low:g} to {high:g} is no range; give 0 < low < high")
  if steps < 10:
    raise errors.UserError(f"steps: {steps} are too few to see a trend in; give at least 10")
  factor = (high / low) ** (1 / (steps - 1))
  experiment = Experiment(resolve(config), schedule=lambda step: low * factor**step)
  state = compiled_steps.replicate(experiment.init(transfer.load(config.model.pretrained)))
  program = experiment.compile_steps(state)

  window = smoothing_window(factor)
  losses: list[jax.Array] = []
  with progress("learning rates", steps, "steps") as advance:
    while len(losses) < steps and not _diverged(losses, window):
      order = experiment.order(len(losses) // experiment.steps_per_epoch % config.num_epochs)
      take = min(experiment.steps_per_epoch, steps - len(losses))
      for shard, data in program.source.train(order, config.batch_size, 0, [1] * take):
        state, loss = program.train(1, state, shard, data)
        losses.append(loss)
        if len(losses) % 10 == 0:
          advance(10, loss=float(np.mean(loss)))
          if _diverged(losses, window):
            break
  values = np.array([np.mean(loss) for loss in losses], np.float64)
  values = values[: _first_bad(values)]
  if len(values) < 2:
    raise errors.UserError(f"low: the loss is not finite at {low:g} already; give a lower one")
  rates = low * factor ** np.arange(len(values))
  smoothed, slope = smooth(values, window)
  steepest = fastest_fall(rates, smoothed, slope)
  lowest = float(rates[np.argmin(smoothed)])
  found = {
    "suggested": None if steepest is None else lowest / _BELOW_LOWEST,
    "steepest": steepest,
    "lowest": lowest,
    "learning_rate": rates.tolist(),
    "loss": values.tolist(),
    "smoothed": smoothed.tolist(),
  }
  folder = epath.Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "lr_range.json").write_text(json.dumps(found, indent=2) + "\n")
  title = f"Learning-rate range test: {config.model.name} on {experiment.dataset.name}"
  _plot(found, title, folder / "lr_range.png")
  if steepest is None:
    log.warning("The loss falls nowhere between %g and %g: no rate can be suggested", low, high)
  return found


def smoothing_window(factor: float) -> int:
  """How many steps half a decade takes when each multiplies the rate by `factor`; an odd number."""
  return max(5, 2 * round(_SMOOTHED_OVER / math.log10(factor) / 2) + 1)


def smooth(losses: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
  """The losses [n] and their slope by step [n], out of a parabola through the steps around each.

  That is a filter of Savitzky and Golay, which does not lag behind as a moving average does.

  Args:
    window: steps in each parabola; fewer, if there are fewer, and at least three.
  """
  window = min(window, len(losses) - (len(losses) + 1) % 2)
  if window < 3:
    return losses, np.gradient(losses)
  smoothed, slope = (signal.savgol_filter(losses, window, 2, deriv=deriv) for deriv in (0, 1))
  return smoothed, slope


def fastest_fall(rates: np.ndarray, smoothed: np.ndarray, slope: np.ndarray) -> float | None:
  """The rate [n] at which the loss [n] falls fastest before its low; None if it never falls."""
  end = int(np.argmin(smoothed))
  return float(rates[np.argmin(slope[:end])]) if end else None


def _diverged(losses: list[jax.Array], window: int) -> bool:
  if len(losses) < 10 or len(losses) % 10:
    return False
  values = np.array([np.mean(loss) for loss in losses], np.float64)
  if not np.isfinite(values).all():
    return True
  smoothed, _ = smooth(values, window)
  return bool(smoothed[-1] > _DIVERGED * smoothed.min())


def _first_bad(values: np.ndarray) -> int:
  bad = np.flatnonzero(~np.isfinite(values))
  return int(bad[0]) if len(bad) else len(values)


def _plot(found: dict[str, Any], title: str, path: epath.Path) -> None:
  rates = found["learning_rate"]
  with plots.figure(path, 1, 1, figsize=(6, 3.6)) as (_, axis):
    axis.plot(rates, found["loss"], color="tab:blue", alpha=0.25, lw=0.8, label="each step")
    axis.plot(rates, found["smoothed"], color="tab:blue", label="smoothed")
    marks = {"suggested": ("tab:green", "-"), "lowest": ("tab:gray", ":")}
    marks["steepest"] = ("tab:gray", "--")
    for name, (color, style) in marks.items():
      if found[name] is not None:
        axis.axvline(found[name], color=color, lw=1, ls=style, label=f"{name}: {found[name]:.2g}")
    top = max(found["smoothed"][0], 1e-9)
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=title)
    axis.set_ylim(min(found["smoothed"]) * 0.8, top * 1.5)
    axis.legend()
