"""Runs whose epochs are one step of a dense network, which compiles in a second."""

import contextlib
import json

import flax.linen as nn
import jax
import small_runs
from jax.experimental.compilation_cache import compilation_cache

import models
import train

FIELDS = {
  "augment": "",
  "batch_size": 1200,
  "eval_batch_size": 1800,
  "lookahead__every": 0,
  "model__name": "linear",
  "model__widths": None,
  "model__dense": None,
  "tta": "",
}


class Linear(nn.Module):
  """A dense layer with dropout, behind another one of `hidden` units if that is not 0."""

  num_classes: int
  hidden: int = 0

  @nn.compact
  def __call__(self, images, train):
    x = nn.Dropout(0.5, deterministic=not train)(images.reshape(len(images), -1))
    if self.hidden:
      x = nn.Dense(self.hidden)(x)
    return nn.Dense(self.num_classes, name="head")(x)


def register_model():
  """Make the network known as 'linear'."""
  if "linear" not in models.list_names():
    models.register("linear")(lambda num_classes, hidden=0, **common: Linear(num_classes, hidden))


@contextlib.contextmanager
def compiled_once(directory):
  """Compile each program once in this process, and keep it in a directory."""
  settings = {
    "jax_compilation_cache_dir": str(directory),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


def config(data_dir, num_epochs, **fields):
  return small_runs.config(data_dir, **FIELDS | {"num_epochs": num_epochs} | fields)


def run(data_dir, workdir, num_epochs, fork=None, **fields):
  return train.train_and_evaluate(config(data_dir, num_epochs, **fields), str(workdir), fork=fork)


def rows_of(workdir):
  """Return the rows of metrics.jsonl, without times."""
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


STEPS_AND_PLATEAU = {
  "schedule": {"name": "step", "boundaries": (1, 3)},
  "plateau__monitor": "val_loss",
  "plateau__patience": 1,
  "plateau__min_delta": 9.0,  # nothing improves
  "plateau__factor": 0.5,
  "ema_decay": 0.9,
}
