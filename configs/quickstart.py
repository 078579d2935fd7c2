"""A small CNN on CIFAR-10 for two CPU cores: a few minutes to more than 70 % test accuracy."""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.data.fallback = "digits"
  config.model.name = "simple_cnn"
  config.model.widths = (16, 32, 64)
  config.num_epochs = 6
  config.batch_size = 128
  config.augment = "random_flip()"
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  config.schedule.name = "one_cycle"
  return config
