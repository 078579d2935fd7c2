"""Train trials that differ only in seeds and numbers together, in one program.

A group of trials is one run, like a run with several seeds, in <sweep>/together/<key>. If the run
is stopped, it resumes from there. When it is done, each trial gets the run folder that it would
have had alone, and the group's folder is removed. Metrics agree, to float tolerance, with those of
trials that are trained one after the other.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from etils import epath
from flax import linen as nn

import train
from cifar_jax import errors
from cifar_jax.config import flatten
from cifar_jax.optim import optimizers, schedules
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.runtime.console import log
from cifar_jax.training import compiled_steps, steps
from cifar_jax.types import Batch, Metrics, Variables
from configs.sweeps import Sweep
from experiment import Experiment, resolve
from tuning import trial_folders
from tuning.trials import Trial, set_field

# The numbers that may differ between the trials of a group.
_NUMERIC_FIELDS = (
  "optimizer.learning_rate",
  "optimizer.weight_decay",
  "optimizer.momentum",
  "loss.label_smoothing",
)


# --- Groups --------------------------------------------------------------------------------------


def max_group_size(sweep: Sweep) -> int:
  """Return the largest number of a sweep's trials that may train together."""
  if jax.process_count() > 1 or sweep.pruner or sweep.space:
    return 1
  return sweep.at_once or (1 if jax.default_backend() == "cpu" else sys.maxsize)


def group_trials(
  trials: Sequence[Trial], folder: epath.Path, at_once: int
) -> Iterator[list[Trial]]:
  """Yield the trials in groups that train together; groups that were started before come first.

  Args:
    trials: the unfinished trials.
    folder: the sweep's folder.
    at_once: the largest number in a group.
  """
  by_name = {trial.name: trial for trial in trials}
  for file in sorted((folder / "together").glob("*/trials.json")):
    names = json.loads(file.read_text())
    members = [by_name[name] for name in names if name in by_name]
    if members and _digest(members) == file.parent.name:
      for trial in members:
        del by_name[trial.name]
      yield members
  by_key: dict[str, list[Trial]] = {}
  for trial in by_name.values():
    is_started = (trial.path / "config.json").exists()  # it resumes from its checkpoint, alone
    key = trial.name if is_started else _group_key(trial.config)
    by_key.setdefault(key, []).append(trial)
  for members in by_key.values():
    for start in range(0, len(members), at_once):
      yield members[start : start + at_once]


def folder_of(trials: Sequence[Trial], folder: epath.Path) -> epath.Path:
  """Return the folder of a group, which is unique to its trials, their configs and their order."""
  return folder / "together" / _digest(trials)


def _group_key(config: ml_collections.ConfigDict) -> str:
  """Return a string that is equal for trials that can train together."""
  fields = flatten(config)
  # stop_on_spike uses the mean loss of all seeds, which has no meaning for trials. A proxy's
  # optimizer takes no traced numbers.
  if config.num_seeds == 1 and not config.stop_on_spike.factor and not config.proxy.keep:
    del fields["seed"]
    # A plateau's min_lr is a multiple of the first rate, and a program has only one first rate.
    has_min_lr = config.plateau.monitor and config.plateau.min_lr
    for name in _NUMERIC_FIELDS[1:] if has_min_lr else _NUMERIC_FIELDS:
      value = fields.get(name)
      if isinstance(value, int | float) and not isinstance(value, bool):
        # An optimizer without momentum has no velocity in its state.
        fields[name] = value > 0 if name == "optimizer.momentum" else "any"
  return json.dumps(fields, sort_keys=True, default=repr)


def _digest(trials: Sequence[Trial]) -> str:
  description = json.dumps([[trial.name, flatten(trial.config)] for trial in trials], default=repr)
  return hashlib.sha256(description.encode()).hexdigest()[:16]


# --- Training ------------------------------------------------------------------------------------


def train_together(trials: Sequence[Trial], folder: epath.Path) -> bool:
  """Train a group; write the run folder of each trial whose loss stayed finite.

  Args:
    folder: the sweep's folder.

  Returns:
    False if there is too little memory.

  Raises:
    UserError: the group cannot be trained; its trials may still train alone.
    Interrupted: SIGTERM or SIGINT was received; the state is saved.
  """
  path = folder_of(trials, folder)
  path.mkdir(parents=True, exist_ok=True)
  (path / ".trials.json.tmp").write_text(json.dumps([trial.name for trial in trials]))
  (path / ".trials.json.tmp").replace(path / "trials.json")
  configs = [resolve(trial.config) for trial in trials]
  group_config = configs[0].copy_and_resolve_references()
  group_config.num_seeds = len(trials)
  log.info("%d trials together: %s", len(trials), ", ".join(trial.name for trial in trials))
  try:
    results = train.train_and_evaluate(
      group_config,
      str(path),
      lambda config: TogetherExperiment(config, configs),
      evaluate_test=False,
    )
  except jax.errors.JaxRuntimeError as error:
    if not errors.is_out_of_memory(error) or RunFolder(path, writer=False).metrics():
      raise
    path.rmtree()
    return False
  for i, (trial, config) in enumerate(zip(trials, configs, strict=True)):
    if RunFolder(trial.path, writer=False).results() is None:
      trial_folders.write_run(path, results, i, trial, config)
  path.rmtree()
  return True


class TogetherState(steps.TrainState, kw_only=True):
  """A training state that also holds the trial's numbers, by full field name."""

  numbers: dict[str, jax.Array]


class _Parts(NamedTuple):
  """The parts of an experiment that depend on a trial's numbers."""

  config: ml_collections.ConfigDict
  schedule: schedules.Schedule
  tx: optax.GradientTransformation


class TogetherExperiment(Experiment):
  """The experiment of several trials in one program, in which trials take the place of seeds.

  Args:
    config: the config of the first trial, with num_seeds set to the number of trials.
    configs: the resolved config of each trial; they differ in `seed` and in _NUMERIC_FIELDS only.
  """

  def __init__(self, config: ml_collections.ConfigDict, configs: list[ml_collections.ConfigDict]):
    super().__init__(config)
    self.seeds = [trial.seed for trial in configs]
    fields = [flatten(trial) for trial in configs]
    columns = {name: [f[name] for f in fields] for name in _NUMERIC_FIELDS if name in fields[0]}
    # Creating the parts checks the ranges of concrete numbers; those of traced ones are unknown.
    trial_parts = [
      self._parts({name: column[i] for name, column in columns.items()})
      for i in range(len(configs))
    ]
    self.schedule = lambda step: jnp.stack([parts.schedule(step) for parts in trial_parts])
    self._numbers = {
      name: jnp.array(column, jnp.float32)
      for name, column in columns.items()
      if len(set(column)) > 1
    }
    self.tx = self._parts({name: column[0] for name, column in self._numbers.items()}).tx

  def init(self, weights: Variables | None = None) -> TogetherState:
    """Return the state before the first step; every leaf has a leading axis of trials."""
    state = super().init(weights)
    return TogetherState(**{**vars(state), "numbers": self._numbers})

  def train_step(
    self, model: nn.Module
  ) -> Callable[[steps.TrainState, Batch], tuple[steps.TrainState, Metrics]]:
    """Return the training step of one trial, which takes its numbers from the state."""

    def step(state: steps.TrainState, batch: Batch) -> tuple[steps.TrainState, Metrics]:
      assert isinstance(state, TogetherState)
      parts = self._parts(state.numbers)
      return steps.make_train_step(
        parts.config, model, parts.tx, compiled_steps.AXIS, self.total_steps
      )(state, batch)

    return step

  def _parts(self, numbers: dict[str, Any]) -> _Parts:
    """Return the parts of a trial with these numbers, which may be traced."""
    config = self.config.copy_and_resolve_references()
    with config.ignore_type():
      for name, value in numbers.items():
        set_field(config, name, value)
    schedule = schedules.create(
      config.schedule, config.optimizer.learning_rate, self.steps_per_epoch, self.total_steps
    )
    tx = optimizers.create(config.optimizer, schedule, self.steps_per_epoch)
    return _Parts(config, schedule, tx)
