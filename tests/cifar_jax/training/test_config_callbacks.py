"""What a config makes of the callbacks, for one seed and for several at once."""

import jax
import numpy as np
import pytest

from cifar_jax import errors
from cifar_jax.training import callbacks
from configs import default


def make(**fields):
  config = default.get_config()
  for name, value in fields.items():
    *parents, leaf = name.split("__")
    section = config[parents[0]] if parents else config
    section[leaf] = value
  return callbacks.Callbacks(config)


def run(control, values, vmapped=False):
  """The state after each epoch of `values`, by monitor."""
  init, update = control.init(), control.update
  if vmapped:
    seeds = len(next(iter(values.values()))[0])
    init = jax.vmap(lambda _: control.init())(np.arange(seeds))
    update = jax.vmap(update, in_axes=(0, None, 0))
  states, state = [], init
  for epoch in range(len(next(iter(values.values())))):
    metrics = {name: np.float32(value[epoch]) for name, value in values.items()}
    state = update(state, epoch, metrics)
    states.append(state)
  return states


def test_without_a_monitor_the_last_epoch_is_selected():
  control = make(select__monitor="")
  states = run(control, {"val_accuracy": [0.9, 0.1, 0.2]})
  assert [control.best_epochs(s) for s in states] == [[1], [2], [3]]
  control = make(select__monitor="", select__mode="min")
  assert control.best_epochs(run(control, {"val_loss": [0.1, 0.2, 0.3]})[-1]) == [3]


def test_nothing_stops_or_scales_unless_asked():
  control = make()
  state = run(control, {"val_accuracy": [0.5] * 40})[-1]
  assert not control.is_stopped(state) and control.lr_scale(state) == 1
  assert control.best_epochs(state) == [1]


def test_early_stopping_must_not_end_with_lookaheads_fast_weights():
  pair = {"lookahead__every": 5, "early_stopping__monitor": "train_loss"}
  with pytest.raises(errors.UserError, match=r"^early_stopping\.monitor: a run that stops early"):
    make(**pair, select__monitor="")
  make(**pair)  # the selected epoch is tested
  make(**pair, select__monitor="", ema_decay=0.99)  # the moving average is tested
  for missing in pair:
    make(**{name: pair[name] for name in pair if name != missing}, select__monitor="")


def test_the_least_rate_of_a_plateau_bounds_its_factor():
  control = make(
    plateau__monitor="train_loss",
    plateau__patience=1,
    plateau__min_lr=0.02,
    optimizer__learning_rate=0.1,
  )
  state = run(control, {"train_loss": [1.0] * 4, "val_accuracy": [0.5] * 4})[-1]
  # Whatever rate the schedule has reached, which the callbacks do not see.
  np.testing.assert_allclose(control.lr_scale(state), 0.2, rtol=1e-6)


def test_each_seed_stops_and_selects_on_its_own():
  control = make(
    early_stopping__monitor="val_loss",
    early_stopping__patience=2,
    select__monitor="val_loss",
    select__mode="min",
    plateau__monitor="val_loss",
    plateau__patience=1,
    plateau__factor=0.5,
  )
  losses = [[1.0, 1.0], [1.1, 0.9], [1.2, 0.8], [0.1, 0.7], [0.1, 0.9], [0.1, 0.9]]
  states = run(control, {"val_loss": losses}, vmapped=True)
  assert [control.is_stopped(s) for s in states] == [False] * 5 + [True]
  # The first seed stopped after its third epoch: what came later does not count for it.
  assert control.best_epochs(states[-1]) == [1, 4]
  np.testing.assert_array_equal(np.asarray(control.is_improved(states[3])), [False, True])
  np.testing.assert_allclose(control.lr_scale(states[2]), [0.25, 1.0])
