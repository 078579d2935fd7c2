"""Learning-rate range test (Smith 2015, arXiv:1506.01186): find learning rates worth trying.

The learning rate grows by the same factor each step while the training loss is recorded. The loss
stays flat, falls, and finally diverges. Good rates lie between the rate at which the loss falls
fastest and the rate at which it is lowest. The test suggests a tenth of the latter: networks with
batch norm learn something at any rate, so their loss often falls fastest in the very first steps,
at rates far too low to train with. The rest of the config applies unchanged.
"""

import json
import math
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from scipy import ndimage, signal

from cifar_jax import errors
from cifar_jax.runs import plots
from cifar_jax.runtime.console import log, progress
from cifar_jax.training import compiled_steps
from experiment import Experiment, resolve
from models import transfer

_WINDOW_DECADES = 0.5  # of the learning rate, over which the loss is smoothed
_BELOW_LOWEST = 10.0
_DIVERGED = 3.0  # a loss that exceeds this multiple of the lowest median has diverged
_LAST_STEPS = 3  # the test ends when this many steps in a row have diverged
_ABOVE_START = 1.5  # where the median loss exceeds this multiple of the first one, it has exploded
_MEDIAN_STEPS = 9
_CHECK_EVERY = 10  # steps


def lr_range_test(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  low: float = 1e-6,
  high: float = 10.0,
  steps: int = 300,
) -> dict[str, Any]:
  """Run the test; write lr_range.json and lr_range.png to `workdir`.

  Args:
    config: the experiment; its schedule and plateau are ignored.
    low, high: first and last learning rate.
    steps: number of training steps; the test takes fewer if the loss diverges earlier.

  Returns:
    'lowest': the rate with the lowest smoothed loss. 'steepest': the rate below it at which the
    loss falls fastest. 'suggested': a tenth of 'lowest'. The latter two are None if the loss
    never falls. 'learning_rate', 'loss' and 'smoothed': lists with a value for each step; from the
    step at which the loss explodes, 'smoothed' is the running median.

  Raises:
    UserError: low, high or steps is invalid, the loss is not finite from the start, or training
      raises one.
  """
  if not 0 < low < high < math.inf:
    raise errors.UserError(f"low, high: {low:g} to {high:g} is not a range; use 0 < low < high")
  if steps < _CHECK_EVERY:
    raise errors.UserError(
      f"steps: {steps} steps are too few to show a trend; use at least {_CHECK_EVERY}"
    )
  factor = (high / low) ** (1 / (steps - 1))
  window = smoothing_window(factor)
  experiment = Experiment(resolve(config), schedule=lambda step: low * factor**step)
  losses = _train(experiment, steps)
  if len(losses) < 2:
    raise errors.UserError(f"low: the loss is not finite even at {low:g}; use a lower rate")
  curve = _analyze(low * factor ** np.arange(len(losses)), losses, window)
  folder = epath.Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "lr_range.json").write_text(json.dumps(curve, indent=2) + "\n")
  title = f"Learning-rate range test: {config.model.name} on {experiment.dataset.name}"
  _plot(curve, title, folder / "lr_range.png")
  if curve["suggested"] is None:
    log.warning("The loss never falls between %g and %g, so no rate is suggested", low, high)
  return curve


def smoothing_window(factor: float) -> int:
  """Return the odd number of steps in half a decade of rates that grow by `factor` each step."""
  return max(5, 2 * round(_WINDOW_DECADES / math.log10(factor) / 2) + 1)


def smooth(losses: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the smoothed losses [n] and their slope by step [n].

  Both come from a parabola fitted to the steps around each step (Savitzky and Golay's filter),
  which does not lag behind as a moving average does.

  Args:
    window: number of steps in a fit; reduced to the number of losses. With fewer than three
      losses, they are returned unsmoothed.
  """
  window = min(window, len(losses) - (len(losses) + 1) % 2)
  if window < 3:
    return losses, np.gradient(losses)
  smoothed, slope = (signal.savgol_filter(losses, window, 2, deriv=deriv) for deriv in (0, 1))
  return smoothed, slope


def count_before_explosion(losses: np.ndarray) -> int:
  """Return the number of steps before the loss explodes.

  A parabola that is fitted across an explosion falls far below the losses before it. A running
  median does not, and a single high loss does not raise it.
  """
  medians = _running_median(losses)
  limit = np.minimum(_DIVERGED * np.minimum.accumulate(medians), _ABOVE_START * medians[0])
  exploded = np.flatnonzero(medians > limit)
  return int(exploded[0]) if len(exploded) else len(losses)


def fastest_fall(rates: np.ndarray, smoothed: np.ndarray, slope: np.ndarray) -> float | None:
  """Return the rate at which the loss falls fastest before its minimum; None if it never falls.

  Args:
    rates, smoothed, slope: [n] each.
  """
  end = int(np.argmin(smoothed))
  return float(rates[np.argmin(slope[:end])]) if end else None


def _train(experiment: Experiment, steps: int) -> np.ndarray:
  """Return the loss [n] of each training step, up to the first that is not finite.

  Training ends early when the loss diverges.
  """
  config = experiment.config
  state = compiled_steps.replicate(experiment.init(transfer.load(config.model.pretrained)))
  experiment = experiment.precompute_base(state)
  compiled = experiment.compile_steps()
  losses: list[jax.Array] = []
  with progress("learning rates", steps, "steps") as advance:
    while len(losses) < steps and not _has_diverged(losses):
      epoch = len(losses) // experiment.steps_per_epoch % config.num_epochs
      num_steps = min(experiment.steps_per_epoch, steps - len(losses))
      for shard, resident in experiment.train_shards(epoch, [1] * num_steps):
        state, loss = compiled.train(1, state, shard, resident)
        losses.append(loss)
        if len(losses) % _CHECK_EVERY == 0:
          advance(_CHECK_EVERY, loss=float(np.mean(loss)))
          if _has_diverged(losses):
            break
  values = _means(losses)
  bad = np.flatnonzero(~np.isfinite(values))
  return values[: bad[0]] if len(bad) else values


def _means(losses: list[jax.Array]) -> np.ndarray:
  """Return the mean over seeds of each step's loss, as float64 [n]."""
  return np.array([np.mean(loss) for loss in losses], np.float64)


def _has_diverged(losses: list[jax.Array]) -> bool:
  """Return whether the loss has diverged; checked every tenth step, and False in between."""
  if not losses or len(losses) % _CHECK_EVERY:
    return False
  values = _means(losses)
  if not np.isfinite(values).all():
    return True
  return bool(values[-_LAST_STEPS:].min() > _DIVERGED * _running_median(values).min())


def _running_median(losses: np.ndarray) -> np.ndarray:
  """Return the median of the steps around each step: [n]."""
  return ndimage.median_filter(losses, _MEDIAN_STEPS, mode="nearest")


def _analyze(rates: np.ndarray, losses: np.ndarray, window: int) -> dict[str, Any]:
  """Return the contents of lr_range.json for rates [n] and losses [n]."""
  medians, end = _running_median(losses), count_before_explosion(losses)
  # A single high loss among low ones would distort the fit too.
  regular = np.where(losses > _DIVERGED * medians, medians, losses)
  smoothed, slope = smooth(regular[:end], window)
  steepest = fastest_fall(rates, smoothed, slope)
  lowest = float(rates[np.argmin(smoothed)])
  smoothed = np.concatenate([smoothed, medians[end:]])
  return {
    "suggested": None if steepest is None else lowest / _BELOW_LOWEST,
    "steepest": steepest,
    "lowest": lowest,
    "learning_rate": rates.tolist(),
    "loss": losses.tolist(),
    "smoothed": smoothed.tolist(),
  }


def _plot(curve: dict[str, Any], title: str, path: epath.Path) -> None:
  rates = curve["learning_rate"]
  lines = {
    "suggested": ("tab:green", "-"),
    "lowest": ("tab:gray", ":"),
    "steepest": ("tab:gray", "--"),
  }
  with plots.figure(path, 1, 1, figsize=(6, 3.6)) as (_, axis):
    axis.plot(rates, curve["loss"], color="tab:blue", alpha=0.25, lw=0.8, label="each step")
    axis.plot(rates, curve["smoothed"], color="tab:blue", label="smoothed")
    for name, (color, style) in lines.items():
      if curve[name] is not None:
        axis.axvline(curve[name], color=color, lw=1, ls=style, label=f"{name}: {curve[name]:.2g}")
    top = max(curve["smoothed"][0], 1e-9)
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=title)
    axis.set_ylim(min(curve["smoothed"]) * 0.8, top * 1.5)
    axis.legend()
