"""A run compiles everything in its first epoch."""

import logging

import jax
import pytest
import small_runs

import train
from cifar_jax.runtime import console

_COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def events(monkeypatch):
  """What happens in a run, in order: 'compiled' for each program, and each line that is logged."""
  seen: list[str] = []

  def on_duration(name: str, seconds: float, **_: object) -> None:
    del seconds
    if name == _COMPILED:
      seen.append("compiled")

  handler = logging.Handler()
  handler.emit = lambda record: seen.append(record.getMessage())
  monkeypatch.setattr(console.log, "handlers", [handler])
  level = console.log.level
  console.log.setLevel(logging.INFO)
  jax.monitoring.register_event_duration_secs_listener(on_duration)
  yield seen
  jax.monitoring.unregister_event_duration_listener(on_duration)
  console.log.setLevel(level)


def test_nothing_is_compiled_after_the_first_epoch(tmp_path, events):
  # Validation and test examples differ in number, and neither is a multiple of the batch. Test-time
  # augmentation, a program of its own, is wanted at the end alone.
  fields = {"plateau.monitor": "val_loss", "plateau.patience": 1, "tta": ""}
  config = small_runs.config(tmp_path / "data", num_epochs=3, **fields)
  train.train_and_evaluate(config, str(tmp_path / "run"))
  epochs = [i for i, event in enumerate(events) if "train loss" in event]
  assert len(epochs) == 3
  assert "compiled" in events[: epochs[0]]
  assert "compiled" not in events[epochs[0] :]
