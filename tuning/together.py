"""Trials that differ only in seeds and in numbers, trained together in one program.

A group is one run, as of several seeds, in a folder of its own, <sweep>/together/<key>: stopped, it
resumes there. When it is done, each trial gets the run folder that it would have had alone, and the
group's is removed. Figures agree with those of trials one after the other to float tolerance.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from etils import epath

import train
from cifar_jax.config import flatten
from cifar_jax.optim import optimizers, schedules
from cifar_jax.runs import checkpoints, plots
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.runtime.console import log
from cifar_jax.training import compiled_steps, steps
from cifar_jax.training.controls import Controls
from experiment import Experiment, resolve
from tuning.trials import Trial, set_field

PyTree = Any
_NUMBERS = (
  "optimizer.learning_rate",
  "optimizer.weight_decay",
  "optimizer.momentum",
  "loss.label_smoothing",
)


def share(trials: Sequence[Trial], index: int, count: int) -> list[Trial]:
  """The trials of task `index` of `count`: of every kind that trains together as many, nearly."""
  kinds = [_shared(trial.config) for trial in trials]
  by_kind = sorted(range(len(trials)), key=lambda i: (kinds.index(kinds[i]), i))
  return [trials[i] for i in sorted(by_kind[index::count])]


def groups(trials: Sequence[Trial], folder: epath.Path, at_once: int) -> Iterator[list[Trial]]:
  """The trials in groups that train together: first those under way, then the rest.

  Args:
    trials: those that have not finished.
    folder: the sweep's.
    at_once: as in configs.sweeps.Sweep.
  """
  if jax.process_count() > 1:
    at_once = 1
  elif not at_once:
    at_once = 1 if jax.default_backend() == "cpu" else len(trials)
  by_name = {trial.name: trial for trial in trials}
  for file in sorted((folder / "together").glob("*/trials.json")):
    names = json.loads(file.read_text())
    members = [by_name[name] for name in names if name in by_name]
    if members and _key(members) == file.parent.name:
      for trial in members:
        del by_name[trial.name]
      yield members
  alike: dict[str, list[Trial]] = {}
  for trial in by_name.values():
    alone = (trial.path / "config.json").exists()  # and has a checkpoint of its own to go on from
    alike.setdefault(trial.name if alone else _shared(trial.config), []).append(trial)
  for members in alike.values():
    for start in range(0, len(members), at_once):
      yield members[start : start + at_once]


def train_together(trials: Sequence[Trial], folder: epath.Path) -> bool:
  """Trains a group and leaves a run folder of each trial, but of those whose loss became NaN.

  Returns:
    False if there is too little memory.

  Raises:
    UserError: the group cannot be trained, though its trials perhaps can.
    Interrupted: SIGTERM or SIGINT came; the state is saved.
  """
  path = folder_of(trials, folder)
  path.mkdir(parents=True, exist_ok=True)
  (path / ".trials.json.tmp").write_text(json.dumps([trial.name for trial in trials]))
  (path / ".trials.json.tmp").replace(path / "trials.json")
  configs = [resolve(trial.config) for trial in trials]
  whole = configs[0].copy_and_resolve_references()
  whole.num_seeds = len(trials)
  log.info("%d trials together: %s", len(trials), ", ".join(trial.name for trial in trials))
  try:
    found = train.train_and_evaluate(
      whole, str(path), lambda config: TogetherExperiment(config, configs)
    )
  except jax.errors.JaxRuntimeError as error:
    if not is_out_of_memory(error) or RunFolder(path, writer=False).metrics():
      raise
    path.rmtree()
    return False
  for i, (trial, config) in enumerate(zip(trials, configs, strict=True)):
    if RunFolder(trial.path, writer=False).results() is None:
      _write_run(path, found, i, trial, config)
  path.rmtree()
  return True


def folder_of(trials: Sequence[Trial], folder: epath.Path) -> epath.Path:
  """Where a group trains: a folder for these trials, in this order, with these configs."""
  return folder / "together" / _key(trials)


def is_out_of_memory(error: Exception) -> bool:
  return "RESOURCE_EXHAUSTED" in str(error)


class TogetherState(steps.TrainState, kw_only=True):
  """With the trial's numbers, by the names of their fields."""

  numbers: dict[str, jax.Array]


class TogetherExperiment(Experiment):
  """The parts of several trials at once: what are several seeds elsewhere are the trials here.

  Args:
    config: of the first trial, with num_seeds the number of trials.
    configs: of each trial, resolved; they differ in `seed` and in some of _NUMBERS only.
  """

  def __init__(self, config: ml_collections.ConfigDict, configs: list[ml_collections.ConfigDict]):
    super().__init__(config)
    self.seeds = [trial.seed for trial in configs]
    fields = [flatten(trial) for trial in configs]
    table = {name: [f[name] for f in fields] for name in _NUMBERS if name in fields[0]}
    # Made of plain numbers, which are checked, where traced ones could not be.
    plain = [
      self._with({name: column[i] for name, column in table.items()}) for i in range(len(configs))
    ]
    self.schedule = lambda step: np.stack([schedule(step) for _, schedule, _ in plain])
    self._numbers = {
      name: jnp.array(column, jnp.float32) for name, column in table.items() if len(set(column)) > 1
    }
    _, _, self.tx = self._with({name: column[0] for name, column in self._numbers.items()})

  def init(self, weights: PyTree = None) -> TogetherState:
    state = super().init(weights)
    return TogetherState(**{**vars(state), "numbers": self._numbers})

  def train_step(self, model: Any) -> Callable[[TogetherState, dict], tuple[TogetherState, dict]]:
    def step(state: TogetherState, batch: dict) -> tuple[TogetherState, dict]:
      config, _, tx = self._with(state.numbers)
      return steps.make_train_step(config, model, tx, compiled_steps.AXIS, self.total_steps)(
        state, batch
      )

    return step

  def _with(
    self, numbers: dict[str, Any]
  ) -> tuple[ml_collections.ConfigDict, schedules.Schedule, optax.GradientTransformation]:
    """Config, schedule and optimizer of a trial with these numbers, which may be traced."""
    config = self.config.copy_and_resolve_references()
    with config.ignore_type():
      for name, value in numbers.items():
        set_field(config, name, value)
    schedule = schedules.create(
      config.schedule,
      config.optimizer.learning_rate,
      self.steps_per_epoch,
      self.total_steps,
    )
    tx = optimizers.create(config.optimizer, schedule, self.steps_per_epoch)
    return config, schedule, tx


def _shared(config: ml_collections.ConfigDict) -> str:
  """What trials must have in common to train together."""
  fields = flatten(config)
  # A loss spike ends a run by the mean of its seeds, which is nobody's when they are trials; and a
  # proxy's optimizer has no traced numbers.
  if config.num_seeds == 1 and not config.stop_on_spike.factor and not config.proxy.keep:
    del fields["seed"]
    # The lowest rate of a plateau is a part of the first, which one program knows only once.
    bounded = config.plateau.monitor and config.plateau.min_lr
    for name in _NUMBERS[1:] if bounded else _NUMBERS:
      value = fields.get(name)
      if isinstance(value, int | float) and not isinstance(value, bool):
        # Without momentum an optimizer has no velocity.
        fields[name] = value > 0 if name == "optimizer.momentum" else "any"
  return json.dumps(fields, sort_keys=True, default=repr)


def _key(trials: Sequence[Trial]) -> str:
  told = json.dumps([[trial.name, flatten(trial.config)] for trial in trials], default=repr)
  return hashlib.sha256(told.encode()).hexdigest()[:16]


def _write_run(
  group: epath.Path,
  found: dict[str, Any],
  i: int,
  trial: Trial,
  config: ml_collections.ConfigDict,
) -> None:
  """Makes the run folder of the i-th trial of a finished group, unless its loss became NaN.

  There is no checkpoints/latest, for nothing is left to resume.
  """
  rows = [_row_of_one(row, i) for row in RunFolder(group, writer=False).metrics()]
  rows = rows[: _epochs_run(config, rows)]
  own = dict(found["per_seed"][i])
  if not own["best_epoch"] or any(row["train_loss"] is None for row in rows):
    return
  if trial.path.exists():
    trial.path.rmtree()  # what a stop in the midst of this left
  folder = RunFolder(trial.path)
  with folder.locked():
    folder.write_config(config)
    folder.write_dataset(found["data"])
    folder.write_metrics(rows)
    _, best = checkpoints.read_best(group)
    store = checkpoints.Checkpoints(trial.path)
    variables = jax.tree.map(lambda leaf: leaf[i], best)
    store.save_best(rows[own["best_epoch"] - 1]["step"], variables)
    store.close()
    folder.write_scalars(rows)
    folder.close()
    title = f"{found['model']} on {found['data']['name']}"
    plots.learning_curves(rows, title, trial.path / "plots" / "learning_curves.png")
    seed, best_epoch = own.pop("seed"), own.pop("best_epoch")
    rest = {
      name: value
      for name, value in found.items()
      if name != "per_seed" and not name.startswith(("test_", "val_", "train_"))
    }
    rest |= {"seeds": [seed], "epochs_run": len(rows), "trained_together": len(found["seeds"])}
    folder.write_results(own | {"best_epoch": best_epoch} | rest)


def _row_of_one(row: dict[str, Any], i: int) -> dict[str, Any]:
  """A trial's row of metrics.jsonl; its images are counted, its seconds are everyone's."""
  own = {name: value for name, value in row["seeds"][i].items() if name != "seed"}
  return {
    "step": row["step"],
    "epoch": row["epoch"],
    **own,
    "images_per_second": row["images_per_second"] / len(row["seeds"]),
    "seconds": row["seconds"],
  }


def _epochs_run(config: ml_collections.ConfigDict, rows: list[dict[str, Any]]) -> int:
  """The epochs until the trial stopped early, while others of its group went on."""
  controls = Controls(config)
  update, state = jax.jit(controls.update), controls.init()
  for epoch, row in enumerate(rows):
    values = {name: np.float32(np.nan if v is None else v) for name, v in row.items()}
    state = update(state, epoch, values)
    if controls.stopped(state):
      return epoch + 1
  return len(rows)
