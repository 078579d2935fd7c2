"""Programs of several steps; a run compiles everything in its first epoch."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

import train
from cifar_jax.runtime import console
from cifar_jax.training import compiled_steps, steps
from cifar_jax.types import ResidentData, TrainShard

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


@pytest.mark.usefixtures("quick_compilation")
def test_nothing_is_compiled_after_the_first_epoch(tmp_path, events):
  # Validation and test examples differ in number, and neither is a multiple of the batch. Test-time
  # augmentation, a program of its own, is wanted at the end alone.
  fields = {"plateau.monitor": "val_loss", "plateau.patience": 1}
  config = small_runs.config(tmp_path / "data", num_epochs=3, **fields)
  train.train_and_evaluate(config, str(tmp_path / "run"))
  epochs = [i for i, event in enumerate(events) if "train loss" in event]
  assert len(epochs) == 3
  assert "compiled" in events[: epochs[0]]
  assert "compiled" not in events[epochs[0] :]


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_a_program_for_any_number_of_steps_takes_the_same_steps(num_seeds):
  def train_step(state, batch):
    loss = batch + state.params
    metrics = dict.fromkeys(("loss", "penalty", "correct", "top5", "examples"), loss)
    return state.replace(step=state.step + 1, params=state.params * 1.5 + batch), metrics

  def make(has_varying_counts):
    return compiled_steps.CompiledSteps(
      train_step,
      None,
      lambda key, step, shard, resident: resident.order[step].astype(jnp.float32),
      None,
      num_seeds,
      steps_per_epoch=7,
      has_varying_counts=has_varying_counts,
    )

  zero = jnp.zeros(())
  state = steps.TrainState(
    step=jnp.int32(0), params=zero, batch_stats={}, opt_state=(), average=None, slow=None,
    lr_scale=zero, sums=steps.Sums.zero(), key=jnp.zeros(2, jnp.uint32),
  )  # fmt: skip
  order = jnp.arange(1, 8)
  if num_seeds > 1:
    state, order = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), (state, order))
  shard = TrainShard(np.zeros((jax.local_device_count(), 1), np.int32))
  resident = ResidentData(order=compiled_steps.replicate(order))
  copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))  # a buffer is donated only once
  one_program, several = make(True), make(False)
  results = []
  for compiled in (one_program, several):
    trained, losses = copy(compiled_steps.replicate(state)), []
    for count in (4, 3):
      trained, loss = compiled.train(count, trained, shard, resident)
      losses.append(np.asarray(loss))
    results.append((jax.device_get(trained), losses))
  jax.tree.map(np.testing.assert_array_equal, *results)
  assert np.all(results[0][0].step == 7) and np.all(results[0][1][-1] > 7)
  assert (len(one_program._compiled), len(several._compiled)) == (1, 2)
