"""What the files of run folders say, without weights and images, and what pages show of it."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.runs import run_folder


@dataclasses.dataclass(frozen=True)
class Record:
  """A run, finished or not.

  Attributes:
    path: the folder.
    config: config.json.
    rows: of metrics.jsonl.
    data: dataset.json; {} if it is missing.
    results: results.json; {} while the run has not finished.
    evaluation: evaluation/evaluation.json; {} if it is missing.
  """

  path: epath.Path
  config: dict[str, Any]
  rows: list[dict[str, Any]]
  data: dict[str, Any]
  results: dict[str, Any]
  evaluation: dict[str, Any]

  @property
  def name(self) -> str:
    return self.path.resolve().name

  @property
  def title(self) -> str:
    return f"{self.config['model']['name']} on {self.data_name}"

  @property
  def data_name(self) -> str:
    return self.data.get("name", self.config["data"]["name"])

  @property
  def fell_back(self) -> bool:
    """Whether it was trained on other data than the config names."""
    return self.data.get("requested", self.data_name) != self.data_name

  @property
  def class_names(self) -> list[str]:
    return self.data.get("class_names", [])

  @property
  def has_top5(self) -> bool:
    """Whether the share of images whose class is among five says anything."""
    if self.class_names:
      return len(self.class_names) > 5
    return self.results.get("test_top5") != 1

  @property
  def epochs(self) -> str:
    return f"{len(self.rows)} of {self.config['num_epochs']} epochs"

  @functools.cached_property
  def selected_on(self) -> str:
    """'validation', 'test' or 'nothing', as results.json has it."""
    if self.results:
      return self.results["selected_on"]
    import ml_collections  # and `results`, whose imports take a second

    from cifar_jax.runs import results

    return results.selected_on(ml_collections.ConfigDict(self.config))

  @property
  def samples(self) -> list[dict[str, Any]]:
    """The results of each seed, none while the run has not finished."""
    if not self.results:
      return []
    return self.results.get("per_seed") or [self.results | {"seed": self.results["seeds"][0]}]

  @property
  def device(self) -> str | None:
    device = self.results.get("device")
    return f"{device['count']} × {device['kind']}" if device else None

  @property
  def seconds(self) -> float | None:
    """Of training, so far if it has not finished."""
    return self.results.get("seconds_to_train") or sum(self.known("seconds")) or None

  def known(self, metric: str) -> list[float]:
    """A metric by epoch, where it is a number."""
    return [row[metric] for row in self.rows if row.get(metric) is not None]

  def traces(self, metric: str) -> np.ndarray:
    """[seeds, epochs] of a metric, NaN where it is no number; [0, 0] if the run has it not."""
    if not self.rows or metric not in self.rows[0]:
      return np.zeros((0, 0))
    by_epoch = [row.get("seeds", [row]) for row in self.rows]
    return np.array([[of_seed.get(metric) for of_seed in row] for row in by_epoch], float).T


def read(workdir: str | os.PathLike) -> Record:
  """Reads a run folder.

  Raises:
    UserError: it is none, or a file in it is not what a run writes.
  """
  path = epath.Path(workdir).expanduser()
  config = read_json(path / "config.json")
  if "num_epochs" not in config:
    raise errors.UserError(
      f"{workdir}: not a run folder, it has no config.json of a run; name a --workdir"
    )
  results = read_json(path / "results.json")
  return Record(
    path,
    config,
    run_folder.RunFolder(path, writer=False).metrics(),
    read_json(path / "dataset.json") or results.get("data", {}),
    results,
    read_json(path / "evaluation" / "evaluation.json"),
  )


def read_json(path: epath.Path) -> dict[str, Any]:
  """The object in a file; {} if there is no file."""
  return run_folder.read_json(path, "put it right, or remove it") if path.exists() else {}


def mean(samples: Sequence[dict[str, Any]], metric: str) -> tuple[float | None, float | None]:
  """The mean over seeds and its standard error; None for what is not known."""
  values = [sample.get(metric) for sample in samples]
  if not values or None in values:
    return None, None
  error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
  return float(np.mean(values)), None if error is None else float(error)


FIGURES = {  # of results.json: what tables call them, and how they are written
  "test_accuracy": ("test accuracy", ".2%"),
  "test_top5": ("test top-5", ".2%"),
  "test_loss": ("test loss", ".4f"),
  "val_accuracy": ("validation accuracy", ".2%"),
}


def figures(runs: Sequence[Record]) -> dict[str, tuple[str, str]]:
  """Those of FIGURES that any of the runs has, and that say something of its data."""
  shown = dict(FIGURES)
  if not any(run.has_top5 for run in runs):
    del shown["test_top5"]
  known = {name for run in runs for name in run.results}
  return {name: how for name, how in shown.items() if name in known or name.startswith("test")}


def plot(axis: Any, traces: np.ndarray, colour: str, label: str = "", dash: Any = "-") -> None:
  """Draws [seeds, epochs] by epoch: a line for one, thin lines and their mean for several."""
  epochs = np.arange(1, traces.shape[1] + 1) if len(traces) else []
  style = {"color": colour, "ls": dash}
  if traces.shape[1] < 15:
    style |= {"marker": "o", "markersize": 2.5}
  if len(traces) > 1:
    for trace in traces:
      axis.plot(epochs, trace, **style, lw=0.7, alpha=0.4)
  if len(traces):
    # After a seed has stopped there is no mean of all.
    axis.plot(epochs, traces.mean(0), **style, lw=1.6, label=label)


def dress(axis: Any, metric: str) -> None:
  """Scales and ticks that suit the lines of a metric by epoch."""
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  lines = [np.asarray(line.get_ydata(), float) for line in axis.lines]
  lines = [line[np.isfinite(line)] for line in lines]
  lines = [line for line in lines if len(line)] or [np.ones(1)]
  lowest = min(line.min() for line in lines)
  peaks = [line.max() for line in lines]
  if metric.endswith("accuracy"):
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
  elif metric == "learning_rate":
    axis.set_ylim(bottom=0)
    if max(peaks) > 10 * min(peaks) > 0:  # else the lower ones lie on the axis
      axis.set_yscale("log", nonpositive="mask")
      axis.set_ylim(bottom=max(lowest, min(peaks) / 100) / 1.5)
  elif max(peaks) > 30 * lowest > 0:
    axis.set_yscale("log", nonpositive="mask")
  axis.xaxis.set_major_locator(MaxNLocator(integer=True))
  axis.set_xlabel("epoch")
