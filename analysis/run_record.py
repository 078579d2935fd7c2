"""The JSON files of a run folder, read without its weights and images."""

import dataclasses
import functools
import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.config import Fields, as_json, flatten
from cifar_jax.runs import run_folder, test_uses
from cifar_jax.types import Row
from configs import default


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """The JSON files of a run, finished or not.

  Attributes:
    path: the run folder.
    config: config.json.
    rows: the rows of metrics.jsonl.
    dataset: dataset.json; {} if the file is missing.
    results: results.json; {} while the run is unfinished.
    evaluation: evaluation/evaluation.json; {} if the file is missing.
  """

  path: epath.Path
  config: Row
  rows: list[Row]
  dataset: Row
  results: Row
  evaluation: Row

  @functools.cached_property
  def fields(self) -> Fields:
    """The config's fields by full name; a field that is newer than the run has its default."""
    return flatten(as_json(default.get_config())) | flatten(self.config)

  @property
  def name(self) -> str:
    """The folder's name."""
    return self.path.resolve().name

  @property
  def title(self) -> str:
    """Model and dataset, such as 'resnet18 on cifar10'."""
    return f"{self.config['model']['name']} on {self.dataset_name}"

  @property
  def dataset_name(self) -> str:
    return self.dataset.get("name", self.config["data"]["name"])

  @property
  def fell_back(self) -> bool:
    """Whether the run was trained on another dataset than the config names."""
    return self.dataset.get("requested", self.dataset_name) != self.dataset_name

  @property
  def class_names(self) -> list[str]:
    return self.dataset.get("class_names", [])

  @property
  def has_top5(self) -> bool:
    """Whether top-5 accuracy is informative, which takes more than five classes."""
    if self.class_names:
      return len(self.class_names) > 5
    return self.results.get("test_top5") != 1

  @property
  def is_tested(self) -> bool:
    """Whether the run has test figures; False while it is unfinished."""
    return "test_accuracy" in self.results

  @property
  def num_test_uses(self) -> int:
    """How often the run, and the runs whose weights it began with, used the test images."""
    return test_uses.count(self.path)

  @property
  def progress(self) -> str:
    return f"{len(self.rows)} of {self.config['num_epochs']} epochs"

  @functools.cached_property
  def selected_on(self) -> str:
    """'validation', 'test', 'training' or 'nothing', as in results.json."""
    if self.results:
      return self.results["selected_on"]
    import ml_collections  # both imports are slow, and only unfinished runs need them

    from cifar_jax.runs import results

    return results.selected_on(ml_collections.ConfigDict(self.config))

  @property
  def seed_results(self) -> list[Row]:
    """The results of each seed that has not diverged; [] while the run is unfinished."""
    if not self.results:
      return []
    diverged = self.results.get("diverged_seeds", ())
    per_seed = self.results.get("per_seed") or [self.results | {"seed": self.results["seeds"][0]}]
    return [row for row in per_seed if row["seed"] not in diverged]

  @property
  def device(self) -> str | None:
    """Number and kind of the devices, such as '1 × NVIDIA H100'."""
    device = self.results.get("device")
    return f"{device['count']} × {device['kind']}" if device else None

  @property
  def seconds(self) -> float | None:
    """Seconds of training; the seconds so far if the run is unfinished."""
    return self.results.get("seconds_to_train") or sum(self.finite_values("seconds")) or None

  def finite_values(self, metric: str) -> list[float]:
    """Return a metric of every epoch in which it was a finite number."""
    return [row[metric] for row in self.rows if row.get(metric) is not None]

  def traces(self, metric: str) -> np.ndarray:
    """Return a metric as [seeds, epochs], NaN where it was not finite; [0, 0] if it is missing."""
    if not self.rows or metric not in self.rows[0]:
      return np.zeros((0, 0))
    seed_rows = [row.get("seeds", [row]) for row in self.rows]
    return np.array([[row.get(metric) for row in rows] for rows in seed_rows], float).T


def read_record(workdir: str | os.PathLike) -> RunRecord:
  """Read the JSON files of a run folder.

  Raises:
    UserError: the folder holds no run, or a file in it is not valid.
  """
  path = epath.Path(workdir).expanduser()
  config = read_config(path)
  folder = run_folder.RunFolder(path, writer=False)
  results = folder.results() or {}
  return RunRecord(
    path,
    config,
    folder.metrics(),
    read_json_if_present(path / "dataset.json") or results.get("data", {}),
    results,
    read_json_if_present(path / "evaluation" / "evaluation.json"),
  )


def read_config(path: epath.Path) -> Row:
  """Return the config of a run, without the history fields of a continued or forked run.

  Raises:
    UserError: the folder has no config.json, or it is that of another program.
  """
  file = path / "config.json"
  config = run_folder.read_json(file, "restore it") if file.exists() else {}
  if "num_epochs" not in config:
    raise errors.UserError(
      f"{path}: not a run folder, because it has no config.json of a run; pass a run folder as "
      "--workdir"
    )
  for name in run_folder.HISTORY:
    config.pop(name, None)
  return config


def read_json_if_present(file: epath.Path) -> Row:
  """Return the JSON object in a file; {} if the file is missing."""
  return run_folder.read_json(file, "correct it, or remove it") if file.exists() else {}


def distinct_names(paths: Sequence[epath.Path]) -> list[str]:
  """Return a name for each run: the folder's name, or the path if another run has that name."""
  names = [path.resolve().name for path in paths]
  return [
    name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)
  ]
