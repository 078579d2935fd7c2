"""Targets of fuzz.py that hold no files: the fields of a config, and the flags of every mode.

A config gets up to three wrong values: of another type, out of range, NaN, huge, empty, in another
script. It is then read up to the first compilation, with shapes in place of arrays. Nothing is
trained or downloaded, and sizes whose only fault is that they take long are not drawn.
"""

import contextlib
import io
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NoReturn
from unittest import mock

import jax
import ml_collections
import numpy as np

import models
import modes
import train
from analysis.run import Run
from benchmarks.robustness import fuzz_runs
from benchmarks.robustness.fuzz_damage import Target
from benchmarks.robustness.fuzz_fields import (
  ALL_FIELDS,
  OPTIONS,
  TRACED_FIELDS,
  Changes,
  draw_calls,
  draw_changes,
)
from cifar_jax import errors
from cifar_jax.augment import chain
from cifar_jax.config import METRICS, check_config
from cifar_jax.data import datasets, download, fetch
from cifar_jax.optim import optimizers, schedules
from cifar_jax.runs import plots
from cifar_jax.training import callbacks
from configs import default
from experiment import Experiment
from trust import processes
from tuning import lr_range
from tuning.trials import set_field

_PATHS = ("data.dir", "data.source", "model.pretrained")
_SMALL_RUN = {"data.name": "digits", "dtype": "float32", "num_epochs": 2, "batch_size": 64}
_SMALL = _SMALL_RUN | {"model.name": "simple_cnn", "model.widths": (2,), "model.dense": ()}


def config_targets(folder: pathlib.Path) -> list[Target]:
  """Return the targets for configs: one checks them, the other builds them as for training."""
  datasets.prepare("digits", str(folder / "data"))

  def check(changes: Changes) -> None:
    config = _make_config(folder, changes)
    check_config(config, default.get_config())
    _create_parts(config)

  def build(changes: Changes) -> None:
    with _offline(), contextlib.chdir(folder), contextlib.suppress(_Trains):
      train.train_and_evaluate(_make_config(folder, changes), str(folder / "run"))
      raise AssertionError("it trained")

  intact: list[Changes] = [{"optimizer.name": "adam"}, {"model.depth": None}]
  return [
    Target("config, to check", draw_changes(ALL_FIELDS), intact, check),
    Target("config, to train", draw_changes(TRACED_FIELDS), intact[:1], build),
  ]


def mode_target(folder: pathlib.Path, run: pathlib.Path) -> Target:
  """Return the target for the flags of every mode.

  run: the folder of a finished run, which is copied for each call.
  """

  def call(drawn: dict[str, Any]) -> None:
    workdir = folder / "workdir"
    shutil.rmtree(workdir, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    if drawn["mode"] not in ("train", "lr_range", "sweep"):
      shutil.copytree(run, workdir)
    config = _make_config(folder.parent, drawn["changes"])
    mode = modes.MODES[drawn["mode"]]
    paths = [str(folder / _as_name(text)) for text in drawn["paths"]] if mode.takes_paths else []
    workdirs = [str(workdir), *(str(folder / _as_name(text)) for text in drawn["workdirs"])]
    if drawn["mode"] == "models":  # paths are patterns here; all networks would take 15 seconds
      paths = [*drawn["paths"], "lenet*"]
    files = {name: _as_name(drawn["options"][name]) for name in ("picture", "output")}
    options = drawn["options"] | files
    if ".py" in options["sweep"]:  # a file would be executed
      raise errors.UserError("--sweep: not tried")
    with (
      _offline(),
      contextlib.chdir(folder),
      fuzz_runs.charts_without_pixels(),
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.suppress(_Trains),
    ):
      num_workdirs = len(workdirs) if mode.takes_workdirs else int(mode.needs_workdir)
      mode.run(modes.Call(config, workdirs[:num_workdirs], paths, options))

  intact: list[dict[str, Any]] = [
    {"mode": mode, "changes": {}, "paths": [], "workdirs": [], "options": OPTIONS}
    for mode in ("summary", "prepare", "lr_range", "sweep")
  ]
  return Target("flags", draw_calls(), intact, call)


def _as_name(text: str) -> str:
  """Return a text as the name of a file, which stays in its folder."""
  return text.replace("/", "_").replace("~", "_")


def _make_config(folder: pathlib.Path, changes: Changes) -> ml_collections.ConfigDict:
  """Return the config of a small run with changes, as a file of configs/ may make them."""
  config = default.get_config()
  small = {"data.dir": str(folder / "data")} | (
    _SMALL if changes.get("model.name", "simple_cnn") == "simple_cnn" else _SMALL_RUN
  )
  for name, value in (small | changes).items():
    if name in _PATHS and isinstance(value, str) and name in changes and value:
      value = str(folder / _as_name(value))
    try:
      set_field(config, name, value)
    except errors.UserError:
      raise
    except Exception as error:  # in a config file; main.py says that it cannot be loaded
      raise errors.UserError(f"--config: cannot be loaded ({error})") from error
  return config


# --- How far an input is read --------------------------------------------------------------------


class _Trains(Exception):
  """The input was read up to the first compilation."""


def _create_parts(config: ml_collections.ConfigDict) -> None:
  """Create the parts that need no dataset."""
  model = models.create(config.model, 10)
  schedule = schedules.create(config.schedule, config.optimizer.learning_rate, 10, 100)
  optimizers.create(config.optimizer, schedule, 10)
  callbacks.Callbacks(config)
  chain.parse(config.augment)
  hash(model)


def _trace(experiment: Experiment) -> NoReturn:
  """Trace a step of training and evaluation, and the updates between epochs."""
  init = experiment.over_seeds(experiment._init, (0, None, None))
  state = jax.eval_shape(init, experiment.seed_array(), experiment._init_images(), None)
  compiled = experiment.compile_steps()
  compiled._remedies = {}  # a comparison with the device's memory would compile
  jax.eval_shape(experiment.schedule, np.int32(0))
  (pair,) = experiment.train_shards(0, [1])
  jax.eval_shape(lambda state: compiled.train(1, state, *pair), state)
  control = callbacks.Callbacks(experiment.config)
  metrics = {name: np.zeros(experiment.seed_array().shape) for name in METRICS}
  control_state = experiment.over_seeds(lambda _: control.init())(experiment.seed_array())
  jax.eval_shape(experiment.over_seeds(control.update, (0, None, 0)), control_state, 0, metrics)
  raise _Trains


@contextlib.contextmanager
def _offline() -> Iterator[None]:
  """Stop before anything is trained, drawn or downloaded."""

  def refuse(*_: Any) -> NoReturn:
    raise fetch.Failed("no connection")

  def trace_trainer(experiment: Experiment, *_: Any) -> NoReturn:
    _trace(experiment)

  def stop(*_: Any) -> NoReturn:
    raise _Trains

  with (
    mock.patch.object(download, "download_file", refuse),
    mock.patch.object(fetch, "npm_pack", refuse),
    mock.patch.object(train, "Trainer", trace_trainer),
    mock.patch.object(lr_range, "_train", trace_trainer),
    mock.patch.object(processes, "_started", stop),
    mock.patch.object(processes, "describe_environment", stop),
    mock.patch.object(Run, "logits", stop),
    mock.patch.object(plots, "figure", stop),  # drawing takes seconds
  ):
    yield
