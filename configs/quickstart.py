"""The first run: a small CNN on CIFAR-10 in a few minutes on two CPU cores.

The simple CNN of report 000 at half its widths (205,018 trainable parameters), SGD with Nesterov
momentum and one cycle of the learning rate. Without a source of CIFAR-10 in reach it trains on
scikit-learn's digits, and says so.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.num_epochs = 5
  config.data.fallback = "digits"
  config.data.epoch_examples = 20_000  # which CIFAR-10 has, and the digits repeated
  config.model.name = "simple_cnn"
  config.model.widths = (16, 32, 64)
  config.model.dense = (128,)
  config.model.dropout = 0.1
  config.augment = "random_flip()"
  config.loss.label_smoothing = 0.1
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 5e-4
  config.schedule.name = "one_cycle"
  config.schedule.pct_start = 0.2
  return config
