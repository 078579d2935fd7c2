r"""Report 000, section c: the simple CNN of 847,530 parameters, about 88 % validation.

  python main.py --config=configs/reproductions/report000_simple_cnn.py \
    --workdir=runs/report000_simple_cnn

Reported: about 88 % validation accuracy. The printed log ends in epoch 50 with 87.93 % (loss
0.4646) and 96.28 % training accuracy (loss 0.1031), and restores the weights of epoch 35, whose
accuracy is not printed. The report validates on the test images, so its figure, and ours, is
selected on the test set. Ours: 86.3 % with the restored weights, 87.1 % in the last epoch, which
compares with the report's 87.93 %, and at most 87.6 % (benchmarks/results/report000_simple_cnn).

The recipe is the report's: Adam at 1e-3, batches of 128, at most 200 epochs, flips, rotation and
zoom by 5 %. The rate is halved after 5 epochs without a lower validation loss, down to 1e-6. Early
stopping follows after 15 such epochs and restores the best weights. Two differences: Keras also
trains on the smaller last batch of an epoch (391 steps, from which the batch size follows), which
is dropped here (390); and the report shuffles within a buffer of 10,000 images, and this config all
images.

Our run followed the report's log (79.4 % after 9 epochs, 79.3 % there) but stopped earlier. Its
lowest validation loss was 0.451 in epoch 23, so the 86.3 % of that epoch count. Epochs 32 and 33
came close with 0.452, at 87.4 % and 87.5 %. Had they been slightly lower, the run would have
continued like the report's, which ended after two more halvings of the rate.
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
