"""The lines that say what the callbacks did: every seed by itself."""

import jax.numpy as jnp
import numpy as np

from cifar_jax.training import callback_messages
from cifar_jax.training.callbacks import Callbacks
from configs import default


def make_config(**patience):
  config = default.get_config()
  for section, epochs in patience.items():
    config[section].monitor, config[section].patience = "val_loss", epochs
  config.plateau.factor = 0.5
  return config


def states_of(config, losses):
  """Return the state before the first epoch and after each."""
  callbacks = Callbacks(config)
  states = [callbacks.init()]
  for epoch, loss in enumerate(losses):
    values = {"val_loss": jnp.float32(loss), "val_accuracy": jnp.float32(0)}
    states.append(callbacks.update(states[-1], epoch, values))
  return states


def lines_of(config, losses):
  states = states_of(config, losses)
  lines = []
  for epoch in range(1, len(states)):
    before, after = states[epoch - 1 : epoch + 1]
    lines += callback_messages.describe_changes(config, [0], before, after, epoch, np.array(0.25))
  return lines


def test_the_plateau_names_the_epoch_and_the_new_rate():
  assert lines_of(make_config(plateau=2), [1.0, 1.0, 1.0, 1.0, 1.0]) == [
    "epoch 3: val_loss has not improved for 2 epochs; learning rate 0.25 → 0.125",
    "epoch 5: val_loss has not improved for 2 epochs; learning rate 0.125 → 0.0625",
  ]


def test_an_early_stop_is_named_once():
  config = make_config(early_stopping=1)
  assert lines_of(config, [1.0, 0.5, 0.6, 0.6]) == [
    "epoch 3: val_loss has not improved for 1 epoch; stopping early"
  ]


def test_nothing_is_said_of_an_epoch_in_which_nothing_happens():
  assert lines_of(make_config(plateau=2, early_stopping=2), [1.0, 0.9, 0.8]) == []


def test_of_several_seeds_each_is_named():
  config = make_config(plateau=1)
  alone = [states_of(config, losses)[1:] for losses in ([1.0, 1.0], [1.0, 0.5])]
  before, after = (
    {
      "plateau": pair[0]["plateau"]._replace(
        scale=np.array([state["plateau"].scale for state in pair])
      ),
      "early_stopping": pair[0]["early_stopping"]._replace(
        stopped_epoch=np.array([state["early_stopping"].stopped_epoch for state in pair])
      ),
    }
    for pair in zip(*alone, strict=True)
  )
  for rates in (np.float32(0.25), np.array([0.25, 0.5])):  # the trials of a sweep have several
    lines = callback_messages.describe_changes(config, [7, 8], before, after, 2, rates)
    assert lines == [
      "epoch 2, seed 7: val_loss has not improved for 1 epoch; learning rate 0.25 → 0.125"
    ]


def test_the_selection_names_the_epochs():
  config = default.get_config()
  describe = callback_messages.describe_selection
  assert describe(config, [0], [35]) == (
    "Restored the weights of epoch 35: val_accuracy was highest"
  )
  assert describe(config, [3, 4], [2, 0]) == (
    "Restored the weights of epoch 2 (seed 3), the start (seed 4): val_accuracy was highest"
  )
