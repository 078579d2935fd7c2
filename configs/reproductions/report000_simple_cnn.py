"""Report 000, section c: the simple CNN (847,530 parameters), about 88 % in the report.

As there: Adam 1e-3, batches of 128, at most 200 epochs, early stopping on the validation loss after
15 epochs with the best weights restored, the rate halved after 5 down to 1e-6, flips, rotation
and zoom by 5 %.

The report validates on the test images, so its figure, and this one, was selected on the test set.
Keras trains on the last, smaller batch of an epoch too (391 steps); here it is dropped (390).

The recorded run follows the report's log (79.4 % after 9 epochs, 79.3 % there), and falls short at
the end by where it stopped: its validation loss was 0.451 in epoch 23, whose 86.3 % therefore
counts, and 0.452 in epochs 32 and 33, with 87.4 % and 87.5 %. A little less there, and it had gone
on, as the report's run did: its log ends with 87.9 % at a rate halved twice more.
"""

import ml_collections

from configs import default

REPORTED = "about 88 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name = "simple_cnn"
  config.data.normalize = "unit"
  config.data.validation = "test"
  config.num_epochs = 200
  config.batch_size = 128
  config.augment = "random_flip() | random_rotation(0.05) | random_zoom(0.05)"
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.plateau.monitor = "val_loss"
  config.plateau.factor = 0.5
  config.plateau.patience = 5
  config.plateau.min_lr = 1e-6
  config.early_stopping.monitor = "val_loss"
  config.early_stopping.patience = 15
  config.select.monitor = "val_loss"
  config.select.mode = "min"
  return config
