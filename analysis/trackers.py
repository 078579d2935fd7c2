"""Clients of trackers behind one interface: `--mode=sync --to=NAME`.

The clients are optional packages, imported when they are used. Their own environment variables set
where they send to: WANDB_MODE=offline, MLFLOW_TRACKING_URI, and so on.
"""

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from cifar_jax import errors
from cifar_jax.config import Fields
from cifar_jax.runs.tensorboard import EventWriter
from cifar_jax.types import Row

Values = Mapping[str, float]


class Tracker(Protocol):
  """A run in a tracker.

  Attributes:
    run_id: the run's identifier in the tracker, by which another process finds it again.
  """

  run_id: str

  def log(self, row: Row) -> None:
    """Send a row of metrics.jsonl."""

  def finish(self, results: Values, pictures: Sequence[epath.Path]) -> None:
    """Send the figures of results.json and the pictures, and mark the run as finished."""

  def close(self) -> None:
    """Send what is still waiting, and leave the run unfinished."""


# Arguments: the name of the run, the config's fields, the destination ('' for the default), and the
# run's id in the tracker, None for a new run.
Opener = Callable[[str, Fields, str, str | None], Tracker]


def numbers(row: Row) -> dict[str, float]:
  """Return the numbers of a row by name; those of several seeds as 'seed_3/val_loss'."""
  values = {name: v for name, v in row.items() if _is_number(v) and name not in ("step", "seed")}
  for seed_row in row.get("seeds", ()):
    if isinstance(seed_row, dict):
      prefix = f"seed_{seed_row['seed']}"
      values |= {f"{prefix}/{name}": value for name, value in numbers(seed_row).items()}
  return values


def _is_number(value: object) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


class _Wandb:
  """Weights & Biases."""

  def __init__(self, name: str, fields: Fields, destination: str, run_id: str | None):
    self._wandb: Any = _import("wandb")
    self._run = self._wandb.init(
      project=destination or None, name=name, config=fields, id=run_id, resume="allow"
    )
    self.run_id = self._run.id

  def log(self, row: Row) -> None:
    self._run.log(numbers(row), step=row["step"])

  def finish(self, results: Values, pictures: Sequence[epath.Path]) -> None:
    self._run.summary.update(dict(results))
    images = {f"plots/{path.stem}": self._wandb.Image(str(path)) for path in pictures}
    if images:
      self._run.log(images)
    self._run.finish()

  def close(self) -> None:
    self._run.finish()


class _Trackio:
  """Trackio, whose runs are found by name in their project."""

  def __init__(self, name: str, fields: Fields, destination: str, run_id: str | None):
    self._trackio: Any = _import("trackio")
    self.run_id = run_id or name
    self._run = self._trackio.init(
      project=destination or "cifar-jax",
      name=self.run_id,
      config=fields,
      resume="allow",
      embed=False,
      auto_log_gpu=False,
      auto_log_cpu=False,
    )

  def log(self, row: Row) -> None:
    self._run.log(numbers(row), step=row["step"])

  def finish(self, results: Values, pictures: Sequence[epath.Path]) -> None:
    images = {f"plots/{path.stem}": self._trackio.Image(str(path)) for path in pictures}
    self._run.log({f"results/{name}": value for name, value in results.items()} | images)
    self._run.finish()

  def close(self) -> None:
    self._run.finish()


class _Mlflow:
  """MLflow; the destination is the experiment."""

  _MOST_PARAMETERS = 100  # per request
  _LONGEST_VALUE = 500  # characters of a parameter, in the oldest servers

  def __init__(self, name: str, fields: Fields, destination: str, run_id: str | None):
    self._mlflow: Any = _import("mlflow")
    self._client = self._mlflow.MlflowClient()
    if run_id is None:
      experiment = self._client.get_experiment_by_name(destination or "cifar-jax")
      if experiment is None:
        experiment_id = self._client.create_experiment(destination or "cifar-jax")
      else:
        experiment_id = experiment.experiment_id
      run_id = self._client.create_run(experiment_id, run_name=name).info.run_id
      self._send_config(run_id, fields)
    else:
      self._client.update_run(run_id, status="RUNNING")
    self.run_id: str = run_id
    self._step = 0

  def _send_config(self, run_id: str, fields: Fields) -> None:
    entities = self._mlflow.entities
    parameters = [
      entities.Param(name, str(value)[: self._LONGEST_VALUE]) for name, value in fields.items()
    ]
    for start in range(0, len(parameters), self._MOST_PARAMETERS):
      self._client.log_batch(run_id, params=parameters[start : start + self._MOST_PARAMETERS])

  def log(self, row: Row) -> None:
    self._step = row["step"]
    self._send(numbers(row), self._step)

  def _send(self, values: Values, step: int) -> None:
    now = int(1000 * time.time())
    metrics = [self._mlflow.entities.Metric(n, float(v), now, step) for n, v in values.items()]
    self._client.log_batch(self.run_id, metrics=metrics)

  def finish(self, results: Values, pictures: Sequence[epath.Path]) -> None:
    self._send({f"results/{name}": value for name, value in results.items()}, self._step)
    for path in pictures:
      self._client.log_artifact(self.run_id, str(path), "plots")
    self._client.set_terminated(self.run_id, "FINISHED")

  def close(self) -> None:
    pass


class _TensorBoard:
  """TensorBoard events in another folder, which may be on gs://.

  Each sync writes all rows again, after a mark that makes TensorBoard drop the older events.
  """

  def __init__(self, name: str, fields: Fields, destination: str, run_id: str | None):
    if not destination:
      raise errors.UserError(
        "--destination: missing; name the folder of the events, such as gs://bucket/logs"
      )
    self.run_id = run_id or name
    self._writer = EventWriter(epath.Path(destination) / self.run_id)
    self._fields, self._rows = fields, list[Row]()

  def log(self, row: Row) -> None:
    values = numbers(row)
    self._rows.append({"step": row["step"], **values})
    self._writer.write(self._rows)
    if len(self._rows) == 1:
      table = "\n".join(f"    {name} = {value!r}" for name, value in self._fields.items())
      self._writer.add_text(row["step"], "config", table)

  def finish(self, results: Values, pictures: Sequence[epath.Path]) -> None:
    step = self._rows[-1]["step"]
    self._rows.append({"step": step} | {f"results/{name}": v for name, v in results.items()})
    self._writer.write(self._rows)
    for path in pictures:
      self._writer.add_picture(step, f"plots/{path.stem}", path.read_bytes())
    self.close()

  def close(self) -> None:
    self._writer.close()


TRACKERS: dict[str, Opener] = {
  "wandb": _Wandb,
  "mlflow": _Mlflow,
  "trackio": _Trackio,
  "tensorboard": _TensorBoard,
}
# Trackers to which every sync sends all rows again.
REPLAYED = ("tensorboard",)


def _import(package: str) -> Any:
  """Import a tracker's client; raise UserError if it is not installed."""
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise errors.UserError(
      f"--to: {package} is not installed ({error}); run `pip install {package}`"
    ) from error


@contextlib.contextmanager
def reporting(name: str) -> Iterator[None]:
  """Convert any error of a client into a one-line `UserError`."""
  try:
    yield
  except errors.UserError:
    raise
  except Exception as error:  # each client has its own exceptions
    raise errors.UserError(
      f"--to: {name} failed ({type(error).__name__}: {errors.first_line(error)}); fix this, then "
      "rerun the same command to continue"
    ) from error
